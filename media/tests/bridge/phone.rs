//! A SIP phone as agent and participant of a call: who hears whom, and what is recorded.

use std::f64::consts::TAU;

use patchcord_media::audio_terms::Codec;
use patchcord_media::g711::Law;
use patchcord_media::opus::Decoder;
use patchcord_media::phone_leg::PhoneLeg;
use patchcord_media::plain_rtp::{PlainRtp, PlainRtpOptions};
use patchcord_media::rtcp::is_rtcp;
use patchcord_media::sdp::phone::{Encryption, PhoneDescription, PhoneSession, PhoneSessionOptions};

use super::*;

const OURS: &str = "203.0.113.7:40000";
const PHONE: &str = "198.51.100.4:5004";
/// In Hz: that of [`Phone`](super::Phone), and that of the SIP phone.
const CALLER: f64 = 432.9;
const SIP: f64 = 1000.0;

/// A call, and a phone beside it.
struct PhoneCall {
    call: Call,
    leg: PhoneLeg,
    law: Law,
    speaker: Speaker,
    sequence: u16,
    said: usize,
    /// What the phone has received.
    wire: Vec<(RtpHeader, Vec<u8>)>,
}

impl PhoneCall {
    fn new(codec: Codec, speaker: Speaker, seed: u64) -> Self {
        let mut call = Call::connected(seed);
        call.start_media();
        let now = call.network.now;
        let (law, number) = if codec == Codec::Pcma { (Law::A, 8) } else { (Law::Mu, 0) };
        let offer = format!(
            "v=0\r\no=- 1 1 IN IP4 198.51.100.4\r\ns=-\r\nc=IN IP4 198.51.100.4\r\nt=0 0\r\nm=audio 5004 RTP/AVP {number}\r\n"
        );
        let address: SocketAddr = OURS.parse().unwrap();
        let options = PhoneSessionOptions { address, codecs: vec![codec], encryption: Encryption::Accepted };
        let terms = PhoneSession::new(options).answer(&PhoneDescription::parse(&offer).unwrap()).unwrap().terms;
        let plain = PlainRtpOptions { socket: address, ssrc: 9, allow_private: false, latching: None };
        let options = RtpLegOptions {
            ssrc: 9,
            first_sequence: 1,
            first_timestamp: 1,
            audio: terms.audio,
            silence_warn_after: Duration::from_secs(5),
            silence_end_after: Duration::from_secs(30),
        };
        let mut leg = PhoneLeg::new(PlainRtp::new(plain, &terms, now).unwrap(), &options, now);
        leg.start(now);
        if let Speaker::Participant(id) = speaker {
            call.bridge().add_participant(id, Role::Join, BUFFER).unwrap();
        }
        let format = AudioFormat::Pcm { rate: leg.rate().unwrap(), profile: Profile::Eco };
        call.bridge().attach(speaker, format, BUFFER, now).unwrap();
        Self { call, leg, law, speaker, sequence: 65_530, said: 0, wire: Vec::new() }
    }

    /// Both talk, the phone in packets of 20 ms.
    fn talk(&mut self, frames: usize) {
        for _ in 0..frames {
            let payload = self.call.phone.next_frame();
            self.call.send(OPUS, self.call.phone.timestamp, &payload);
            self.phone_speaks();
            self.call.network.run_for(FRAME);
            while let Some(audio) = self.call.network.right.bridge.take_audio(self.speaker) {
                self.leg.send_audio(&audio, self.call.network.now);
            }
            while let Some(transmit) = self.leg.poll_transmit() {
                if let Some((header, length)) = RtpHeader::parse(&transmit.data).filter(|_| !is_rtcp(&transmit.data)) {
                    self.wire.push((header, transmit.data[length..].to_vec()));
                }
            }
        }
    }

    fn phone_speaks(&mut self) {
        let (now, from) = (self.call.network.now, self.said);
        self.said += 160;
        self.sequence = self.sequence.wrapping_add(1);
        let payload: Vec<u8> = (from..self.said).map(|index| self.law.encode(tone(SIP, index))).collect();
        let payload_type = if self.law == Law::A { 8 } else { 0 };
        let header =
            RtpHeader { payload_type, marker: false, sequence: self.sequence, timestamp: from as u32, ssrc: 3 };
        let datagram = [&header.to_bytes()[..], &payload].concat();
        self.leg.receive(OURS.parse().unwrap(), PHONE.parse().unwrap(), &datagram, now);
        self.leg.handle_timeout(now);
        while let Some(audio) = self.leg.poll_audio() {
            self.call.network.right.bridge.push_audio(self.speaker, audio, now).unwrap();
        }
    }

    /// What the caller has heard so far, at 8 kHz.
    fn heard_by_caller(&self) -> Vec<i16> {
        let (mut decoder, mut heard) = (Decoder::new(SampleRate::Hz8000).unwrap(), Vec::new());
        for packet in self.call.network.left.packets.iter().filter(|packet| packet.payload_type == OPUS) {
            decoder.decode(&packet.payload, &mut heard).unwrap();
        }
        heard
    }

    fn heard_by_phone(&self) -> Vec<i16> {
        self.wire.iter().flat_map(|(_, payload)| payload.iter().map(|byte| self.law.decode(*byte))).collect()
    }
}

fn tone(hz: f64, index: usize) -> i16 {
    ((index as f64 * hz * TAU / 8000.0).sin() * 8000.0) as i16
}

/// Amplitude of a frequency in samples at `rate`.
fn amplitude(hz: f64, rate: f64, samples: &[i16]) -> f64 {
    let (mut cosine, mut sine) = (0.0, 0.0);
    for (index, sample) in samples.iter().enumerate() {
        let angle = index as f64 * hz * TAU / rate;
        cosine += f64::from(*sample) * angle.cos();
        sine += f64::from(*sample) * angle.sin();
    }
    2.0 * f64::hypot(cosine, sine) / samples.len().max(1) as f64
}

/// Which of the two is heard in every 20 ms.
fn voices(samples: &[i16]) -> Vec<&'static str> {
    let always = |hz| samples.chunks_exact(160).all(|frame| amplitude(hz, 8000.0, frame) > 2000.0);
    [("caller", CALLER), ("phone", SIP)].into_iter().filter(|(_, hz)| always(*hz)).map(|(name, _)| name).collect()
}

#[test]
fn caller_and_phone_hear_each_other_and_not_themselves() {
    for codec in [Codec::Pcmu, Codec::Pcma] {
        let mut scene = PhoneCall::new(codec, Speaker::Agent, 1);
        scene.talk(500);
        let (caller, phone) = (scene.heard_by_caller(), scene.heard_by_phone());
        assert_eq!(voices(&caller[caller.len() - 64_000..]), ["phone"], "{codec:?}");
        assert_eq!(voices(&phone[phone.len() - 64_000..]), ["caller"], "{codec:?}");
        let first = scene.wire[0].0;
        for (index, (header, payload)) in scene.wire.iter().enumerate() {
            assert_eq!((header.ssrc, payload.len()), (9, 160));
            assert_eq!(header.sequence, first.sequence.wrapping_add(index as u16));
            assert_eq!(header.timestamp, first.timestamp.wrapping_add(160 * index as u32));
        }
        assert!((499..=502).contains(&scene.wire.len()), "{}", scene.wire.len());
    }
}

#[test]
fn a_phone_that_joins_is_heard_and_hears() {
    let mut scene = PhoneCall::new(Codec::Pcmu, Speaker::Participant(1), 2);
    scene.talk(300);
    let (caller, phone) = (scene.heard_by_caller(), scene.heard_by_phone());
    assert_eq!(voices(&caller[caller.len() - 32_000..]), ["phone"]);
    assert_eq!(voices(&phone[phone.len() - 32_000..]), ["caller"]);
}

#[test]
fn a_hold_of_the_call_keeps_the_phones_line_whole() {
    let mut scene = PhoneCall::new(Codec::Pcmu, Speaker::Agent, 3);
    scene.talk(100);
    let hold = vec![Prompt::builtin(Builtin::Hold).unwrap()];
    scene.call.bridge().hold(hold).unwrap();
    scene.talk(200);
    let now = scene.call.network.now;
    scene.call.bridge().unhold(now);
    scene.talk(200);
    let first = scene.wire[0].0;
    assert!((498..=503).contains(&scene.wire.len()), "{}", scene.wire.len());
    let last = scene.wire.last().unwrap().0;
    assert_eq!(last.timestamp, first.timestamp.wrapping_add(160 * (scene.wire.len() as u32 - 1)));
    let (caller, phone) = (scene.heard_by_caller(), scene.heard_by_phone());
    assert_eq!(voices(&caller[caller.len() - 16_000..]), ["phone"]);
    assert_eq!(voices(&phone[phone.len() - 16_000..]), ["caller"]);
}

#[test]
fn a_recording_has_the_caller_at_the_left_and_the_phone_at_the_right() {
    let mut scene = PhoneCall::new(Codec::Pcmu, Speaker::Agent, 4);
    assert!(scene.call.bridge().start_recording(7));
    scene.talk(500);
    let mut file = Vec::new();
    while let Some(page) = scene.call.bridge().poll_recording() {
        file.extend_from_slice(&page);
    }
    scene.call.bridge().stop_recording().unwrap().pages.iter().for_each(|page| file.extend_from_slice(page));
    let mut reader = ogg::PacketReader::new(std::io::Cursor::new(file));
    let mut decoder = opus::MSDecoder::new(8000, 2, 0, &[0, 1]).unwrap();
    let (mut left, mut right, mut number) = (Vec::new(), Vec::new(), 0);
    while let Some(packet) = reader.read_packet().unwrap() {
        number += 1;
        // Two headers come first.
        if number > 2 {
            let mut samples = [0; 2 * 960];
            let count = decoder.decode(&packet.data, &mut samples, false).unwrap();
            left.extend(samples[..2 * count].iter().step_by(2));
            right.extend(samples[1..2 * count].iter().step_by(2));
        }
    }
    assert!(left.len() > 76_000, "{}", left.len());
    assert_eq!(voices(&left[16_000..72_000]), ["caller"]);
    assert_eq!(voices(&right[16_000..72_000]), ["phone"]);
}
