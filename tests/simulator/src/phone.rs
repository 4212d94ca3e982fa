//! A WhatsApp phone behind Meta's relay: ICE-lite, DTLS-SRTP, Opus. Pure: datagrams, commands and time go
//! in; datagrams, events and a deadline come out.

pub mod answer;
pub mod ear;
pub(crate) mod echo;
pub mod line;
pub mod offer;
pub mod options;
pub(crate) mod shell;
pub(crate) mod stack;
pub mod voice;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use str0m::config::Fingerprint;
use str0m::media::{MediaKind, Mid, Pt, Rid};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{RtpPacket, RtpWrite, Ssrc};
use str0m::{Candidate, Event, IceCreds, Input, Output, Rtc};

use crate::objection::Objection;
use crate::speech::Speech;
use answer::Answer;
use ear::HeardPacket;
use echo::EchoWatch;
use line::{LineWatch, RtpHead};
use offer::OfferParts;
use voice::{KeyPacket, Voice, VoicePacket};

pub use options::PhoneOptions;

/// Payload type of Opus in every offer of WhatsApp.
pub const OPUS: u8 = 111;
/// Payload type of telephone events (RFC 4733) in every offer of WhatsApp.
pub const TELEPHONE_EVENT: u8 = 126;
/// One packet's worth of sound.
pub const FRAME: Duration = Duration::from_millis(20);
/// RTP timestamp units in one frame.
pub const TICKS_PER_FRAME: u32 = 960;

/// Senders that a phone may speak as.
const MOST_SENDERS: usize = 64;

/// SSRCs a phone listens to; a service that uses more has long been objected to.
const MOST_SSRCS: usize = 8;

/// What a phone wants its shell to do.
#[derive(Debug)]
pub enum PhoneOutput {
    /// Send a datagram from one of the phone's own addresses.
    Transmit {
        /// The phone's address.
        source: SocketAddr,
        /// The service's.
        destination: SocketAddr,
        /// The datagram.
        datagram: Vec<u8>,
    },
    /// Something happened.
    Event(PhoneEvent),
}

/// What happens to a phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PhoneEvent {
    /// ICE and DTLS are through.
    MediaUp,
    /// A packet arrived and was decrypted.
    Heard(HeardPacket),
    /// A burst of sound came back after this time.
    Echo(Duration),
    /// Something was wrong.
    Objected(Objection),
    /// Nothing was heard for the phone's patience after accept: it hangs up (138021).
    HeardNothing,
    /// Nobody accepted in time.
    RangInVain,
}

/// What went through a phone so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PhoneCounts {
    /// RTP packets sent.
    pub sent: u64,
    /// RTP packets received and decrypted.
    pub received: u64,
    /// Datagrams that came before Meta had our answer, and were dropped.
    pub dropped_deaf: u64,
    /// Missing sequence numbers as received.
    pub lost: u64,
    /// Longest time between two received packets.
    pub longest_gap: Duration,
}

/// How far the call is, as the phone sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Rings; Meta has no answer, so every datagram is dropped.
    Deaf,
    /// Meta has the answer: ICE and DTLS may run.
    Answered,
    /// Accepted: talks and listens.
    Accepted,
    /// Over, or vanished without a word: does nothing any more.
    Gone,
}

/// An SSRC of a phone, and where its line stood when another took over.
struct Sender {
    ssrc: Ssrc,
    line: (u64, u32),
}

/// One phone. See the module.
pub struct Phone {
    rtc: Rtc,
    rtc_deadline: Instant,
    mid: Mid,
    /// Of those this phone has spoken as, the one that speaks.
    sender: usize,
    senders: Vec<Sender>,
    random: StdRng,
    offer: String,
    options: PhoneOptions,
    standing: Standing,
    media_up: bool,
    voice: Voice,
    watch: LineWatch,
    echo: Option<EchoWatch>,
    ssrcs_heard: Vec<u32>,
    last_heard: Option<(u16, Instant)>,
    patience_until: Instant,
    counts: PhoneCounts,
    outputs: VecDeque<PhoneOutput>,
}

/// What str0m tells the senders of one media section apart by; it is not sent.
fn name_of(sender: usize) -> Rid {
    Rid::from(format!("s{sender}").as_str())
}

impl std::fmt::Debug for Phone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Phone").field("standing", &self.standing).field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Phone {
    /// A phone that listens on the given addresses (at most one of each family) and has its offer ready.
    ///
    /// # Errors
    /// When an address cannot be a candidate.
    pub fn new(options: PhoneOptions, addresses: &[SocketAddr], unix_ms: u128, now: Instant) -> anyhow::Result<Self> {
        let mut random = StdRng::seed_from_u64(options.seed);
        let credentials =
            IceCreds { ufrag: offer::random_ufrag(&mut random), pass: offer::random_password(&mut random) };
        let ssrc: u32 = random.random_range(1..u32::MAX);
        let stream = offer::random_stream(&mut random);
        let sequence = options.first_sequence.unwrap_or_else(|| random.random_range(0..32_768));
        let timestamp = options.first_timestamp.unwrap_or_else(|| random.random());
        let mut rtc = stack::config(&credentials).build(now);
        for address in addresses {
            let candidate = Candidate::host(*address, "udp").context("a host candidate")?;
            rtc.add_local_candidate(candidate);
        }
        let mid = Mid::from("audio");
        let ssrc = Ssrc::from(ssrc);
        let mut direct = rtc.direct_api();
        direct.set_ice_lite(true);
        direct.set_ice_controlling(false);
        direct.declare_media(mid, MediaKind::Audio);
        direct.declare_stream_tx(ssrc, None, mid, Some(name_of(0)));
        let fingerprint: Vec<String> =
            direct.local_dtls_fingerprint().bytes.iter().map(|byte| format!("{byte:02X}")).collect();
        let offer = offer::offer_text(&OfferParts {
            unix_ms,
            addresses,
            ufrag: &credentials.ufrag,
            password: &credentials.pass,
            fingerprint: &fingerprint.join(":"),
            ssrc: *ssrc,
            stream: &stream,
            quirks: &options.quirks,
        });
        let mut voice = Voice::new(options.speech.clone(), options.clock_drift_ppm, sequence, timestamp);
        voice.set_dtx(options.dtx);
        let mut phone = Self {
            rtc,
            rtc_deadline: now,
            mid,
            sender: 0,
            senders: vec![Sender { ssrc, line: (0, 0) }],
            random,
            offer,
            standing: Standing::Deaf,
            media_up: false,
            voice,
            watch: LineWatch::new(options.late_after),
            echo: options.measures_echo.then(EchoWatch::default),
            ssrcs_heard: Vec::new(),
            last_heard: None,
            patience_until: now + options.ring_patience,
            counts: PhoneCounts::default(),
            outputs: VecDeque::new(),
            options,
        };
        phone.feed(Input::Timeout(now));
        Ok(phone)
    }

    /// The SDP offer that Meta hands to the service.
    #[must_use]
    pub fn offer(&self) -> &str {
        &self.offer
    }

    /// The RTP source of what this phone sends.
    #[must_use]
    pub fn ssrc(&self) -> u32 {
        *self.senders[self.sender].ssrc
    }

    /// What went through so far.
    #[must_use]
    pub fn counts(&self) -> PhoneCounts {
        self.counts
    }

    /// Meta received the service's answer: from now on its datagrams count.
    pub fn learn_answer(&mut self, answer: &Answer, now: Instant) {
        if self.standing != Standing::Deaf {
            return;
        }
        self.standing = Standing::Answered;
        let mut direct = self.rtc.direct_api();
        direct.set_remote_ice_credentials(IceCreds { ufrag: answer.ufrag.clone(), pass: answer.password.clone() });
        direct
            .set_remote_fingerprint(Fingerprint { hash_func: "sha-256".to_owned(), bytes: answer.fingerprint.clone() });
        // An active answer makes the phone the DTLS server.
        if let Err(error) = direct.start_dtls(!answer.active) {
            self.fail(&error.to_string());
        }
        self.feed(Input::Timeout(now));
    }

    /// Meta replies 200 to `accept`: the caller hears and is heard.
    pub fn accepted(&mut self, now: Instant) {
        if !matches!(self.standing, Standing::Answered) {
            return;
        }
        self.standing = Standing::Accepted;
        self.patience_until = now + self.options.patience;
        if self.media_up {
            // A frame later, so that the reply to accept is on its way first.
            self.voice.start(now + FRAME);
        }
    }

    /// A datagram as it reached the phone's socket, before the simulated network: judged, not heard.
    pub fn witness(&mut self, datagram: &[u8], now: Instant) {
        let Some(head) = RtpHead::read(datagram) else { return };
        if self.standing == Standing::Gone {
            return;
        }
        let accepted = self.standing == Standing::Accepted;
        for objection in self.watch.watch(head, accepted, now) {
            self.object(objection);
        }
    }

    /// A datagram as the network delivers it to the phone.
    pub fn receive(&mut self, source: SocketAddr, destination: SocketAddr, datagram: &[u8], now: Instant) {
        match self.standing {
            Standing::Deaf => {
                self.counts.dropped_deaf += 1;
                return;
            }
            Standing::Gone => return,
            Standing::Answered | Standing::Accepted => {}
        }
        if let Some(head) = RtpHead::read(datagram) {
            self.expect_ssrc(head.ssrc);
        }
        // Whatever cannot be told apart as STUN, DTLS, RTP or RTCP is nothing to a phone.
        if let Ok(receive) = Receive::new(Protocol::Udp, source, destination, datagram) {
            self.feed(Input::Receive(now, receive));
        }
    }

    /// Time has come to `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.standing == Standing::Gone {
            return;
        }
        self.speak(now);
        if now >= self.rtc_deadline {
            self.feed(Input::Timeout(now));
        }
        if now >= self.patience_until {
            let event =
                if self.standing == Standing::Accepted { PhoneEvent::HeardNothing } else { PhoneEvent::RangInVain };
            self.outputs.push_back(PhoneOutput::Event(event));
            self.vanish();
        }
    }

    /// When [`Phone::handle_timeout`] is wanted next; None once the phone is gone.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.standing == Standing::Gone {
            return None;
        }
        let earliest = self.rtc_deadline.min(self.patience_until);
        Some(self.voice.next_at().map_or(earliest, |at| at.min(earliest)))
    }

    /// The next thing the shell has to do.
    pub fn poll_output(&mut self) -> Option<PhoneOutput> {
        self.outputs.pop_front()
    }

    /// Presses keys: RFC 4733 events on the phone's one SSRC. Unknown characters are skipped.
    pub fn send_dtmf(&mut self, digits: &str) {
        self.voice.press(digits);
    }

    /// Sends these packets of a key in place of the next frames.
    pub fn send_key_packets(&mut self, packets: &[KeyPacket]) {
        self.voice.press_packets(packets);
    }

    /// Goes on as another sender, with numbers of its own; one that comes back goes on where it stood.
    pub fn speak_as(&mut self, sender: usize) {
        let sender = sender.min(MOST_SENDERS - 1);
        while self.senders.len() <= sender {
            let ssrc = Ssrc::from(self.random.random_range(1..u32::MAX));
            let name = name_of(self.senders.len());
            self.rtc.direct_api().declare_stream_tx(ssrc, None, self.mid, Some(name));
            let line = (self.random.random_range(0..32_768), self.random.random());
            self.senders.push(Sender { ssrc, line });
        }
        self.senders[self.sender].line = self.voice.line();
        self.sender = sender;
        self.voice.set_line(self.senders[sender].line);
    }

    /// Says something else from the next frame on.
    pub fn say(&mut self, speech: Speech) {
        self.voice.say(speech);
    }

    /// Sends no more RTP, as a muted client might; ICE and RTCP go on.
    pub fn go_silent(&mut self) {
        self.voice.stop();
    }

    /// Sends RTP again.
    pub fn speak_again(&mut self, now: Instant) {
        if self.media_up && self.standing == Standing::Accepted {
            self.voice.start(now);
        }
    }

    /// Does nothing any more: after a hang-up, or as a phone that fell into the sea.
    pub fn vanish(&mut self) {
        self.standing = Standing::Gone;
        self.voice.stop();
    }

    fn speak(&mut self, now: Instant) {
        let packets = self.voice.speak(now);
        if packets.is_empty() {
            return;
        }
        for packet in packets {
            self.write(packet, now);
        }
        self.feed(Input::Timeout(now));
    }

    fn write(&mut self, packet: VoicePacket, now: Instant) {
        let mut direct = self.rtc.direct_api();
        let Some(stream) = direct.stream_tx(&self.senders[self.sender].ssrc) else { return };
        if let Some(echo) = &mut self.echo {
            echo.said(packet.payload.len(), now);
        }
        let write = RtpWrite::new(
            Pt::new_with_value(packet.payload_type),
            packet.sequence.into(),
            packet.timestamp,
            now,
            packet.payload,
        );
        stream.write_rtp(write.marker(packet.marker));
        self.counts.sent += 1;
    }

    fn expect_ssrc(&mut self, ssrc: u32) {
        if !self.ssrcs_heard.contains(&ssrc) && self.ssrcs_heard.len() < MOST_SSRCS {
            self.ssrcs_heard.push(ssrc);
            // A phone never asks for packets again.
            self.rtc.direct_api().expect_stream_rx(ssrc.into(), None, self.mid, None).suppress_nack(true);
        }
    }

    fn feed(&mut self, input: Input<'_>) {
        let now = match &input {
            Input::Timeout(now) | Input::Receive(now, _) => *now,
        };
        if let Err(error) = self.rtc.handle_input(input) {
            self.fail(&error.to_string());
            return;
        }
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Transmit(transmit)) => self.outputs.push_back(PhoneOutput::Transmit {
                    source: transmit.source,
                    destination: transmit.destination,
                    datagram: transmit.contents.to_vec(),
                }),
                Ok(Output::Event(event)) => self.on_event(event, now),
                Ok(Output::Timeout(at)) => {
                    self.rtc_deadline = at;
                    return;
                }
                Err(error) => return self.fail(&error.to_string()),
            }
        }
    }

    fn on_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Connected if !self.media_up => {
                self.media_up = true;
                self.outputs.push_back(PhoneOutput::Event(PhoneEvent::MediaUp));
                if self.standing == Standing::Accepted || self.options.talk_before_accept {
                    self.voice.start(now);
                }
            }
            Event::RtpPacket(packet) => self.hear(packet, now),
            _ => {}
        }
    }

    fn hear(&mut self, packet: RtpPacket, now: Instant) {
        self.counts.received += 1;
        if let Some((sequence, at)) = self.last_heard {
            let ahead = packet.header.sequence_number.wrapping_sub(sequence);
            if (2..1000).contains(&ahead) {
                self.counts.lost += u64::from(ahead) - 1;
            }
            self.counts.longest_gap = self.counts.longest_gap.max(now.saturating_duration_since(at));
        }
        self.last_heard = Some((packet.header.sequence_number, now));
        if self.standing == Standing::Accepted {
            self.patience_until = now + self.options.patience_mid_call;
        }
        if let Some(took) = self.echo.as_mut().and_then(|echo| echo.heard(packet.payload.len(), now)) {
            self.outputs.push_back(PhoneOutput::Event(PhoneEvent::Echo(took)));
        }
        if !self.options.report_packets && self.counts.received > 1 {
            return;
        }
        let samples = opus::packet::get_nb_samples(&packet.payload, 48_000).unwrap_or(0) as u32;
        if *packet.header.payload_type == OPUS && samples != TICKS_PER_FRAME {
            self.object(Objection::NotTwentyMs { step: samples });
        }
        self.outputs.push_back(PhoneOutput::Event(PhoneEvent::Heard(HeardPacket {
            at: now,
            payload_type: *packet.header.payload_type,
            seq: packet.header.sequence_number,
            timestamp: packet.header.timestamp,
            ssrc: *packet.header.ssrc,
            marker: packet.header.marker,
            len: packet.payload.len(),
            payload: packet.payload,
        })));
    }

    fn object(&mut self, objection: Objection) {
        self.outputs.push_back(PhoneOutput::Event(PhoneEvent::Objected(objection)));
    }

    fn fail(&mut self, reason: &str) {
        self.object(Objection::Transport(reason.to_owned()));
        // The stack is beyond use; ringing and patience go on, as they would at Meta.
        self.rtc.disconnect();
        self.rtc_deadline = self.patience_until;
    }
}
