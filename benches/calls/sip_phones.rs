//! Minimal SIP phones at one address: they answer every INVITE at once and talk, so that one core runs hundreds.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use patchcord_media::g711::Law;
use patchcord_simulator::{Speech, sound};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

const FRAME: Duration = Duration::from_millis(20);
const RTP_HEADER_BYTES: usize = 12;
/// Samples of G.711 in 20 ms.
const G711_FRAME: usize = 160;
const OPUS_TICKS: u32 = 960;

/// What a phone talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// G.711 mu-law.
    Pcmu,
    /// Opus.
    Opus,
}

/// All phones behind one address. Dropping it ends them.
pub struct SipPhones {
    /// For the route.
    pub uri: String,
    shared: Rc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    socket: UdpSocket,
    address: SocketAddr,
    codec: Codec,
    /// One voice for all: an RTP payload for each 20 ms.
    voice: Vec<Vec<u8>>,
    /// By Call-ID.
    calls: RefCell<HashMap<String, Call>>,
    heard: Cell<u64>,
    said: Cell<u64>,
}

struct Call {
    answer: String,
    talking: JoinHandle<()>,
}

impl SipPhones {
    /// Listens on a port of its own.
    pub async fn start(codec: Codec) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let shared = Rc::new(Shared {
            socket,
            address,
            codec,
            voice: voice(codec),
            calls: RefCell::default(),
            heard: Cell::new(0),
            said: Cell::new(0),
        });
        let server = tokio::task::spawn_local({
            let shared = shared.clone();
            async move {
                let mut buffer = vec![0; 8192];
                while let Ok((length, from)) = shared.socket.recv_from(&mut buffer).await {
                    // A message that is not understood is a call without an agent, which the topic sees.
                    let _ = shared.take(&String::from_utf8_lossy(&buffer[..length]), from).await;
                }
            }
        });
        Ok(Self { uri: format!("sip:200@{address}"), shared, server })
    }

    /// RTP packets that all of them heard.
    pub fn heard(&self) -> u64 {
        self.shared.heard.get()
    }

    /// RTP packets that all of them sent.
    pub fn said(&self) -> u64 {
        self.shared.said.get()
    }
}

impl Drop for SipPhones {
    fn drop(&mut self) {
        self.server.abort();
        self.shared.calls.borrow_mut().drain().for_each(|(_, call)| call.talking.abort());
    }
}

impl Shared {
    async fn take(self: &Rc<Self>, message: &str, from: SocketAddr) -> anyhow::Result<()> {
        let method = message.split(' ').next().unwrap_or_default();
        let call_id = header(message, "Call-ID").context("a Call-ID")?;
        match method {
            "SIP/2.0" | "ACK" => {}
            "INVITE" => {
                if !self.calls.borrow().contains_key(call_id) {
                    let call = self.answer(message).await?;
                    self.calls.borrow_mut().insert(call_id.to_owned(), call);
                }
                let answer = self.calls.borrow().get(call_id).map(|call| call.answer.clone());
                self.socket.send_to(answer.context("a call")?.as_bytes(), from).await?;
            }
            _ => {
                if method == "BYE"
                    && let Some(call) = self.calls.borrow_mut().remove(call_id)
                {
                    call.talking.abort();
                }
                self.socket.send_to(self.response(message, "")?.as_bytes(), from).await?;
            }
        }
        Ok(())
    }

    /// A phone of its own.
    async fn answer(self: &Rc<Self>, invite: &str) -> anyhow::Result<Call> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let line = |prefix: &str| invite.lines().find_map(|line| line.strip_prefix(prefix)).map(str::trim);
        let host = line("c=IN IP4 ").context("an address")?;
        let port = line("m=audio ").and_then(|media| media.split(' ').next()).context("a port")?;
        socket.connect((host, port.parse()?)).await?;
        let (number, format) = match self.codec {
            Codec::Pcmu => (0, "PCMU/8000"),
            Codec::Opus => {
                let map = invite.lines().find(|line| line.contains("opus/48000/2")).context("Opus in the offer")?;
                let number =
                    map.strip_prefix("a=rtpmap:").and_then(|rest| rest.split(' ').next()).context("a number")?;
                (number.parse()?, "opus/48000/2")
            }
        };
        let sdp = format!(
            "v=0\r\no=x 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {} RTP/AVP {number}\r\n\
             a=rtpmap:{number} {format}\r\n",
            socket.local_addr()?.port()
        );
        let answer = self.response(invite, &sdp)?;
        let shared = self.clone();
        let talking = tokio::task::spawn_local(async move { drop(shared.talk(&socket, number).await) });
        Ok(Call { answer, talking })
    }

    fn response(&self, request: &str, sdp: &str) -> anyhow::Result<String> {
        let of = |name: &str| header(request, name).with_context(|| name.to_owned());
        let to = of("To")?;
        let tag = if to.contains(";tag=") { "" } else { ";tag=1" };
        let kind = if sdp.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        Ok(format!(
            "SIP/2.0 200 OK\r\nVia: {}\r\nFrom: {}\r\nTo: {to}{tag}\r\nCall-ID: {}\r\nCSeq: {}\r\n\
             Contact: <sip:200@{}>\r\n{kind}Content-Length: {}\r\n\r\n{sdp}",
            of("Via")?,
            of("From")?,
            of("Call-ID")?,
            of("CSeq")?,
            self.address,
            sdp.len()
        ))
    }

    async fn talk(&self, socket: &UdpSocket, number: u8) -> anyhow::Result<()> {
        // Phones do not talk in step.
        let mut next_at = Instant::now() + FRAME.mul_f64(rand::random());
        let (ssrc, begin) = (rand::random::<u32>(), rand::random::<u16>());
        let ticks = if self.codec == Codec::Opus { OPUS_TICKS } else { G711_FRAME as u32 };
        let (mut packet, mut buffer) = (Vec::new(), [0; 2048]);
        for frame in 0_u32.. {
            tokio::time::sleep_until(next_at.into()).await;
            next_at += FRAME;
            packet.clear();
            packet.extend([0x80, number]);
            packet.extend(begin.wrapping_add(frame as u16).to_be_bytes());
            packet.extend(frame.wrapping_mul(ticks).to_be_bytes());
            packet.extend(ssrc.to_be_bytes());
            packet.extend(&self.voice[frame as usize % self.voice.len()]);
            // The service may have hung up.
            if socket.try_send(&packet).is_ok() {
                self.said.set(self.said.get() + 1);
            }
            while tokio::time::timeout_at(next_at.into(), socket.readable()).await.is_ok() {
                while let Ok(length) = socket.try_recv(&mut buffer) {
                    let is_audio = length > RTP_HEADER_BYTES && buffer[1] & 0x7f == number;
                    self.heard.set(self.heard.get() + u64::from(is_audio));
                }
            }
        }
        Ok(())
    }
}

fn voice(codec: Codec) -> Vec<Vec<u8>> {
    match codec {
        Codec::Opus => {
            let speech = Speech::agent();
            (0..speech.len()).map(|at| speech.frame(at).to_vec()).collect()
        }
        Codec::Pcmu => {
            let pcm = sound::at_rate(&sound::agent_clip(), 16_000, 8_000);
            pcm.chunks_exact(G711_FRAME)
                .map(|frame| frame.iter().map(|sample| Law::Mu.encode(*sample)).collect())
                .collect()
        }
    }
}

fn header<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    let of = |line: &'a str| line.split_once(':').filter(|(other, _)| other.eq_ignore_ascii_case(name));
    message.lines().find_map(|line| of(line).map(|(_, value)| value.trim()))
}
