//! Floors: the minimal cost of what every call needs on this machine, measured like the service: in a child process
//! with one thread on the service's core, the load on the other.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use patchcord_media::g711::Law;
use patchcord_media::opus::{Decoder, Encoder, Profile, SampleRate};
use patchcord_simulator::{Speech, sound};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use crate::machine;
use crate::table::quantile;

/// The first argument of a child process of this program; the second says which floor.
pub const CHILD: &str = "floor";

const FRAME: Duration = Duration::from_millis(20);
const SETTLE: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(4);
const RTP_HEADER_BYTES: usize = 12;
/// 20 ms of G.711.
const G711_PACKET_BYTES: usize = RTP_HEADER_BYTES + 160;
/// 20 ms of 16 kHz PCM in a WebSocket frame with its mask, as the service sends it.
const TO_AGENT_BYTES: usize = 648;
/// The same without a mask, as an agent sends it.
const FROM_AGENT_BYTES: usize = 644;
/// Long enough for the clock of `/proc`, which counts whole ticks.
const CODEC_FRAMES: usize = 10_000;
const CODEC_PASSES: usize = 5;
const NAP: Duration = Duration::from_millis(2);
const NAPS: u32 = 1_000;

/// Receive, open, seal and send one packet (AES-128-GCM, one socket), in microseconds, with so many senders.
pub async fn udp_echo(senders: usize) -> anyhow::Result<f64> {
    let child = FloorChild::start("udp")?;
    let speech = Speech::caller().looped();
    let mut tasks = JoinSet::new();
    let counts = std::rc::Rc::new(std::cell::Cell::new(0_u64));
    for number in 0..senders {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.connect(child.address).await?;
        let (speech, counts) = (speech.clone(), counts.clone());
        let begin = Instant::now() + phase(number);
        tasks.spawn_local(async move { talk_udp(&socket, &speech, begin, &counts).await });
    }
    child.cost(&counts).await
}

/// Receive and send one packet without encryption, in microseconds, with so many senders.
pub async fn plain_udp_echo(senders: usize) -> anyhow::Result<f64> {
    let child = FloorChild::start("plain_udp")?;
    let mut tasks = JoinSet::new();
    let counts = std::rc::Rc::new(std::cell::Cell::new(0_u64));
    for number in 0..senders {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.connect(child.address).await?;
        let counts = counts.clone();
        let begin = Instant::now() + phase(number);
        tasks.spawn_local(async move { talk_plain_udp(&socket, begin, &counts).await });
    }
    child.cost(&counts).await
}

/// Receive and send one message of 20 ms PCM over loopback TCP, in microseconds, with so many connections.
pub async fn tcp_echo(connections: usize) -> anyhow::Result<f64> {
    let child = FloorChild::start("tcp")?;
    let mut tasks = JoinSet::new();
    let counts = std::rc::Rc::new(std::cell::Cell::new(0_u64));
    for number in 0..connections {
        let stream = TcpStream::connect(child.address).await?;
        stream.set_nodelay(true)?;
        let counts = counts.clone();
        let begin = Instant::now() + phase(number);
        tasks.spawn_local(async move { talk_tcp(&stream, begin, &counts).await });
    }
    child.cost(&counts).await
}

/// Decode and encode 20 ms of real speech with nothing else going on, in microseconds of processor time.
pub async fn codec() -> anyhow::Result<f64> {
    number_of("codec").await
}

/// Wake-up latency of this machine. Measured before a service uses the core.
pub async fn punctuality() -> anyhow::Result<String> {
    let late_ms = number_of("nap").await?;
    Ok(format!("A thread that only sleeps wakes up to {late_ms:.2} ms late on this core just now (p99)."))
}

/// Decode and encode 20 ms between Opus and mu-law at 8 kHz, in microseconds of processor time.
pub async fn phone_codec() -> anyhow::Result<f64> {
    number_of("phone_codec").await
}

async fn number_of(what: &str) -> anyhow::Result<f64> {
    let child = FloorChild::spawn(what)?;
    let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await??;
    String::from_utf8_lossy(&output.stdout).trim().parse().context("a floor's child said no number")
}

/// The child process's side.
#[expect(clippy::print_stdout, reason = "how the child answers")]
pub async fn serve(what: &str) -> anyhow::Result<()> {
    match what {
        "udp" => {
            let socket = UdpSocket::bind("127.0.0.1:0").await?;
            println!("{}", socket.local_addr()?);
            std::io::stdout().flush()?;
            echo_udp(&socket).await
        }
        "plain_udp" => {
            let socket = UdpSocket::bind("127.0.0.1:0").await?;
            println!("{}", socket.local_addr()?);
            std::io::stdout().flush()?;
            echo_plain_udp(&socket).await
        }
        "tcp" => {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            println!("{}", listener.local_addr()?);
            std::io::stdout().flush()?;
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                tokio::task::spawn_local(async move { drop(echo_tcp(&stream).await) });
            }
        }
        "codec" => {
            println!("{}", code_speech()?);
            Ok(())
        }
        "phone_codec" => {
            println!("{}", code_phone_speech()?);
            Ok(())
        }
        "nap" => {
            println!("{}", nap());
            Ok(())
        }
        other => anyhow::bail!("there is no floor {other:?}"),
    }
}

/// A floor's process. Dropping it kills it.
struct FloorChild {
    child: Child,
    address: SocketAddr,
}

impl FloorChild {
    fn spawn(what: &str) -> anyhow::Result<Child> {
        let program = std::env::current_exe()?;
        machine::pinned(crate::SERVICE_CORE, &program)
            .args([CHILD, what])
            .stdout(Stdio::piped())
            .spawn()
            .context("start a floor's process")
    }

    fn start(what: &str) -> anyhow::Result<Self> {
        let mut child = Self::spawn(what)?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("a floor's output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        Ok(Self { child, address: line.trim().parse().context("a floor's address")? })
    }

    /// Microseconds for each of the counted echoes.
    async fn cost(&self, counts: &std::cell::Cell<u64>) -> anyhow::Result<f64> {
        tokio::time::sleep(SETTLE).await;
        let (before, used) = (counts.get(), machine::usage(self.child.id())?);
        tokio::time::sleep(WINDOW).await;
        let used = machine::usage(self.child.id())? - used;
        let echoes = counts.get() - before;
        anyhow::ensure!(echoes > 0, "nothing came back from a floor");
        Ok(used.process.as_secs_f64() * 1e6 / echoes as f64)
    }
}

impl Drop for FloorChild {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Spread by the golden ratio, as the phones are.
fn phase(number: usize) -> Duration {
    FRAME.mul_f64((number as f64 * 0.618_033_988_75).fract())
}

fn key() -> anyhow::Result<LessSafeKey> {
    let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).map_err(|_| anyhow::anyhow!("an AES key"))?;
    Ok(LessSafeKey::new(key))
}

fn nonce(packet: &[u8]) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&packet[..4]);
    Nonce::assume_unique_for_key(bytes)
}

async fn talk_udp(
    socket: &UdpSocket,
    speech: &Speech,
    begin: Instant,
    counts: &std::cell::Cell<u64>,
) -> anyhow::Result<()> {
    let (key, mut next_at, mut buffer) = (key()?, begin, [0; 2048]);
    let mut packet = Vec::new();
    for number in 0_u32.. {
        tokio::time::sleep_until(next_at.into()).await;
        next_at += FRAME;
        packet.clear();
        packet.extend_from_slice(&number.to_be_bytes());
        packet.resize(RTP_HEADER_BYTES, 0);
        packet.extend_from_slice(&speech.frame(number as usize));
        seal(&key, &mut packet)?;
        let _ = socket.try_send(&packet);
        while tokio::time::timeout_at(next_at.into(), socket.readable()).await.is_ok() {
            while socket.try_recv(&mut buffer).is_ok() {
                counts.set(counts.get() + 1);
            }
        }
    }
    Ok(())
}

async fn echo_udp(socket: &UdpSocket) -> anyhow::Result<()> {
    let key = key()?;
    let (mut buffer, mut packet) = ([0; 2048], Vec::with_capacity(2048));
    loop {
        socket.readable().await?;
        while let Ok((length, from)) = socket.try_recv_from(&mut buffer) {
            packet.clear();
            packet.extend_from_slice(&buffer[..length]);
            let (header, body) = packet.split_at_mut(RTP_HEADER_BYTES);
            let plain = key
                .open_in_place(nonce(header), Aad::from(&*header), body)
                .map_err(|_| anyhow::anyhow!("a packet that does not open"))?
                .len();
            packet.truncate(RTP_HEADER_BYTES + plain);
            seal(&key, &mut packet)?;
            let _ = socket.try_send_to(&packet, from);
        }
    }
}

async fn talk_plain_udp(socket: &UdpSocket, begin: Instant, counts: &std::cell::Cell<u64>) -> anyhow::Result<()> {
    let (packet, mut next_at, mut buffer) = ([7; G711_PACKET_BYTES], begin, [0; 2048]);
    loop {
        tokio::time::sleep_until(next_at.into()).await;
        next_at += FRAME;
        let _ = socket.try_send(&packet);
        while tokio::time::timeout_at(next_at.into(), socket.readable()).await.is_ok() {
            while socket.try_recv(&mut buffer).is_ok() {
                counts.set(counts.get() + 1);
            }
        }
    }
}

async fn echo_plain_udp(socket: &UdpSocket) -> anyhow::Result<()> {
    let mut packet = [0; 2048];
    loop {
        socket.readable().await?;
        while let Ok((length, from)) = socket.try_recv_from(&mut packet) {
            let _ = socket.try_send_to(&packet[..length], from);
        }
    }
}

/// Seals everything behind the header in place and adds the tag.
fn seal(key: &LessSafeKey, packet: &mut Vec<u8>) -> anyhow::Result<()> {
    let (header, body) = packet.split_at_mut(RTP_HEADER_BYTES);
    let tag = key
        .seal_in_place_separate_tag(nonce(header), Aad::from(&*header), body)
        .map_err(|_| anyhow::anyhow!("a packet that does not seal"))?;
    packet.extend_from_slice(tag.as_ref());
    Ok(())
}

async fn talk_tcp(stream: &TcpStream, begin: Instant, counts: &std::cell::Cell<u64>) -> anyhow::Result<()> {
    let (message, mut buffer, mut next_at, mut got) = ([7; FROM_AGENT_BYTES], [0; 4096], begin, 0);
    loop {
        tokio::time::sleep_until(next_at.into()).await;
        next_at += FRAME;
        stream.try_write(&message)?;
        while tokio::time::timeout_at(next_at.into(), stream.readable()).await.is_ok() {
            while let Ok(length) = stream.try_read(&mut buffer) {
                anyhow::ensure!(length > 0, "closed");
                got += length;
            }
            counts.set(counts.get() + (got / TO_AGENT_BYTES) as u64);
            got %= TO_AGENT_BYTES;
        }
    }
}

async fn echo_tcp(stream: &TcpStream) -> anyhow::Result<()> {
    let (mut buffer, message, mut got) = ([0; 4096], [7; TO_AGENT_BYTES], 0);
    loop {
        stream.readable().await?;
        while let Ok(length) = stream.try_read(&mut buffer) {
            anyhow::ensure!(length > 0, "closed");
            got += length;
            while got >= FROM_AGENT_BYTES {
                got -= FROM_AGENT_BYTES;
                stream.try_write(&message)?;
            }
        }
    }
}

/// Lateness of such a thread in milliseconds, p99.
fn nap() -> f64 {
    let began = Instant::now();
    let late = |nap: u32| {
        let due = began + NAP * nap;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due.elapsed().as_secs_f64() * 1e3
    };
    quantile(&mut (1..=NAPS).map(late).collect::<Vec<_>>(), 0.99)
}

fn code_speech() -> anyhow::Result<f64> {
    let (caller, agent) = (Speech::caller().looped(), sound::agent_clip());
    let mut decoder = Decoder::new(SampleRate::Hz16000)?;
    let mut encoder = Encoder::new(SampleRate::Hz16000, Profile::Eco)?;
    let mut frames = agent.chunks_exact(SampleRate::Hz16000.samples_per_frame()).cycle();
    let (mut samples, mut packet) = (Vec::new(), Vec::new());
    median_of_passes(|frame| {
        samples.clear();
        decoder.decode(&caller.frame(frame), &mut samples)?;
        encoder.encode(frames.next().context("a clip")?, &mut packet)?;
        Ok(())
    })
}

fn code_phone_speech() -> anyhow::Result<f64> {
    let rate = SampleRate::Hz8000;
    let caller = Speech::caller().looped();
    let agent: Vec<u8> =
        sound::at_rate(&sound::agent_clip(), 16_000, 8_000).into_iter().map(|sample| Law::Mu.encode(sample)).collect();
    let (mut decoder, mut encoder) = (Decoder::new(rate)?, Encoder::new(rate, Profile::Eco)?);
    let mut frames = agent.chunks_exact(rate.samples_per_frame()).cycle();
    let (mut samples, mut packet, mut to_phone) = (Vec::new(), Vec::new(), Vec::new());
    median_of_passes(|frame| {
        samples.clear();
        decoder.decode(&caller.frame(frame), &mut samples)?;
        to_phone.clear();
        to_phone.extend(samples.iter().map(|sample| Law::Mu.encode(*sample)));
        std::hint::black_box(&to_phone);
        samples.clear();
        samples.extend(frames.next().context("a clip")?.iter().map(|byte| Law::Mu.decode(*byte)));
        encoder.encode(&samples, &mut packet)?;
        Ok(())
    })
}

/// Microseconds of processor time for one frame.
fn median_of_passes(mut work: impl FnMut(usize) -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let mut passes = Vec::new();
    for _ in 0..CODEC_PASSES {
        let before = machine::usage(std::process::id())?;
        for frame in 0..CODEC_FRAMES {
            work(frame)?;
        }
        let used = machine::usage(std::process::id())? - before;
        passes.push(used.process.as_secs_f64() * 1e6 / CODEC_FRAMES as f64);
    }
    Ok(quantile(&mut passes, 0.5))
}
