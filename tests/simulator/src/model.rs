//! Stand-ins for speech models, strict: a message that the vendor would refuse ends the session, and the scenario learns why.

mod vendor;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::DEADLINE;
use crate::sound;
use vendor::Heard;
pub use vendor::Vendor;

/// Messages that wait to be sent.
const OUTBOX: usize = 4096;

/// A running stand-in. Dropping it closes its port.
#[derive(Debug)]
pub struct Model {
    address: SocketAddr,
    sessions: watch::Receiver<Vec<ModelSession>>,
    server: JoinHandle<()>,
}

/// What a stand-in expects and says.
#[derive(Clone, Debug)]
pub struct ModelScript {
    /// Whose protocol.
    pub vendor: Vendor,
    /// The API key that it asks for.
    pub key: String,
    /// What it says when it is to greet: PCM at 24 kHz.
    pub greeting: Vec<i16>,
    /// What it says once it has the results of all functions that it called.
    pub speaks_on: Vec<i16>,
}

impl Model {
    /// Starts a stand-in on a port of its own.
    ///
    /// # Errors
    /// When no port is to be had.
    pub async fn start(script: ModelScript) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("bind a model")?;
        let address = listener.local_addr()?;
        let (sender, sessions) = watch::channel(Vec::new());
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(session) = ModelSession::accept(stream, script.clone()).await {
                    sender.send_modify(|sessions| sessions.push(session));
                }
            }
        });
        Ok(Self { address, sessions, server })
    }

    /// What to write as `model.url` into a route.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://{}/v1", self.address)
    }

    /// Waits for the first session, at most 10 s.
    ///
    /// # Errors
    /// When time is up.
    pub async fn wait_for_session(&self) -> anyhow::Result<ModelSession> {
        self.wait_for_session_number(0).await
    }

    /// Waits for the session that comes after so many others, at most 10 s.
    ///
    /// # Errors
    /// When time is up.
    pub async fn wait_for_session_number(&self, number: usize) -> anyhow::Result<ModelSession> {
        let mut sessions = self.sessions.clone();
        let come = tokio::time::timeout(DEADLINE, sessions.wait_for(|sessions| sessions.len() > number)).await;
        Ok(come.context("no session came to a model")??[number].clone())
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// One session. Clones are the same one.
#[derive(Clone, Debug)]
pub struct ModelSession {
    script: ModelScript,
    record: Arc<Mutex<Record>>,
    changed: watch::Receiver<()>,
    outbox: mpsc::Sender<Message>,
}

#[derive(Debug, Default)]
struct Record {
    /// Path and query.
    path: String,
    messages: Vec<Value>,
    heard: Vec<i16>,
    /// What the service did that the vendor would refuse.
    fault: Option<String>,
    has_ended: bool,
    /// Functions that it waits for.
    open_calls: Vec<String>,
    results: Vec<(String, String)>,
    /// Whether it gives a response, and would refuse to begin another.
    is_responding: bool,
    /// Turns of the caller so far: what the model says after each is an item of its own.
    turns: usize,
}

impl ModelSession {
    async fn accept(stream: TcpStream, script: ModelScript) -> anyhow::Result<Self> {
        let mut record = Record::default();
        #[expect(clippy::result_large_err, reason = "the WebSocket library's own type")]
        let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            record.path = request.uri().to_string();
            let (name, value) = script.vendor.authorization(&script.key);
            let is_known = request.headers().get(name).is_some_and(|given| given.as_bytes() == value.as_bytes());
            if !is_known {
                record.fault = Some("the API key is missing or wrong".to_owned());
            }
            match is_known || script.vendor.turns_away().is_some() {
                true => Ok(response),
                false => {
                    let mut refused = ErrorResponse::new(None);
                    *refused.status_mut() = StatusCode::UNAUTHORIZED;
                    Err(refused)
                }
            }
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, look).await?;
        let (mut sink, mut source) = socket.split();
        let (outbox, mut to_send) = mpsc::channel::<Message>(OUTBOX);
        let (news, changed) = watch::channel(());
        let session = Self { script, record: Arc::new(Mutex::new(record)), changed, outbox };
        let reader = session.clone();
        tokio::spawn(async move {
            let is_known = reader.lock().fault.is_none();
            let vendor = reader.script.vendor;
            for message in if is_known { vendor.hello() } else { vendor.turns_away().unwrap_or_default() } {
                reader.send(message).await;
            }
            while let Some(Ok(message)) = source.next().await {
                let is_fine = reader.take(message).await;
                news.send_replace(());
                if !is_fine {
                    break;
                }
            }
            reader.lock().has_ended = true;
            news.send_replace(());
        });
        tokio::spawn(async move {
            while let Some(message) = to_send.recv().await {
                if sink.send(message).await.is_err() {
                    break;
                }
            }
        });
        Ok(session)
    }

    /// False once the vendor would have ended the session.
    async fn take(&self, message: Message) -> bool {
        if self.lock().fault.is_some() {
            return false;
        }
        let is_first = self.lock().messages.is_empty();
        match self.script.vendor.read(&message, is_first) {
            Ok(Heard::Nothing) => {}
            Ok(Heard::Sound(samples)) => self.lock().heard.extend(samples),
            Ok(Heard::Told(message)) => {
                if let Err(fault) = self.take_result(&message).await {
                    self.lock().fault = Some(fault);
                    return false;
                }
                let replies = self.script.vendor.replies(&message, &self.script.greeting);
                self.lock().messages.push(message);
                for reply in replies {
                    self.send(reply).await;
                }
            }
            Err(fault) => {
                self.lock().fault = Some(fault);
                return false;
            }
        }
        true
    }

    /// The error is what the vendor would refuse.
    async fn take_result(&self, message: &Value) -> Result<(), String> {
        let vendor = self.script.vendor;
        if vendor == Vendor::OpenAi && message["type"] == "response.create" && self.lock().is_responding {
            return Err("conversation_already_has_active_response".to_owned());
        }
        let mut speaks_on = vendor == Vendor::OpenAi
            && message["type"] == "response.create"
            && !message["response"]["instructions"].is_string();
        if let Some((id, result)) = vendor.result_in(message) {
            let mut record = self.lock();
            let open = record.open_calls.iter().position(|open| *open == id);
            record.open_calls.remove(open.ok_or("a result of a function that was not called")?);
            record.results.push((id, result));
            speaks_on = record.open_calls.is_empty() && vendor != Vendor::OpenAi;
        }
        if speaks_on && !self.lock().open_calls.is_empty() {
            return Err("a response is asked for before all functions have a result".to_owned());
        }
        if speaks_on {
            for message in vendor.response(vendor.say("item_after", &self.script.speaks_on)) {
                self.send(message).await;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The path and query that the service asked for.
    #[must_use]
    pub fn path(&self) -> String {
        self.lock().path.clone()
    }

    /// Every message but sound so far, in order.
    #[must_use]
    pub fn messages(&self) -> Vec<Value> {
        self.lock().messages.clone()
    }

    /// Says this, PCM at 24 kHz, faster than real time.
    pub async fn say(&self, pcm: &[i16]) {
        let item_id = format!("item_{}", self.lock().turns);
        for message in self.script.vendor.say(&item_id, pcm) {
            self.send(message).await;
        }
    }

    /// Sends a message as it is.
    pub async fn tell(&self, message: &Value) {
        self.send(Message::text(message.to_string())).await;
    }

    /// Closes the connection with this code.
    pub async fn close(&self, code: u16) {
        self.send(Message::Close(Some(CloseFrame { code: code.into(), reason: "".into() }))).await;
    }

    /// Reports that the caller has begun to speak.
    pub async fn hear_speech(&self) {
        self.lock().turns += 1;
        self.send(self.script.vendor.speech_started()).await;
    }

    /// Calls functions, each by an id of its own, in one response, which lasts until [`end_response`](Self::end_response).
    pub async fn call_functions(&self, calls: &[(&str, &str, Value)]) {
        self.lock().is_responding = self.script.vendor == Vendor::OpenAi;
        for message in self.script.vendor.response_begins() {
            self.send(message).await;
        }
        for (id, name, arguments) in calls {
            self.lock().open_calls.push((*id).to_owned());
            self.send(self.script.vendor.function_call(id, name, arguments)).await;
        }
    }

    /// The response with the function calls is over.
    pub async fn end_response(&self) {
        self.lock().is_responding = false;
        for message in self.script.vendor.response_ends() {
            self.send(message).await;
        }
    }

    /// Waits for the result of the function call with this id.
    ///
    /// # Errors
    /// When time is up or the service made a mistake.
    pub async fn result_of(&self, id: &str) -> anyhow::Result<String> {
        let is_it = |(known, _): &&(String, String)| known == id;
        self.wait_until(&format!("result of {id}"), |record| record.results.iter().any(|result| is_it(&result)))
            .await?;
        let result = self.lock().results.iter().find(is_it).map(|(_, result)| result.clone());
        result.context("it was there")
    }

    async fn send(&self, message: Message) {
        // A session that is over takes nothing, and the scenario's next wait says so.
        let _ = self.outbox.send(message).await;
    }

    /// Waits until it has heard this tone for half a second.
    ///
    /// # Errors
    /// When time is up or the service made a mistake.
    pub async fn wait_for_tone(&self, hz: f64) -> anyhow::Result<()> {
        let window = (vendor::RATE / 2) as usize;
        self.wait_until(&format!("a tone of {hz} Hz"), |record| {
            let latest = &record.heard[record.heard.len().saturating_sub(window)..];
            latest.len() == window && sound::hears(latest, vendor::RATE, hz)
        })
        .await
    }

    /// Waits for a message for which this holds, and gives it.
    ///
    /// # Errors
    /// When time is up or the service made a mistake.
    pub async fn wait_for(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        self.wait_until(what, |record| record.messages.iter().any(&is_it)).await?;
        self.messages().into_iter().find(|message| is_it(message)).context("it was there")
    }

    /// Waits until the service has ended the session.
    ///
    /// # Errors
    /// When time is up or the service made a mistake.
    pub async fn wait_for_end(&self) -> anyhow::Result<()> {
        self.wait_until("the end", |record| record.has_ended).await
    }

    async fn wait_until(&self, what: &str, is_so: impl Fn(&Record) -> bool) -> anyhow::Result<()> {
        let mut changed = self.changed.clone();
        let waiting = async {
            while !is_so(&self.lock()) && self.lock().fault.is_none() {
                if changed.changed().await.is_err() {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(DEADLINE, waiting).await;
        if let Some(fault) = &self.lock().fault {
            bail!("{:?} would refuse the service's message: {fault}", self.script.vendor);
        }
        match is_so(&self.lock()) {
            true => Ok(()),
            false => bail!("no {what} at {:?}; {:?}", self.script.vendor, self.messages()),
        }
    }
}
