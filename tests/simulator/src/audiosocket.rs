//! An agent that speaks Asterisk's AudioSocket: a TCP server of three-byte headers, as its own page describes it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::DEADLINE;
use crate::sound::{self, PHONE_RATE};

/// Pieces that wait to be sent.
const OUTBOX: usize = 1024;

/// A running agent. Dropping it closes its port.
#[derive(Debug)]
pub struct AudioSocketAgent {
    address: SocketAddr,
    calls: watch::Receiver<Vec<AudioSocketCall>>,
    server: JoinHandle<()>,
}

impl AudioSocketAgent {
    /// Starts an agent on a port of its own, which says what it says at `sample_rate`: 8000, 16000, 24000 or 48000 Hz.
    ///
    /// # Errors
    /// When no port is to be had.
    pub async fn start(sample_rate: u32) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("bind an AudioSocket agent")?;
        let address = listener.local_addr()?;
        let (sender, calls) = watch::channel(Vec::new());
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                sender.send_modify(|calls| calls.push(AudioSocketCall::serve(stream, sample_rate)));
            }
        });
        Ok(Self { address, calls, server })
    }

    /// What to write as `agent` into a route.
    #[must_use]
    pub fn url(&self) -> String {
        format!("audiosocket://{}", self.address)
    }

    /// Waits for the n-th call (from 1), at most 10 s.
    ///
    /// # Errors
    /// When time is up.
    pub async fn wait_for_call(&self, nth: usize) -> anyhow::Result<AudioSocketCall> {
        let mut calls = self.calls.clone();
        let come = tokio::time::timeout(DEADLINE, calls.wait_for(|calls| calls.len() >= nth)).await;
        Ok(come.with_context(|| format!("no call {nth} came to an AudioSocket agent"))??[nth - 1].clone())
    }
}

impl Drop for AudioSocketAgent {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// One connection of the service. Clones are the same one.
#[derive(Clone, Debug)]
pub struct AudioSocketCall {
    sample_rate: u32,
    record: Arc<Mutex<Record>>,
    changed: watch::Receiver<()>,
    outbox: mpsc::Sender<Order>,
}

#[derive(Debug)]
enum Order {
    Bytes(Vec<u8>),
    /// Closes the half that sends.
    Finish,
}

#[derive(Debug, Default)]
struct Record {
    /// The kinds of all frames but audio, in order.
    kinds: Vec<u8>,
    uuid: Vec<u8>,
    keys: String,
    /// The kind of the last audio, and the sizes of all.
    audio_kind: u8,
    audio_sizes: Vec<usize>,
    heard: Vec<i16>,
    is_over: bool,
}

impl AudioSocketCall {
    fn serve(stream: TcpStream, sample_rate: u32) -> Self {
        let (reader, mut writer) = stream.into_split();
        let (outbox, mut orders) = mpsc::channel(OUTBOX);
        let (news, changed) = watch::channel(());
        let call = Self { sample_rate, record: Arc::default(), changed, outbox };
        let reading = call.clone();
        tokio::spawn(async move {
            // The end of the stream, or of the connection.
            let _ = reading.read(reader, &news).await;
            reading.lock().is_over = true;
            news.send_replace(());
        });
        tokio::spawn(async move {
            while let Some(order) = orders.recv().await {
                let done = match order {
                    Order::Bytes(bytes) => writer.write_all(&bytes).await,
                    Order::Finish => writer.shutdown().await,
                };
                if done.is_err() {
                    break;
                }
            }
        });
        call
    }

    async fn read(&self, mut reader: OwnedReadHalf, news: &watch::Sender<()>) -> std::io::Result<()> {
        loop {
            let kind = reader.read_u8().await?;
            let length = reader.read_u16().await?;
            let mut payload = vec![0; length.into()];
            reader.read_exact(&mut payload).await?;
            let mut record = self.lock();
            match kind {
                0x10..=0x18 => {
                    record.audio_kind = kind;
                    record.audio_sizes.push(payload.len());
                    let samples = payload.chunks_exact(2).map(|two| i16::from_le_bytes([two[0], two[1]]));
                    record.heard.extend(samples);
                }
                _ => record.kinds.push(kind),
            }
            match kind {
                0x01 => record.uuid = payload,
                0x03 => record.keys.extend(payload.iter().map(|key| char::from(*key))),
                _ => {}
            }
            drop(record);
            news.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The UUID, as 32 hexadecimal digits.
    #[must_use]
    pub fn uuid(&self) -> String {
        self.lock().uuid.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The kinds of all frames but audio, in order.
    #[must_use]
    pub fn kinds(&self) -> Vec<u8> {
        self.lock().kinds.clone()
    }

    /// The kind of the service's audio, and the sizes in bytes that its frames have.
    #[must_use]
    pub fn audio(&self) -> (u8, Vec<usize>) {
        let record = self.lock();
        let mut sizes = record.audio_sizes.clone();
        sizes.sort_unstable();
        sizes.dedup();
        (record.audio_kind, sizes)
    }

    /// Says this, at the phone's rate, all at once, in frames of 20 ms.
    pub async fn say(&self, pcm: &[i16]) {
        let kind = match self.sample_rate {
            8_000 => 0x10,
            16_000 => 0x12,
            24_000 => 0x13,
            44_100 => 0x15,
            192_000 => 0x18,
            _ => 0x16,
        };
        let pcm = sound::at_rate(pcm, PHONE_RATE, self.sample_rate);
        for frame in pcm.chunks((self.sample_rate / 50) as usize) {
            let samples: Vec<u8> = frame.iter().flat_map(|sample| sample.to_le_bytes()).collect();
            self.send_frame(kind, &samples).await;
        }
    }

    /// Sends a frame.
    pub async fn send_frame(&self, kind: u8, payload: &[u8]) {
        let length = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
        self.send_bytes([&[kind], &length[..], payload].concat()).await;
    }

    /// Sends any bytes.
    pub async fn send_bytes(&self, bytes: Vec<u8>) {
        // A connection that is over takes nothing, and the scenario's next wait says so.
        let _ = self.outbox.send(Order::Bytes(bytes)).await;
    }

    /// Hangs up by a frame.
    pub async fn hang_up(&self) {
        self.send_frame(0x00, &[]).await;
    }

    /// Hangs up by closing its half of the connection.
    pub async fn finish(&self) {
        let _ = self.outbox.send(Order::Finish).await;
    }

    /// Waits until these keys of the caller came.
    ///
    /// # Errors
    /// When time is up.
    pub async fn wait_for_keys(&self, keys: &str) -> anyhow::Result<()> {
        self.wait_until(&format!("keys {keys}"), |record| record.keys == keys).await
    }

    /// Waits until it has heard this tone for a while. `sample_rate` is what the service sends, in Hz.
    ///
    /// # Errors
    /// When time is up.
    pub async fn wait_for_tone(&self, hz: f64, sample_rate: u32) -> anyhow::Result<()> {
        let window = (sample_rate / 2) as usize;
        self.wait_until(&format!("a tone of {hz} Hz"), |record| {
            let latest = &record.heard[record.heard.len().saturating_sub(window)..];
            latest.len() == window && sound::hears(latest, sample_rate, hz)
        })
        .await
    }

    /// Waits until the service has closed the connection.
    ///
    /// # Errors
    /// When time is up.
    pub async fn wait_for_end(&self) -> anyhow::Result<()> {
        self.wait_until("the end", |record| record.is_over).await
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
            _ => {
                let record = self.lock();
                bail!("no {what}; {} samples, keys {:?}, frames {:?}", record.heard.len(), record.keys, record.kinds)
            }
        }
    }
}
