//! A simulated phone over good and bad networks, with a clock of its own.

use std::f64::consts::TAU;
use std::sync::LazyLock;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::audio_terms::Codec;
use crate::g711::Law;
use crate::opus::{Encoder, Profile, inspect};
use crate::plain_rtp::{PlainRtp, PlainRtpOptions};
use crate::rtcp::is_rtcp;
use crate::rtp::RtpHeader;
use crate::rtp_leg::MediaFailure;
use crate::sdp::phone::{Encryption, PhoneDescription, PhoneSession, PhoneSessionOptions};

const OURS: &str = "203.0.113.7:40000";
const PHONE: &str = "198.51.100.4:5004";
const MS: Duration = Duration::from_millis(1);
/// The phone's voice, and the caller's.
const VOICE: f64 = 440.0;
const CALLER: f64 = 700.0;

/// What the phone's SDP says beside its address.
fn offer(formats: &str, lines: &str) -> PhoneDescription {
    let text = format!(
        "v=0\r\no=- 1 1 IN IP4 198.51.100.4\r\ns=-\r\nc=IN IP4 198.51.100.4\r\nt=0 0\r\nm=audio 5004 RTP/AVP {formats}\r\n\
         a=rtpmap:107 opus/48000/2\r\na=rtpmap:101 telephone-event/8000\r\na=rtpmap:102 telephone-event/48000\r\n{lines}"
    );
    PhoneDescription::parse(&text).unwrap()
}

struct Scene {
    session: PhoneSession,
    leg: PhoneLeg,
    start: Instant,
    now: Instant,
    /// On their way to the leg, by their time of arrival.
    flying: Vec<(Instant, Vec<u8>)>,
    chance: StdRng,
    loss: f64,
    jitter: Duration,
    phone: Phone,
    /// What the call hears.
    heard: Vec<i16>,
    packets: Vec<Bytes>,
    events: Vec<RtpLegEvent>,
    /// What the phone has received.
    wire: Vec<(RtpHeader, Vec<u8>)>,
}

struct Phone {
    payload_type: u8,
    sequence: u16,
    timestamp: u32,
    /// Samples said.
    said: usize,
    next_at: Instant,
}

impl Scene {
    fn new(formats: &str, lines: &str) -> Self {
        let now = Instant::now();
        let address = OURS.parse().unwrap();
        let options = PhoneSessionOptions { address, codecs: Codec::ALL.to_vec(), encryption: Encryption::Accepted };
        let mut session = PhoneSession::new(options);
        let terms = session.answer(&offer(formats, lines)).unwrap().terms;
        let plain = PlainRtpOptions { socket: address, ssrc: 1, allow_private: false, latching: None };
        let options = RtpLegOptions {
            ssrc: 1,
            first_sequence: 65_500,
            first_timestamp: u32::MAX - 5000,
            audio: terms.audio,
            silence_warn_after: Duration::from_secs(5),
            silence_end_after: Duration::from_secs(30),
        };
        let mut leg = PhoneLeg::new(PlainRtp::new(plain, &terms, now).unwrap(), &options, now);
        leg.start(now);
        let phone = Phone { payload_type: 0, sequence: 65_000, timestamp: u32::MAX - 9000, said: 0, next_at: now };
        Self {
            session,
            leg,
            start: now,
            now,
            flying: Vec::new(),
            chance: StdRng::seed_from_u64(5),
            loss: 0.0,
            jitter: Duration::ZERO,
            phone,
            heard: Vec::new(),
            packets: Vec::new(),
            events: Vec::new(),
            wire: Vec::new(),
        }
    }

    fn renegotiate(&mut self, formats: &str, lines: &str) {
        let terms = self.session.answer(&offer(formats, lines)).unwrap().terms;
        self.leg.renegotiate(&terms, self.now).unwrap();
    }

    /// The phone sends a packet of G.711 every `length`, whose clock runs at `rate` of ours, while `says` gives samples.
    fn talk(&mut self, time: Duration, length: Duration, rate: f64, says: impl Fn(usize) -> i16) {
        let end = self.now + time;
        self.phone.next_at = self.now;
        while self.now < end {
            if self.phone.next_at <= self.now {
                let samples = 8 * length.as_millis() as usize;
                let from = self.phone.said;
                let payload: Vec<u8> = (from..from + samples).map(|index| Law::Mu.encode(says(index))).collect();
                self.phone.said += samples;
                self.send(self.phone.payload_type, &payload);
                self.phone.timestamp = self.phone.timestamp.wrapping_add(samples as u32);
                self.phone.next_at += length.div_f64(rate);
            }
            self.step();
        }
    }

    /// The phone sends nothing.
    fn rest(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
        self.phone.timestamp = self.phone.timestamp.wrapping_add(8 * time.as_millis() as u32);
    }

    fn send(&mut self, payload_type: u8, payload: &[u8]) {
        let Phone { sequence, timestamp, .. } = self.phone;
        self.send_stamped(payload_type, sequence, timestamp, payload);
        self.phone.sequence = sequence.wrapping_add(1);
    }

    fn send_stamped(&mut self, payload_type: u8, sequence: u16, timestamp: u32, payload: &[u8]) {
        let header = RtpHeader { payload_type, marker: false, sequence, timestamp, ssrc: 77 };
        let late = self.jitter.mul_f64(self.chance.random());
        if !self.chance.random_bool(self.loss) {
            self.flying.push((self.now + late, [&header.to_bytes()[..], payload].concat()));
        }
    }

    /// One millisecond.
    fn step(&mut self) {
        let now = self.now;
        for (_, datagram) in self.flying.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
            self.leg.receive(OURS.parse().unwrap(), PHONE.parse().unwrap(), &datagram, self.now);
            self.drain();
        }
        if self.leg.poll_timeout().is_some_and(|at| at <= self.now) {
            self.leg.handle_timeout(self.now);
            self.drain();
        }
        self.now += MS;
    }

    fn drain(&mut self) {
        let is_pcm = self.leg.rate().is_some();
        while let Some(audio) = self.leg.poll_audio() {
            match is_pcm {
                true => self.heard.extend(audio.chunks(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]]))),
                false => self.packets.push(audio),
            }
        }
        while let Some(event) = self.leg.poll_event() {
            self.events.push(event);
        }
        while let Some(transmit) = self.leg.poll_transmit() {
            if let Some((header, length)) = RtpHeader::parse(&transmit.data).filter(|_| !is_rtcp(&transmit.data)) {
                self.wire.push((header, transmit.data[length..].to_vec()));
            }
        }
    }

    /// The call says a tone to the phone, 20 ms at a time.
    fn say(&mut self, frames: usize) {
        for frame in 0..frames {
            let pcm: Vec<u8> =
                (160 * frame..160 * (frame + 1)).flat_map(|index| tone(CALLER, index).to_le_bytes()).collect();
            self.leg.send_audio(&pcm, self.now);
            self.drain();
            self.rest(FRAME);
        }
    }

    fn length_of_heard(&self) -> Duration {
        FRAME * (self.heard.len() / 160) as u32
    }
}

/// A sine of 1 Hz at 8 kHz: minutes of tones would spend their time computing sines.
static SINE: LazyLock<Vec<f64>> =
    LazyLock::new(|| (0..8000).map(|index| (f64::from(index) * TAU / 8000.0).sin()).collect());

/// Of whole Hz.
fn sine(hz: f64, index: usize) -> f64 {
    SINE[index * hz as usize % 8000]
}

fn tone(hz: f64, index: usize) -> i16 {
    (sine(hz, index) * 8000.0) as i16
}

/// Amplitude of a frequency in some samples.
fn amplitude(hz: f64, samples: &[i16]) -> f64 {
    let (mut cosine, mut sines) = (0.0, 0.0);
    for (index, sample) in samples.iter().enumerate() {
        cosine += f64::from(*sample) * SINE[(index * hz as usize + 2000) % 8000];
        sines += f64::from(*sample) * sine(hz, index);
    }
    2.0 * f64::hypot(cosine, sines) / samples.len().max(1) as f64
}

/// Share of the 20 ms frames in which the tone is loud.
fn share_with(hz: f64, samples: &[i16]) -> f64 {
    let frames: Vec<_> = samples.chunks_exact(160).collect();
    frames.iter().filter(|frame| amplitude(hz, frame) > 5000.0).count() as f64 / frames.len() as f64
}

#[test]
fn packets_of_every_length_are_heard_whole() {
    for length in [10, 20, 30, 60] {
        let mut scene = Scene::new("0 101", "");
        scene.talk(Duration::from_secs(10), length * MS, 1.0, |index| tone(VOICE, index));
        let heard = &scene.heard[8000..];
        println!("{length} ms: {} of tone, delay {:?}", share_with(VOICE, heard), scene.leg.jitter_delay());
        assert!(share_with(VOICE, heard) > 0.99, "{length} ms");
        assert!(scene.length_of_heard().abs_diff(Duration::from_secs(10)) <= 6 * FRAME, "{length} ms");
        assert_eq!(scene.leg.stats().lost, 0);
    }
}

/// Five minutes of speech and pauses, 200 ppm off, with jitter: frames come without end, and words stay whole.
#[test]
fn a_clock_that_is_200_ppm_off_costs_neither_words_nor_delay() {
    for rate in [1.0 - 200e-6, 1.0 + 200e-6] {
        let mut scene = Scene::new("0 101", "");
        scene.jitter = 15 * MS;
        // 1.6 s of every 2 s are speech; a pause has some noise.
        let speech = |index: usize| if index % 16_000 < 12_800 { tone(VOICE, index) } else { (index % 7) as i16 * 8 };
        scene.talk(Duration::from_secs(300), FRAME, rate, speech);
        assert!(
            scene.length_of_heard().abs_diff(Duration::from_secs(300)) <= 4 * FRAME,
            "{:?}",
            scene.length_of_heard()
        );
        let minutes: Vec<f64> = scene.heard.chunks(480_000).map(|minute| share_with(VOICE, minute)).collect();
        println!("{rate}: {minutes:?} of tone, delay {:?}", scene.leg.jitter_delay());
        assert!(minutes.iter().all(|share| (0.78..0.82).contains(share)), "{minutes:?}");
        assert!(scene.leg.jitter_delay() <= 4 * FRAME);
    }
}

/// A tone has no pauses in which a frame could be dropped or repeated.
#[test]
fn drift_is_absorbed_in_a_sound_without_pauses_too() {
    for rate in [1.0 - 200e-6, 1.0 + 200e-6] {
        let mut scene = Scene::new("0 101", "");
        scene.talk(Duration::from_secs(300), FRAME, rate, |index| tone(VOICE, index));
        assert!(share_with(VOICE, &scene.heard[1600..]) > 0.99);
        assert!(scene.leg.jitter_delay() <= 4 * FRAME);
    }
}

#[test]
fn loss_and_jitter_are_concealed() {
    for (loss, jitter, least) in [(0.02, 10, 0.98), (0.05, 40, 0.95), (0.10, 60, 0.90)] {
        let mut scene = Scene::new("0 101", "");
        (scene.loss, scene.jitter) = (loss, jitter * MS);
        scene.talk(Duration::from_secs(60), FRAME, 1.0, |index| tone(VOICE, index));
        let share = share_with(VOICE, &scene.heard[8000..]);
        println!("{loss} lost, {jitter} ms: {share} of tone, delay {:?}", scene.leg.jitter_delay());
        assert!(share > least, "{loss} lost: {share}");
        assert!(scene.length_of_heard().abs_diff(Duration::from_secs(60)) <= 8 * FRAME);
    }
}

/// Silence suppression: nothing is sent in pauses of any length, with or without comfort noise.
#[test]
fn a_phone_that_sends_nothing_in_its_pauses_neither_bursts_nor_stalls() {
    for comfort_noise in [false, true] {
        let mut scene = Scene::new("0 13 101", "");
        let mut pauses = 0;
        for pause in [100, 300, 700, 950, 1500, 4000].repeat(4) {
            scene.talk(Duration::from_secs(1), FRAME, 1.0, |index| tone(VOICE, index));
            if comfort_noise {
                scene.send(13, &[40]);
            }
            scene.rest(pause * MS);
            pauses += pause;
        }
        let spoken = scene.heard.chunks_exact(160).filter(|frame| amplitude(VOICE, frame) > 5000.0).count();
        println!("noise {comfort_noise}: {spoken} frames of speech, delay {:?}", scene.leg.jitter_delay());
        // A pause of one second or more may cost its first frame for the fade, and a pause is entered with up to three
        // concealed frames where no noise announces it.
        assert!((24 * 49..=24 * 53).contains(&spoken), "{spoken}");
        assert!(scene.leg.jitter_delay() <= 3 * FRAME);
        let total = Duration::from_secs(24) + pauses * MS;
        assert!(scene.length_of_heard().abs_diff(total) <= 4 * FRAME);
        // The middle of the last pause.
        let rest = &scene.heard[scene.heard.len() - 16_000..];
        let power = rest.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / rest.len() as f64;
        let level = 10.0 * (power.max(1.0) / 32_768f64.powi(2)).log10();
        assert!(if comfort_noise { (-41.0..-39.0).contains(&level) } else { level < -80.0 }, "{level} dB");
    }
}

#[test]
fn the_phone_gets_one_line_in_packets_of_the_length_it_wants() {
    for length in [10_u32, 20, 30, 60] {
        let mut scene = Scene::new("0 101", &format!("a=ptime:{length}\r\n"));
        scene.rest(200 * MS);
        let silent = scene.wire.len();
        assert!(silent >= 3, "silence before the call's first audio: {silent}");
        scene.say(300);
        let bytes = 8 * length as usize;
        let first = scene.wire[0].0;
        for (index, (header, payload)) in scene.wire.iter().enumerate() {
            assert_eq!(header.ssrc, 1);
            assert_eq!(header.payload_type, 0);
            assert_eq!(header.sequence, first.sequence.wrapping_add(index as u16));
            assert_eq!(header.timestamp, first.timestamp.wrapping_add((index * bytes) as u32));
            assert_eq!((header.marker, payload.len()), (index == 0, bytes));
        }
        let samples: Vec<i16> =
            scene.wire.iter().flat_map(|(_, payload)| payload.iter().map(|byte| Law::Mu.decode(*byte))).collect();
        assert!(share_with(CALLER, &samples[silent * bytes + 480..]) > 0.99);
        assert!(samples[..160].iter().all(|sample| *sample == 0));
    }
}

#[test]
fn keys_leave_and_arrive_on_the_negotiated_clock() {
    for (formats, clock_khz, line_khz, number) in
        [("0 101", 8, 8, 101), ("107 101", 8, 48, 101), ("107 102 101", 48, 48, 102)]
    {
        let mut scene = Scene::new(formats, "a=ptime:60\r\n");
        scene.leg.push_digits("5#").unwrap();
        let silence = if scene.leg.rate().is_some() { vec![0; 320] } else { crate::opus::SILENCE.to_vec() };
        for _ in 0..40 {
            scene.leg.send_audio(&silence, scene.now);
            scene.drain();
            scene.rest(FRAME);
        }
        let keys: Vec<_> = scene.wire.iter().filter(|(header, _)| header.payload_type == number).collect();
        assert_eq!(keys.len(), 14, "{formats}");
        for (key, event) in [(&keys[..7], 5), (&keys[7..], 11)] {
            assert!(key.iter().all(|(header, payload)| header.timestamp == key[0].0.timestamp && payload[0] == event));
            let durations: Vec<u32> = key
                .iter()
                .map(|(_, payload)| u32::from(u16::from_be_bytes([payload[2], payload[3]])) / clock_khz)
                .collect();
            assert_eq!(durations, [20, 40, 60, 80, 100, 100, 100], "{formats}");
            assert_eq!(key.iter().filter(|(_, payload)| payload[1] & 0x80 != 0).count(), 3);
            assert_eq!(key.iter().filter(|(header, _)| header.marker).count(), 1);
        }
        assert_eq!(
            keys[7].0.timestamp.wrapping_sub(keys[0].0.timestamp),
            160 * line_khz,
            "100 ms and a pause of 60 ms"
        );
        let first = scene.wire[0].0.sequence;
        for (index, (header, _)) in scene.wire.iter().enumerate() {
            assert_eq!(header.sequence, first.wrapping_add(index as u16));
        }
        // Three copies of each end are one key.
        for press in 0..3 {
            for index in 0..8_u16 {
                let duration = ((20 * (index + 1)).min(100) * clock_khz as u16).to_be_bytes();
                let flags = if index >= 5 { 0x8a } else { 0x0a };
                let sequence = scene.phone.sequence;
                scene.phone.sequence = sequence.wrapping_add(1);
                let timestamp = scene.phone.timestamp.wrapping_add(press * 320 * line_khz);
                scene.send_stamped(number, sequence, timestamp, &[7, flags, duration[0], duration[1]]);
                for _ in 0..20 {
                    scene.step();
                }
            }
        }
        scene.rest(FRAME);
        let pressed: Vec<Key> = std::iter::from_fn(|| scene.leg.poll_key()).collect();
        assert_eq!(pressed, [Key { digit: '7', duration_ms: 100 }; 3], "{formats}");
    }
}

#[test]
fn a_held_phone_gets_nothing_is_not_missed_and_comes_back_on_the_same_line() {
    for (formats, lines) in [("0 101", "a=sendonly\r\n"), ("0 101", "a=inactive\r\n")] {
        let mut scene = Scene::new(formats, "");
        scene.talk(Duration::from_secs(1), FRAME, 1.0, |index| tone(VOICE, index));
        scene.say(50);
        let before = scene.wire.last().unwrap().0;
        scene.renegotiate(formats, lines);
        assert!(scene.leg.is_held());
        let sent = scene.wire.len();
        scene.say(50 * 60);
        assert_eq!(scene.wire.len(), sent, "{lines}");
        assert_eq!(scene.events, [RtpLegEvent::Connected], "a minute of silence while held");
        scene.renegotiate(formats, "");
        scene.say(50);
        let after = scene.wire[sent].0;
        assert_eq!(after.sequence, before.sequence.wrapping_add(1));
        assert_eq!(after.timestamp, before.timestamp.wrapping_add(160 * (50 * 60 + 1)));
        assert!(after.marker, "a new talk-spurt");
        scene.rest(Duration::from_secs(31));
        assert_eq!(scene.events[1..], [RtpLegEvent::MediaSilent(true), RtpLegEvent::MediaFailed(MediaFailure::Silent)]);
    }
}

#[test]
fn a_call_that_begins_on_hold_is_not_given_up() {
    let mut scene = Scene::new("0 101", "a=inactive\r\n");
    assert!(scene.leg.is_held());
    scene.rest(Duration::from_secs(60));
    assert_eq!((scene.events.as_slice(), scene.wire.len()), (&[RtpLegEvent::Connected][..], 0));
}

#[test]
fn opus_is_relayed_as_it_is_and_other_lengths_become_20_ms() {
    let mut scene = Scene::new("107 0 102", "");
    assert_eq!(scene.leg.rate(), None);
    let mut encoder = Encoder::new(SampleRate::Hz16000, Profile::Eco).unwrap();
    let (mut packet, mut sent) = (Vec::new(), Vec::new());
    for frame in 0..100 {
        let pcm: Vec<i16> = (320 * frame..320 * (frame + 1)).map(|index| tone(VOICE / 2.0, index)).collect();
        encoder.encode(&pcm, &mut packet).unwrap();
        sent.push(packet.clone());
        scene.send(107, &packet);
        scene.phone.timestamp = scene.phone.timestamp.wrapping_add(960);
        scene.step();
        scene.leg.send_audio(&packet, scene.now);
        scene.drain();
        for _ in 1..20 {
            scene.step();
        }
    }
    assert_eq!(scene.packets, sent);
    let relayed: Vec<Vec<u8>> = scene.wire.iter().map(|(_, payload)| payload.clone()).collect();
    assert!(relayed.ends_with(&sent));
    let (first, last) = (scene.wire[0].0, scene.wire.last().unwrap().0);
    assert_eq!(last.timestamp.wrapping_sub(first.timestamp), 960 * (scene.wire.len() as u32 - 1));
    assert_eq!((first.payload_type, first.ssrc), (107, 1));
    // Two frames of 20 ms in one packet of 40 ms (RFC 6716 §3.2.2, code 1 needs equal lengths; code 2 does not).
    let two = [&[sent[50][0] | 2, sent[50].len() as u8 - 1][..], &sent[50][1..], &sent[51][1..]].concat();
    assert_eq!(inspect(&two).map(|facts| facts.duration), Ok(1920));
    scene.packets.clear();
    scene.send(107, &two);
    scene.step();
    let durations: Vec<_> = scene.packets.iter().map(|packet| inspect(packet).map(|facts| facts.duration)).collect();
    assert_eq!(durations, [Ok(960), Ok(960)]);
}

#[test]
fn another_sender_continues_what_the_call_hears() {
    let mut scene = Scene::new("0 101", "");
    scene.talk(Duration::from_secs(2), FRAME, 1.0, |index| tone(VOICE, index));
    // Music on hold of a PBX, in the other law and with numbers of its own.
    let header = |index: u16| RtpHeader {
        payload_type: 8,
        marker: false,
        sequence: 9 + index,
        timestamp: 160 * u32::from(index),
        ssrc: 5,
    };
    for index in 0..100 {
        let from = 160 * usize::from(index);
        let payload: Vec<u8> = (from..from + 160).map(|index| Law::A.encode(tone(CALLER, index))).collect();
        scene.flying.push((scene.now, [&header(index).to_bytes()[..], &payload].concat()));
        for _ in 0..20 {
            scene.step();
        }
    }
    assert!(share_with(CALLER, &scene.heard[scene.heard.len() - 13_000..]) > 0.99);
    assert!(scene.length_of_heard().abs_diff(Duration::from_secs(4)) <= 5 * FRAME);
    assert!(scene.now > scene.start);
}
