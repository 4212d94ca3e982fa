//! An agent that speaks AudioSocket, Asterisk's protocol over TCP: the task that carries its audio and keys. We are the
//! platform: we dial, say the call's UUID, and send 20 ms of the caller in each frame.
//!
//! The protocol has neither marks nor flush, and no ping: an agent may be silent for the whole call. That it is there is
//! seen from TCP, which carries the caller all the time.

pub mod frame;
mod options;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tracing::debug;
use url::Host;

use super::dialect::identity::id_bytes_of;
use super::intake::Intake;
use super::notice::Notice;
use super::port::AgentPort;
use super::unbuffered::Unbuffered;
use super::{Encoding, SocketOptions, SoundFormat};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::descriptors;
use crate::telemetry::shown;
use frame::{Frame, FrameReader};
pub use options::AudioSocketOptions;

/// One read: some frames of 20 ms.
const READ_BYTES: usize = 4 * 1024;
/// An agent that takes no audio for so long is not listening.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// For our last frame to leave, and for the agent to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How a conversation ended.
enum Ending {
    /// The call has no more use for the agent.
    Dismissed,
    /// The agent hung up or closed.
    HungUp,
    Failed(AgentFailure),
}

/// Connects to the agent and talks with it until one side leaves.
pub(super) async fn run(agent: AudioSocketOptions, port: Rc<AgentPort>, options: SocketOptions) {
    let limit = options.connect_timeout;
    let mut standstills = port.standstills();
    let connected = tokio::select! {
        biased;
        _ = port.dismissed() => return,
        connected = standstills.timeout(limit, connect(&agent)) => connected,
    };
    let connected = connected.unwrap_or_else(|_| {
        Err(AgentFailureKind::NoAnswer.because(format!("the TCP connection took longer than {}", shown(limit))))
    });
    match connected {
        Ok(stream) => {
            descriptors::shortage_is_over();
            give_up_after(&stream, options.idle_timeout);
            let (reader, writer) = split(Unbuffered::new(stream));
            let incoming = Incoming {
                reader,
                frames: FrameReader::default(),
                intake: Intake::new(agent.sample_rate),
                hung_up: false,
            };
            let talk = Conversation { agent: &agent, port: &port };
            talk.hold(incoming, Outgoing { writer, unsent: BytesMut::new() }).await;
        }
        Err(failure) => port.failed(failure),
    }
}

async fn connect(agent: &AudioSocketOptions) -> Result<TcpStream, AgentFailure> {
    let refused = |what: &str, error: io::Error| {
        if descriptors::is_shortage(&error) {
            descriptors::tell_shortage(&error);
        }
        AgentFailureKind::Refused.because(format!("{what}: {error}"))
    };
    let addresses = addresses_of(agent).await.map_err(|error| refused("its host name cannot be resolved", error))?;
    let stream = TcpStream::connect(&addresses[..]).await.map_err(|error| refused("no TCP connection", error))?;
    stream.set_nodelay(true).map_err(|error| refused("no TCP connection", error))?;
    Ok(stream)
}

async fn addresses_of(agent: &AudioSocketOptions) -> io::Result<Vec<SocketAddr>> {
    if !agent.addresses.is_empty() {
        return Ok(agent.addresses.clone());
    }
    match &agent.host {
        Host::Domain(name) => Ok(lookup_host((name.as_str(), agent.port)).await?.collect()),
        Host::Ipv4(address) => Ok(vec![(*address, agent.port).into()]),
        Host::Ipv6(address) => Ok(vec![(*address, agent.port).into()]),
    }
}

/// The system ends a connection whose other end acknowledges nothing for this long: that machine is gone. On failure only
/// the default stays, a quarter of an hour.
fn give_up_after(stream: &TcpStream, time: Duration) {
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(time));
    #[cfg(not(target_os = "linux"))]
    let _ = (stream, time);
}

/// The half that reads.
struct Incoming {
    reader: ReadHalf<Unbuffered>,
    frames: FrameReader,
    intake: Intake,
    /// By a frame, in place of a plain close.
    hung_up: bool,
}

/// The half that writes.
struct Outgoing {
    writer: WriteHalf<Unbuffered>,
    /// A frame whose writing was interrupted is finished before the next one.
    unsent: BytesMut,
}

impl Outgoing {
    async fn send(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            if self.writer.write_buf(&mut self.unsent).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}

/// An agent or participant at its open connection.
struct Conversation<'a> {
    agent: &'a AudioSocketOptions,
    port: &'a AgentPort,
}

impl Conversation<'_> {
    /// Talks until one side leaves.
    async fn hold(&self, mut incoming: Incoming, mut outgoing: Outgoing) {
        let id = self.agent.id.unwrap_or_else(|| id_bytes_of(self.port.call_id().as_str()));
        Frame::Id(id).write(&mut outgoing.unsent);
        let format = SoundFormat { encoding: Encoding::PcmS16le, sample_rate: self.agent.sample_rate };
        self.port.attach(format, self.agent.profile);
        self.port.joined();
        let ending = tokio::select! {
            biased;
            _ = self.port.dismissed() => Ending::Dismissed,
            ending = self.read(&mut incoming) => ending,
            ending = self.write(&mut outgoing) => ending,
        };
        let ending = match ending {
            Ending::Failed(failure) if failure.kind == AgentFailureKind::Disconnected => {
                self.after_reset(failure, &mut incoming).await
            }
            ending @ (Ending::Dismissed | Ending::HungUp | Ending::Failed(_)) => ending,
        };
        self.part(ending, incoming.reader, outgoing).await;
    }

    /// An agent that hangs up and closes at once resets the connection, and a write may fail before its last frame is read.
    async fn after_reset(&self, failure: AgentFailure, incoming: &mut Incoming) -> Ending {
        // Whatever comes of it, the connection is over.
        let _ = timeout(CLOSE_TIMEOUT, self.read(incoming)).await;
        if incoming.hung_up { Ending::HungUp } else { Ending::Failed(failure) }
    }

    /// Reads all that the agent sends. Ends when it leaves or is lost.
    async fn read(&self, incoming: &mut Incoming) -> Ending {
        loop {
            incoming.frames.buffer().reserve(READ_BYTES);
            match incoming.reader.read_buf(incoming.frames.buffer()).await {
                // Asterisk takes a plain close for a hang-up too.
                Ok(0) => return Ending::HungUp,
                Ok(_) => {}
                Err(error) => return lost(error),
            }
            loop {
                match incoming.frames.next_frame() {
                    Ok(None) => break,
                    Ok(Some(Frame::HangUp)) => {
                        incoming.hung_up = true;
                        return Ending::HungUp;
                    }
                    Ok(Some(frame)) => {
                        if let Some(ending) = self.take(frame, &mut incoming.intake).await {
                            return ending;
                        }
                    }
                    Err(error) => return Ending::Failed(AgentFailureKind::ProtocolError.because(error)),
                }
            }
        }
    }

    async fn take(&self, frame: Frame, intake: &mut Intake) -> Option<Ending> {
        let broken = |why: String| Some(Ending::Failed(AgentFailureKind::ProtocolError.because(why)));
        match frame {
            Frame::Audio { hz, samples } => {
                let samples = intake.take(hz, samples);
                if !samples.is_empty() {
                    // While its queue is full, it is not read.
                    self.port.back_pressure().await;
                    self.port.say(samples, crate::clock::now());
                }
                None
            }
            Frame::HangUp => Some(Ending::HungUp),
            Frame::Error(None) => broken("it reported an error".to_owned()),
            Frame::Error(Some(code)) => broken(format!("it reported the error {code:#04x}")),
            Frame::Id(_) => broken("it sent a UUID, which only the platform does".to_owned()),
            Frame::Dtmf(_) => broken("it sent a key, which only the platform does".to_owned()),
        }
    }

    /// Sends the caller's audio and keys. Ends only if the agent is lost.
    async fn write(&self, outgoing: &mut Outgoing) -> Ending {
        let mut standstills = self.port.standstills();
        loop {
            match standstills.timeout(WRITE_TIMEOUT, outgoing.send()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return lost(error),
                Err(_) => {
                    let cause = format!("a frame was not taken within {}", shown(WRITE_TIMEOUT));
                    return Ending::Failed(AgentFailureKind::TooSlow.because(cause));
                }
            }
            while let Some(notice) = self.port.next_notice() {
                if let Notice::Dtmf { digit: Some(digit), .. } = notice {
                    Frame::Dtmf(digit).write(&mut outgoing.unsent);
                }
            }
            // One frame at a time, so that what waits behind it can still be dropped for what is newer.
            if outgoing.unsent.is_empty() {
                match self.port.next_sound() {
                    Some(sound) => Frame::audio(self.agent.sample_rate, sound).write(&mut outgoing.unsent),
                    None => self.port.output().await,
                }
            }
        }
    }

    async fn part(&self, ending: Ending, mut reader: ReadHalf<Unbuffered>, mut outgoing: Outgoing) {
        match ending {
            Ending::Dismissed => Frame::HangUp.write(&mut outgoing.unsent),
            Ending::HungUp => drop(self.port.hung_up()),
            Ending::Failed(failure) => {
                self.port.failed(failure);
                Frame::HangUp.write(&mut outgoing.unsent);
            }
        }
        let farewell = async {
            outgoing.send().await?;
            outgoing.writer.shutdown().await?;
            // Unread data makes the system reset the connection, which drops what the agent has not read (RFC 2525
            // §2.17).
            let mut unread = [0; READ_BYTES];
            while reader.read(&mut unread).await? > 0 {}
            io::Result::Ok(())
        };
        if !matches!(timeout(CLOSE_TIMEOUT, farewell).await, Ok(Ok(()))) {
            debug!(call.id = %self.port.call_id(), user = ?self.port.user(), "the agent's connection did not close cleanly");
        }
    }
}

fn lost(error: io::Error) -> Ending {
    // The system's own limit: nothing was acknowledged.
    let kind = match error.kind() == io::ErrorKind::TimedOut {
        true => AgentFailureKind::Unresponsive,
        false => AgentFailureKind::Disconnected,
    };
    Ending::Failed(kind.because(error))
}
