//! The phone's RTP: a tone out, and everything that comes in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::SipPhoneOptions;
use super::srtp::{Cipher, Keys};
use crate::DEADLINE;
use crate::sound::{self, PHONE_RATE};
use crate::watched::Watched;

const FRAME: Duration = Duration::from_millis(20);
/// Samples of G.711 in 20 ms.
const G711_FRAME: usize = 160;
const G711_RATE: u32 = 8_000;
const OPUS_TICKS: u32 = 960;
const KEYS: u8 = 101;
/// Frames from mark to mark, of one mark, and of the pause before the next.
const MARK_EVERY: u32 = 100;
const MARK_FRAMES: u32 = 5;
const PAUSE_FRAMES: u32 = 10;

/// A codec of the phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// G.711 mu-law, payload type 0.
    Pcmu,
    /// G.711 A-law, payload type 8.
    Pcma,
    /// Opus, payload type 111.
    Opus,
}

/// One RTP packet as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhonePacket {
    /// When it arrived.
    pub at: Instant,
    /// Payload type.
    pub payload_type: u8,
    /// RTP sequence number.
    pub sequence: u16,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Who sent it.
    pub ssrc: u32,
    /// The codec's bytes.
    pub payload: Vec<u8>,
}

/// The audio of a phone's call.
pub struct PhoneAudio {
    codec: Codec,
    address: SocketAddr,
    /// What its SDP says instead.
    claims: Option<SocketAddr>,
    /// As in the offer.
    profile: &'static str,
    keys: Option<Keys>,
    heard: Arc<Watched<Vec<PhonePacket>>>,
    marks: Arc<Mutex<Vec<Instant>>>,
    tasks: [JoinHandle<()>; 2],
}

/// Where a phone sends and receives, before it knows with whom.
pub(super) struct PhoneSocket {
    socket: Arc<UdpSocket>,
    address: SocketAddr,
}

impl PhoneAudio {
    /// Sends to where the offer says.
    pub(super) async fn start(offer: &str, options: &SipPhoneOptions) -> anyhow::Result<Arc<Self>> {
        PhoneSocket::bind_for(offer).await?.talk(offer, options)
    }

    /// The phone's SDP.
    #[must_use]
    pub fn sdp(&self, version: u32, direction: &str) -> String {
        let at = self.claims.unwrap_or(self.address);
        sdp(self.codec, at, (self.profile, self.keys.as_ref()), version, direction)
    }

    /// Where it receives.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that arrived so far.
    #[must_use]
    pub fn packets(&self) -> Vec<PhonePacket> {
        self.heard.lock().clone()
    }

    /// Waits until so many packets have arrived.
    ///
    /// # Errors
    /// When they have not in time.
    pub async fn wait_for_packets(&self, count: usize) -> anyhow::Result<()> {
        let arrived = self.heard.wait(|packets| (packets.len() >= count).then_some(()));
        timeout(DEADLINE, arrived).await.with_context(|| format!("{} of {count} packets came", self.packets().len()))
    }

    /// Waits until it has heard just these keys.
    ///
    /// # Errors
    /// When it has not in time; the error says which it heard.
    pub async fn wait_for_digits(&self, wanted: &str) -> anyhow::Result<()> {
        let pressed = self.heard.wait(|packets| (digits(packets) == wanted).then_some(()));
        let heard = timeout(DEADLINE, pressed).await;
        heard.with_context(|| format!("the phone heard the keys {:?}, not {wanted:?}", digits(&self.packets())))
    }

    /// What is wrong with the line that it receives: it should have one SSRC, no gap in the sequence numbers, timestamps that
    /// go on in whole frames at the pace of the clock, through holds as well, and no payload type but the codec's and that
    /// of keys.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let packets = self.packets();
        let (number, ticks) = (self.codec.sdp().0, self.codec.ticks());
        let mut faults = Vec::new();
        let mut last: Option<&PhonePacket> = None;
        for packet in &packets {
            if packet.payload_type != number && packet.payload_type != KEYS {
                faults.push(format!("payload type {}", packet.payload_type));
            }
            if let Some(last) = last {
                let step = packet.timestamp.wrapping_sub(last.timestamp);
                // A key has the timestamp of its beginning in all its packets (RFC 4733 §2.5.1.2).
                let of_key = packet.payload_type == KEYS && last.payload_type == KEYS && step == 0;
                if packet.ssrc != last.ssrc {
                    faults.push("another SSRC".to_owned());
                } else if packet.sequence != last.sequence.wrapping_add(1) {
                    faults.push(format!("sequence {} after {}", packet.sequence, last.sequence));
                } else if !of_key && (step == 0 || step % ticks != 0 || step > u32::MAX / 2) {
                    faults.push(format!("timestamp {} after {}", packet.timestamp, last.timestamp));
                }
            }
            last = Some(packet);
        }
        let (Some(first), Some(last)) = (packets.first(), last) else { return vec!["no packet".to_owned()] };
        let by_timestamps = f64::from(last.timestamp.wrapping_sub(first.timestamp)) / (f64::from(ticks) * 50.0);
        let by_clock = last.at.duration_since(first.at).as_secs_f64();
        if (by_timestamps - by_clock).abs() > 2.0 {
            faults.push(format!("{by_timestamps:.1} s by timestamps, {by_clock:.1} s by the clock"));
        }
        faults
    }

    /// When it sent the first packet of each mark, in G.711.
    #[must_use]
    pub fn marks(&self) -> Vec<Instant> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it heard in the packets from this number on, at [`PHONE_RATE`].
    ///
    /// # Errors
    /// When libopus refuses a packet.
    pub fn heard_since(&self, packet: usize) -> anyhow::Result<Vec<i16>> {
        let packets = self.packets();
        let of_codec = packets.iter().skip(packet).filter(|packet| packet.payload_type == self.codec.sdp().0);
        match self.codec {
            Codec::Opus => {
                let mut decoder = opus::Decoder::new(PHONE_RATE, opus::Channels::Mono)?;
                let mut pcm = Vec::new();
                for packet in of_codec {
                    let mut frame = [0; 2 * PHONE_RATE as usize / 25];
                    let length = decoder.decode(&packet.payload, &mut frame, false)?;
                    pcm.extend(&frame[..length]);
                }
                Ok(pcm)
            }
            Codec::Pcmu | Codec::Pcma => {
                let decode = if self.codec == Codec::Pcmu { from_mu_law } else { from_a_law };
                let pcm: Vec<i16> = of_codec.flat_map(|packet| packet.payload.iter().copied().map(decode)).collect();
                Ok(sound::at_rate(&pcm, G711_RATE, PHONE_RATE))
            }
        }
    }
}

impl PhoneSocket {
    pub async fn bind() -> anyhow::Result<Self> {
        Self::bind_at(Ipv4Addr::LOCALHOST.into()).await
    }

    /// Of the family of the other side.
    async fn bind_for(theirs: &str) -> anyhow::Result<Self> {
        let is_ipv6 = remote_of(theirs)?.is_ipv6();
        Self::bind_at(if is_ipv6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() }).await
    }

    async fn bind_at(ip: IpAddr) -> anyhow::Result<Self> {
        let socket = Arc::new(UdpSocket::bind((ip, 0)).await.context("bind the phone's RTP")?);
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// What it says of itself.
    pub fn sdp(&self, codec: Codec, version: u32, direction: &str) -> String {
        sdp(codec, self.address, ("RTP/AVP", None), version, direction)
    }

    /// Sends to where the other side's SDP says, and hears from now on.
    pub fn talk(&self, theirs: &str, options: &SipPhoneOptions) -> anyhow::Result<Arc<PhoneAudio>> {
        let to = remote_of(theirs)?;
        let keys = options.srtp.map(|suite| Keys::answering(theirs, suite)).transpose()?.flatten();
        let (inbound, outbound) = match &keys {
            Some(keys) => (Some(keys.inbound()?), Some(keys.outbound()?)),
            None => (None, None),
        };
        let profile = if keys.is_some() && theirs.contains("RTP/SAVP") { "RTP/SAVP" } else { "RTP/AVP" };
        let heard: Arc<Watched<Vec<PhonePacket>>> = Arc::default();
        let marks: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let hearing = tokio::spawn(hear(self.socket.clone(), inbound, heard.clone()));
        let talking = tokio::spawn(talk(self.socket.clone(), to, outbound, options.clone(), marks.clone()));
        let (codec, claims, tasks) = (options.codec, options.claims, [hearing, talking]);
        Ok(Arc::new(PhoneAudio { codec, address: self.address, claims, profile, keys, heard, marks, tasks }))
    }
}

fn sdp(codec: Codec, at: SocketAddr, (profile, keys): (&str, Option<&Keys>), version: u32, direction: &str) -> String {
    let (number, rtpmap) = codec.sdp();
    let (family, ip, port) = (if at.is_ipv6() { "IP6" } else { "IP4" }, at.ip(), at.port());
    let crypto = keys.map(Keys::line).unwrap_or_default();
    format!(
        "v=0\r\no=phone 7 {version} IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\n\
         m=audio {port} {profile} {number} {KEYS}\r\na=rtpmap:{number} {rtpmap}\r\n\
         a=rtpmap:{KEYS} telephone-event/8000\r\na=fmtp:{KEYS} 0-15\r\n{crypto}a=ptime:20\r\na={direction}\r\n"
    )
}

impl Drop for PhoneAudio {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Codec {
    /// Of a frame.
    fn ticks(self) -> u32 {
        match self {
            Self::Pcmu | Self::Pcma => G711_FRAME as u32,
            Self::Opus => OPUS_TICKS,
        }
    }

    fn sdp(self) -> (u8, &'static str) {
        match self {
            Self::Pcmu => (0, "PCMU/8000"),
            Self::Pcma => (8, "PCMA/8000"),
            Self::Opus => (111, "opus/48000/2"),
        }
    }
}

async fn hear(socket: Arc<UdpSocket>, mut cipher: Option<Cipher>, heard: Arc<Watched<Vec<PhonePacket>>>) {
    let mut buffer = [0; 2048];
    while let Ok((length, _)) = socket.recv_from(&mut buffer).await {
        let packet = &buffer[..length];
        // RTCP has packet types 64 to 95 in the place of the payload type (RFC 5761).
        let is_rtp = length > 12 && packet[0] == 0x80 && !(64..96).contains(&(packet[1] & 0x7f));
        let plain = match &mut cipher {
            Some(cipher) if is_rtp => cipher.decrypt(packet),
            Some(_) | None => is_rtp.then(|| packet.to_vec()),
        };
        if let Some(packet) = plain {
            let word = |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
            heard.lock().push(PhonePacket {
                at: Instant::now(),
                payload_type: packet[1] & 0x7f,
                sequence: u16::from_be_bytes([packet[2], packet[3]]),
                timestamp: word(4),
                ssrc: word(8),
                payload: packet[12..].to_vec(),
            });
        }
    }
}

async fn talk(
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    mut cipher: Option<Cipher>,
    options: SipPhoneOptions,
    marks: Arc<Mutex<Vec<Instant>>>,
) {
    let voice = sound::tone(options.tone_hz, G711_RATE, 1000);
    let silence = vec![0; voice.len()];
    let mark = options.mark_hz.map(|hertz| sound::tone(hertz, G711_RATE, 1000));
    let (number, ssrc) = (options.codec.sdp().0, rand::random::<u32>());
    let nanos = FRAME.as_nanos() as i64;
    let frame = Duration::from_nanos((nanos - nanos * i64::from(options.clock_drift_ppm) / 1_000_000) as u64);
    let mut clock = tokio::time::interval(frame);
    for count in 0_u32.. {
        clock.tick().await;
        let in_period = count % MARK_EVERY;
        let marked = mark.as_ref().filter(|_| in_period < MARK_FRAMES);
        if marked.is_some() && in_period == 0 {
            marks.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        }
        let pauses = mark.is_some() && in_period >= MARK_EVERY - PAUSE_FRAMES;
        let voice = if pauses { &silence } else { marked.unwrap_or(&voice) };
        let g711 = |encode: fn(i16) -> u8| -> Vec<u8> {
            let start = count as usize * G711_FRAME % voice.len();
            voice[start..start + G711_FRAME].iter().copied().map(encode).collect()
        };
        let (ticks, payload) = match options.codec {
            Codec::Pcmu => (G711_FRAME as u32, g711(to_mu_law)),
            Codec::Pcma => (G711_FRAME as u32, g711(to_a_law)),
            Codec::Opus => (OPUS_TICKS, options.speech.frame(count as usize).to_vec()),
        };
        let mut packet = vec![0x80, number | if count == 0 { 0x80 } else { 0 }];
        packet.extend(options.first_sequence.wrapping_add(count as u16).to_be_bytes());
        packet.extend(count.wrapping_mul(ticks).to_be_bytes());
        packet.extend(ssrc.to_be_bytes());
        packet.extend(payload);
        if let Some(cipher) = &mut cipher {
            packet = cipher.encrypt(&packet).expect("its keys have the right lengths");
        }
        // The other side may have gone.
        let _ = socket.send_to(&packet, to).await;
    }
}

/// The keys in these packets, by those that mark their end.
fn digits(packets: &[PhonePacket]) -> String {
    let mut last = None;
    let mut digits = String::new();
    for packet in packets.iter().filter(|packet| packet.payload_type == KEYS) {
        let is_end = packet.payload.get(1).is_some_and(|flags| flags & 0x80 != 0);
        if is_end && last != Some(packet.timestamp) {
            last = Some(packet.timestamp);
            digits.extend(packet.payload.first().and_then(|event| "0123456789*#ABCD".chars().nth(usize::from(*event))));
        }
    }
    digits
}

/// Where an SDP wants its RTP.
fn remote_of(sdp: &str) -> anyhow::Result<SocketAddr> {
    let line = |prefix: &str| sdp.lines().find_map(|line| line.strip_prefix(prefix)).map(str::trim);
    let ip = line("c=IN IP4 ").or(line("c=IN IP6 ")).context("an address in the offer")?.parse()?;
    let port = line("m=audio ").and_then(|media| media.split(' ').next()).context("a port in the offer")?.parse()?;
    Ok(SocketAddr::new(ip, port))
}

/// ITU-T G.711 mu-law, by its definition.
pub(crate) fn to_mu_law(sample: i16) -> u8 {
    let (sign, magnitude) = if sample < 0 { (0x80, -i32::from(sample)) } else { (0, i32::from(sample)) };
    let biased = magnitude.min(32_635) + 132;
    let segment = (31 - biased.leading_zeros() as i32) - 7;
    let step = (biased >> (segment + 3)) & 0x0f;
    !(sign | (segment << 4) | step) as u8
}

pub(crate) fn from_mu_law(byte: u8) -> i16 {
    let byte = i32::from(!byte);
    let (segment, step) = ((byte >> 4) & 7, byte & 0x0f);
    let magnitude = (((step << 3) + 132) << segment) - 132;
    (if byte & 0x80 != 0 { -magnitude } else { magnitude }) as i16
}

/// ITU-T G.711 A-law, by its definition.
fn to_a_law(sample: i16) -> u8 {
    let (sign, magnitude) = if sample < 0 { (0, -i32::from(sample) - 1) } else { (0x80, i32::from(sample)) };
    let magnitude = magnitude.clamp(0, 32_767) >> 3;
    let (segment, step) = match magnitude {
        0..32 => (0, magnitude >> 1),
        _ => {
            let segment = (31 - magnitude.leading_zeros() as i32) - 4;
            (segment, (magnitude >> segment) & 0x0f)
        }
    };
    ((sign | (segment << 4) | step) ^ 0x55) as u8
}

fn from_a_law(byte: u8) -> i16 {
    let byte = i32::from(byte ^ 0x55);
    let (segment, step) = ((byte >> 4) & 7, byte & 0x0f);
    let magnitude = match segment {
        0 => (step << 4) + 8,
        _ => ((step << 4) + 0x108) << (segment - 1),
    };
    (if byte & 0x80 != 0 { magnitude } else { -magnitude }) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_laws_keep_a_sample_to_a_few_percent() {
        for sample in (-32_000..32_000).step_by(97) {
            for heard in [from_mu_law(to_mu_law(sample)), from_a_law(to_a_law(sample))] {
                let error = (i32::from(heard) - i32::from(sample)).abs();
                assert!(error <= i32::from(sample).abs() / 16 + 20, "{sample} became {heard}");
            }
        }
        // ITU-T G.711: silence.
        assert_eq!((to_mu_law(0), to_a_law(0)), (0xff, 0xd5));
    }
}
