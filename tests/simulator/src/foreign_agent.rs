//! Agents that speak the protocols of other platforms: WebSocket servers as apps of Twilio, Vonage and the others write them.

mod words;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::DEADLINE;
use crate::sound::{self, PHONE_RATE};
pub use words::Protocol;

/// Messages that wait to be sent.
const OUTBOX: usize = 1024;
/// Messages kept of one call; an endless one is a bug of the scenario.
const MOST_MESSAGES: usize = 100_000;

/// A running agent. Dropping it closes its port.
#[derive(Debug)]
pub struct ForeignAgent {
    address: SocketAddr,
    calls: watch::Receiver<Vec<ForeignCall>>,
    server: JoinHandle<()>,
}

impl ForeignAgent {
    /// Starts an agent on a port of its own. `sample_rate` is what the service is to send, in Hz.
    ///
    /// # Errors
    /// When no port is to be had.
    pub async fn start(protocol: Protocol, sample_rate: u32) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("bind a foreign agent")?;
        let address = listener.local_addr()?;
        let (sender, calls) = watch::channel(Vec::new());
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(call) = ForeignCall::accept(stream, protocol, sample_rate).await {
                    sender.send_modify(|calls| calls.push(call));
                }
            }
        });
        Ok(Self { address, calls, server })
    }

    /// What to write as `agent` into a route.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://{}/media", self.address)
    }

    /// Waits for the n-th call (from 1), at most 10 s.
    ///
    /// # Errors
    /// When time is up.
    pub async fn wait_for_call(&self, nth: usize) -> anyhow::Result<ForeignCall> {
        let mut calls = self.calls.clone();
        let come = tokio::time::timeout(DEADLINE, calls.wait_for(|calls| calls.len() >= nth)).await;
        Ok(come.with_context(|| format!("no call {nth} came to a foreign agent"))??[nth - 1].clone())
    }
}

impl Drop for ForeignAgent {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// One connection of the service. Clones are the same one.
#[derive(Clone, Debug)]
pub struct ForeignCall {
    protocol: Protocol,
    sample_rate: u32,
    record: Arc<Mutex<Record>>,
    changed: watch::Receiver<()>,
    outbox: mpsc::Sender<Message>,
}

#[derive(Debug, Default)]
struct Record {
    headers: Vec<(String, String)>,
    /// Control messages: JSON, or plain text as a string.
    messages: Vec<Value>,
    heard: Vec<i16>,
    /// The close code, or 1006 of a connection that broke.
    ended: Option<u16>,
}

impl ForeignCall {
    async fn accept(stream: TcpStream, protocol: Protocol, sample_rate: u32) -> anyhow::Result<Self> {
        let mut record = Record::default();
        #[expect(clippy::result_large_err, reason = "the WebSocket library's own type")]
        let look = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
            let headers = request.headers().iter();
            record.headers =
                headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("").to_owned())).collect();
            if let Some(subprotocol) = protocol.subprotocol() {
                response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(subprotocol));
            }
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, look).await?;
        Ok(Self::serve(socket, record, protocol, sample_rate))
    }

    /// Opens a WebSocket to the service: an app that comes by itself.
    ///
    /// # Errors
    /// When the service does not open the WebSocket.
    pub async fn open(protocol: Protocol, sample_rate: u32, url: &str) -> anyhow::Result<Self> {
        let mut request = url.into_client_request()?;
        if let Some(subprotocol) = protocol.subprotocol() {
            request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(subprotocol));
        }
        let stream = TcpStream::connect(request.uri().authority().context("an address")?.as_str()).await?;
        let (socket, answer) = tokio_tungstenite::client_async(request, stream).await?;
        let headers = answer.headers().iter();
        let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("").to_owned()));
        Ok(Self::serve(socket, Record { headers: headers.collect(), ..Record::default() }, protocol, sample_rate))
    }

    fn serve(socket: WebSocketStream<TcpStream>, record: Record, protocol: Protocol, sample_rate: u32) -> Self {
        let (mut sink, mut source) = socket.split();
        let (outbox, mut to_send) = mpsc::channel::<Message>(OUTBOX);
        let (news, changed) = watch::channel(());
        let call = Self { protocol, sample_rate, record: Arc::new(Mutex::new(record)), changed, outbox };
        let reader = call.clone();
        tokio::spawn(async move {
            let mut ended = 1006;
            while let Some(Ok(message)) = source.next().await {
                match message {
                    Message::Text(text) => reader.take_text(&text),
                    Message::Binary(bytes) => reader.lock().heard.extend(protocol.samples(&bytes, sample_rate)),
                    Message::Close(frame) => {
                        ended = frame.map_or(1005, |frame| frame.code.into());
                        break;
                    }
                    Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                }
                news.send_replace(());
            }
            reader.lock().ended = Some(ended);
            news.send_replace(());
        });
        tokio::spawn(async move {
            while let Some(message) = to_send.recv().await {
                if sink.send(message).await.is_err() {
                    break;
                }
            }
        });
        call
    }

    fn take_text(&self, text: &Utf8Bytes) {
        let message = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_string()));
        let mut record = self.lock();
        match self.protocol.sound_of(&message, self.sample_rate) {
            Some(samples) => record.heard.extend(samples),
            None if record.messages.len() < MOST_MESSAGES => record.messages.push(message),
            None => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A header of the service's request or answer, by its lower-case name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        self.lock().headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    /// Every control message so far, in order.
    #[must_use]
    pub fn messages(&self) -> Vec<Value> {
        self.lock().messages.clone()
    }

    /// What it has heard, at the phone's rate.
    #[must_use]
    pub fn heard(&self) -> Vec<i16> {
        sound::at_rate(&self.lock().heard, self.sample_rate, PHONE_RATE)
    }

    /// Says this, at the phone's rate, all at once.
    pub async fn say(&self, pcm: &[i16]) {
        for message in self.protocol.say(&sound::at_rate(pcm, PHONE_RATE, self.sample_rate), self.sample_rate) {
            self.send(message).await;
        }
    }

    /// Asks to be told when what it said so far was heard.
    pub async fn mark(&self, name: &str) {
        self.send(Message::text(self.protocol.mark(name))).await;
    }

    /// Drops what it said and the caller has not heard.
    pub async fn clear(&self) {
        self.send(Message::text(self.protocol.clear())).await;
    }

    /// Hangs up as apps of the protocol do: by a message, or by closing.
    pub async fn hang_up(&self) {
        match self.protocol.hang_up() {
            Some(text) => self.send(Message::text(text)).await,
            None => {
                let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::from_static("") };
                self.send(Message::Close(Some(frame))).await;
            }
        }
    }

    /// Closes as a server that restarts does.
    pub async fn restart(&self) {
        let frame = CloseFrame { code: CloseCode::Restart, reason: Utf8Bytes::from_static("") };
        self.send(Message::Close(Some(frame))).await;
    }

    /// Sends any text.
    pub async fn send_text(&self, text: &str) {
        self.send(Message::text(text)).await;
    }

    async fn send(&self, message: Message) {
        // A connection that is over takes nothing, and the scenario's next wait says so.
        let _ = self.outbox.send(message).await;
    }

    /// Waits until the mark of this name came back.
    ///
    /// # Errors
    /// When time is up; the text has what came.
    pub async fn wait_for_mark(&self, name: &str) -> anyhow::Result<()> {
        self.wait_until(&format!("mark {name}"), |record| {
            record.messages.iter().any(|message| self.protocol.is_mark(message, name))
        })
        .await
    }

    /// Waits until this key of the caller came.
    ///
    /// # Errors
    /// When time is up; the text has what came.
    pub async fn wait_for_key(&self, digit: char) -> anyhow::Result<()> {
        self.wait_until(&format!("key {digit}"), |record| {
            record.messages.iter().any(|message| self.protocol.is_key(message, digit))
        })
        .await
    }

    /// Waits until it has heard this tone for a while.
    ///
    /// # Errors
    /// When time is up; the text has what came.
    pub async fn wait_for_tone(&self, hz: f64) -> anyhow::Result<()> {
        let window = (self.sample_rate / 2) as usize;
        self.wait_until(&format!("a tone of {hz} Hz"), |record| {
            let latest = &record.heard[record.heard.len().saturating_sub(window)..];
            latest.len() == window && sound::hears(latest, self.sample_rate, hz)
        })
        .await
    }

    /// Waits for the end, and gives the close code.
    ///
    /// # Errors
    /// When time is up; the text has what came.
    pub async fn wait_for_end(&self) -> anyhow::Result<u16> {
        self.wait_until("the end", |record| record.ended.is_some()).await?;
        Ok(self.lock().ended.unwrap_or_default())
    }

    async fn wait_until(&self, what: &str, is_so: impl Fn(&Record) -> bool) -> anyhow::Result<()> {
        let mut changed = self.changed.clone();
        let waiting = async {
            while !is_so(&self.lock()) {
                if changed.changed().await.is_err() {
                    return is_so(&self.lock());
                }
            }
            true
        };
        match tokio::time::timeout(DEADLINE, waiting).await {
            Ok(true) => Ok(()),
            _ => bail!("no {what} in {:?}; {} samples, {:?}", self.protocol, self.lock().heard.len(), self.messages()),
        }
    }
}
