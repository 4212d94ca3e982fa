//! The audio of one call as a whole, against another peer, over a simulated network with a virtual clock.

#![allow(clippy::disallowed_methods, reason = "a test begins at some moment")]
#![expect(clippy::unwrap_used, reason = "a test may panic and print, in its helpers too")]

#[path = "../peer/network.rs"]
#[expect(dead_code, clippy::needless_pass_by_value, reason = "the peer's tests use more of it")]
mod network;
mod phone;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use patchcord_media::audio_terms::AudioTerms;
use patchcord_media::bridge::{AudioFormat, Bridge, BridgeEvent, MediaFailure, Speaker};
use patchcord_media::gather::GatherOptions;
use patchcord_media::mixer::Role;
use patchcord_media::opus::{Encoder, Profile, SILENCE, SampleRate};
use patchcord_media::peer::Peer;
use patchcord_media::prompt::{Builtin, Prompt, Repeat};
use patchcord_media::rtp::RtpHeader;
use patchcord_media::rtp_leg::{RtpLeg, RtpLegOptions};
use patchcord_media::sdp::{Answer, Offer};
use patchcord_media::source::MarkStatus;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use network::{Datagram, End, LEFT, Network, PeerEnd, RIGHT, milliseconds, options};

const OPUS: u8 = 111;
const KEYS: u8 = 126;
const FRAME: Duration = Duration::from_millis(20);
const BUFFER: Duration = Duration::from_secs(120);

/// Silence, prompt, agent, prompt again, participants, music, keys: whatever is on air, the caller gets one SSRC, sequence
/// +1 and timestamp +960.
#[test]
fn the_rtp_line_is_unbroken_whatever_is_on_air() {
    for seed in 1..=6 {
        let mut call = Call::connected(seed);
        let mut chance = StdRng::seed_from_u64(seed);
        println!("seed {seed}");
        call.start_media();
        for _ in 0..400 {
            call.something_happens(&mut chance);
            call.talk(1 + chance.random_range(0..6));
        }
        call.network.run_for(milliseconds(100));
        let packets = &call.network.left.packets;
        assert!(packets.len() > 1000, "{}", packets.len());
        let first = &packets[0];
        for (index, packet) in packets.iter().enumerate() {
            assert_eq!(packet.ssrc, first.ssrc, "seed {seed}, packet {index}");
            assert_eq!(packet.sequence, first.sequence.wrapping_add(index as u16), "seed {seed}, packet {index}");
            let on_time = first.timestamp.wrapping_add(960 * index as u32);
            match packet.payload_type {
                OPUS => assert_eq!(packet.timestamp, on_time, "seed {seed}, packet {index}"),
                // RFC 4733: a press keeps the timestamp at which it began, at most 140 ms ago.
                KEYS => assert!(on_time.wrapping_sub(packet.timestamp) <= 7 * 960, "seed {seed}, packet {index}"),
                other => panic!("payload type {other}"),
            }
        }
    }
}

#[test]
fn a_call_pays_for_its_participants_only_while_they_are_there() {
    let mut call = Call::connected(1);
    call.start_media();
    call.bridge().add_participant(1, Role::Listen, BUFFER).unwrap();
    call.talk(50);
    assert!(call.bridge().take_audio(Speaker::Participant(1)).is_some());
    call.bridge().detach(Speaker::Participant(1));
    call.talk(150);
    assert!(call.bridge().set_role(1, Role::Join).is_err(), "nobody is there");
    assert!(call.bridge().take_audio(Speaker::Participant(1)).is_none());
}

#[test]
fn what_is_recorded_is_readable_and_as_long_as_the_call() {
    let mut call = Call::connected(3);
    call.start_media();
    assert!(call.bridge().start_recording(7));
    assert!(!call.bridge().start_recording(8), "one goes on");
    call.bridge().stand_in(vec![Prompt::builtin(Builtin::Hold).unwrap()], Repeat::Loop);
    call.talk(500);
    let mut file = Vec::new();
    while let Some(page) = call.bridge().poll_recording() {
        file.extend_from_slice(&page);
    }
    let recorded = call.bridge().stop_recording().unwrap();
    for page in &recorded.pages {
        file.extend_from_slice(page);
    }
    assert_eq!(&file[..4], b"OggS");
    let expected = FRAME * 500;
    assert!(recorded.duration.abs_diff(expected) <= 2 * FRAME, "{:?}", recorded.duration);
}

/// Before accept nobody should be heard: a relay may send silence, but a voice is a person who has accepted.
#[test]
fn a_second_of_voice_before_the_start_is_told_once_and_silence_is_not() {
    let mut call = Call::connected(8);
    let told = |call: &Call| call.events(|event| matches!(event, BridgeEvent::VoiceBeforeStart)).len();
    for _ in 0..150 {
        call.phone.next_frame();
        call.send(OPUS, call.phone.timestamp, &SILENCE);
        call.network.run_for(FRAME);
    }
    assert_eq!(told(&call), 0);
    // SILK wideband, 20 ms, with the sender's voice bit (RFC 6716 §4.2.3).
    const VOICE: [u8; 20] = {
        let mut packet = [0; 20];
        (packet[0], packet[1]) = (9 << 3, 0x80);
        packet
    };
    let mut speak = |frames| {
        for _ in 0..frames {
            call.phone.next_frame();
            call.send(OPUS, call.phone.timestamp, &VOICE);
            call.network.run_for(FRAME);
        }
        told(&call)
    };
    assert_eq!(speak(40), 0);
    assert_eq!(speak(20), 1);
    assert_eq!(speak(100), 1);
}

/// Hold and resume, another device, a relay that changes: each comes with a sender of its own.
#[test]
fn every_sender_is_heard_and_so_is_one_that_comes_back() {
    let twelve: Vec<u32> = (100..112).collect();
    let in_turns: Vec<u32> = (0..12).map(|turn| 100 + turn % 2).collect();
    for senders in [twelve, in_turns] {
        let mut call = Call::connected(4);
        call.start_media();
        call.attach_agent();
        let mut chance = StdRng::seed_from_u64(4);
        let mut lines = std::collections::HashMap::new();
        for ssrc in senders {
            let phone = lines.remove(&ssrc).unwrap_or_else(|| Phone::new(ssrc, chance.random(), chance.random()));
            let before = std::mem::replace(&mut call.phone, phone);
            lines.insert(before.ssrc, before);
            let heard = call.heard_while_talking(20);
            let loud = heard.chunks(320).filter(|frame| frame.iter().any(|sample| sample.unsigned_abs() > 1000));
            assert!((17..=21).contains(&loud.count()), "sender {ssrc}");
            assert!((19..=21).contains(&(heard.len() / 320)), "sender {ssrc}: {} frames", heard.len() / 320);
        }
    }
}

/// A gateway may send keys as another sender: their numbers are not the sound's.
#[test]
fn keys_of_another_sender_leave_the_sound_whole() {
    let mut call = Call::connected(4);
    call.start_media();
    call.attach_agent();
    call.heard_while_talking(20);
    let (sequence, mut heard) = (call.phone.sequence, Vec::new());
    for index in 1..=20u16 {
        let duration = (160 * index.min(5)).to_be_bytes();
        let flags = if index >= 5 { 0x8a } else { 0x0a };
        let header =
            RtpHeader { payload_type: KEYS, marker: false, sequence: sequence + 3 * index, timestamp: 7, ssrc: 9 };
        call.send_as(header, &[8, flags, duration[0], duration[1]]);
        heard.extend(call.heard_while_talking(1));
    }
    assert!((19..=21).contains(&(heard.len() / 320)), "{} frames", heard.len() / 320);
    assert!(heard.chunks(320).all(|frame| frame.iter().any(|sample| sample.unsigned_abs() > 1000)));
    let keys = call.events(|event| matches!(event, BridgeEvent::Dtmf(_)));
    assert!(matches!(keys[..], [BridgeEvent::Dtmf(key)] if key.digit == '8'), "{keys:?}");
    assert_eq!(call.bridge().stats().caller.lost, 0);
}

#[test]
fn a_gather_hears_the_keys_of_a_lossy_network_once_each() {
    let mut call = Call::connected(5);
    call.start_media();
    call.network.loss = 0.1;
    let options = GatherOptions {
        max_digits: 4,
        first_digit_timeout: Duration::from_secs(5),
        inter_digit_timeout: Duration::from_secs(5),
        terminator: Some('#'),
    };
    let now = call.network.now;
    call.bridge().gather(options, Vec::new(), now);
    for (press, event) in [4, 7, 1, 1].into_iter().enumerate() {
        call.press(event, press as u32);
    }
    call.talk(60);
    let gathered = call.network.right.events.iter().find_map(|event| match event {
        BridgeEvent::Gathered(gathered) => Some(gathered.digits.clone()),
        _ => None,
    });
    assert_eq!(gathered.as_deref(), Some("4711"));
}

/// A live agent's audio leaves soon after its arrival, and no frame is lost or late in the transition.
#[test]
fn a_live_agents_frames_do_not_wait_without_need() {
    for phase in [3, 9, 17] {
        let mut call = Call::connected(7);
        call.start_media();
        let (pcm, now) = (AudioFormat::Pcm { rate: SampleRate::Hz16000, profile: Profile::Eco }, call.network.now);
        call.bridge().attach(Speaker::Agent, pcm, BUFFER, now).unwrap();
        // The time from here until a frame leaves.
        let wait = call.network.right.next - call.network.now;
        call.network.run_for(wait + milliseconds(phase));
        for _ in 0..500 {
            let (words, now) = (call.words(20)[..640].to_vec(), call.network.now);
            call.bridge().push_audio(Speaker::Agent, words.into(), now).unwrap();
            call.network.run_for(FRAME);
        }
        let waits = milliseconds(20 - phase);
        let expected = if waits >= milliseconds(6) { waits - milliseconds(4) } else { Duration::ZERO };
        assert_eq!(call.network.right.earlier, expected, "phase {phase}");
        let packets = &call.network.left.packets;
        let spoken = packets.iter().skip_while(|packet| packet.payload[..] == SILENCE);
        assert!(spoken.clone().count() >= 499, "phase {phase}");
        assert!(spoken.skip(1).all(|packet| packet.payload[..] != SILENCE), "phase {phase}: a frame was late");
    }
}

/// Underruns while a call starts cause no lasting delay: afterwards the agent's frames leave within one frame's time.
#[test]
fn lateness_at_the_start_is_no_delay_later() {
    let mut call = Call::connected(7);
    call.start_media();
    let (pcm, now) = (AudioFormat::Pcm { rate: SampleRate::Hz16000, profile: Profile::Eco }, call.network.now);
    call.bridge().attach(Speaker::Agent, pcm, BUFFER, now).unwrap();
    let wait = call.network.right.next - call.network.now;
    call.network.run_for(wait + milliseconds(10));
    let mut longest = Duration::ZERO;
    for frame in 0..500 {
        // The eleventh comes with the twelfth, and there is a pause now and then.
        let mut words = if frame == 11 { call.words(40)[..1280].to_vec() } else { call.words(20)[..640].to_vec() };
        if frame % 25 >= 20 {
            words.fill(0);
        }
        let now = call.network.now;
        if frame != 10 {
            call.bridge().push_audio(Speaker::Agent, words.into(), now).unwrap();
        }
        if frame >= 450 {
            longest = longest.max(call.bridge().queued(Speaker::Agent));
        }
        call.network.run_for(FRAME);
    }
    assert_eq!(longest, FRAME, "what was just said, and nothing before it");
}

/// A machine that was frozen for a minute.
#[test]
fn a_stall_of_our_own_is_not_held_against_the_caller() {
    let mut call = Call::connected(9);
    call.start_media();
    call.talk(100);
    let gap = Duration::from_secs(60);
    call.network.now += gap;
    let now = call.network.now;
    call.network.left.peer.shift_deadlines(gap, now);
    call.bridge().shift_deadlines(gap, now);
    call.bridge().handle_timeout(now);
    call.talk(100);
    assert_eq!(call.network.right.events, [BridgeEvent::MediaConnected]);
    // Real silence is noticed as ever.
    call.network.loss = 1.0;
    call.network.run_for(Duration::from_secs(40));
    let silent = [BridgeEvent::MediaSilent(true), BridgeEvent::MediaFailed(MediaFailure::Silent)];
    assert!(call.network.right.events.ends_with(&silent), "{:?}", call.network.right.events);
}

/// In the middle of speech: nothing is lost, marks keep their order, and the agent receives the new format.
#[test]
fn an_agent_that_changes_its_sound_is_heard_to_the_end() {
    let mut call = Call::connected(9);
    call.start_media();
    let (pcm, now) = (|rate| AudioFormat::Pcm { rate, profile: Profile::Eco }, call.network.now);
    let words = call.words(600);
    let bridge = call.bridge();
    bridge.attach(Speaker::Agent, pcm(SampleRate::Hz16000), BUFFER, now).unwrap();
    for (rate, mark) in [(SampleRate::Hz16000, "old"), (SampleRate::Hz48000, "new")] {
        assert_eq!(bridge.change_format(Speaker::Agent, pcm(rate), now), Ok(Duration::ZERO));
        bridge.push_audio(Speaker::Agent, words.clone().into(), now).unwrap();
        bridge.mark(Speaker::Agent, mark.into()).unwrap();
    }
    assert_eq!(bridge.queued(Speaker::Agent), FRAME * 30 + FRAME * 10);
    call.talk(60);
    let talking = call.network.left.packets.iter().filter(|packet| packet.payload[..] != SILENCE).count();
    assert_eq!(talking, 30 + 1 + 10 + 1, "each form and its last frame");
    let marks = call.network.right.events.iter().filter_map(|event| match event {
        BridgeEvent::Mark { name, status, .. } => Some((name.as_str(), *status)),
        _ => None,
    });
    let marks: Vec<_> = marks.collect();
    assert_eq!(marks, [("old", MarkStatus::Played), ("new", MarkStatus::Played)]);
    let payload = call.phone.next_frame();
    call.send(OPUS, call.phone.timestamp, &payload);
    call.network.run_for(FRAME);
    assert_eq!(call.bridge().take_audio(Speaker::Agent).map(|frame| frame.len()), Some(1920));
}

/// Two hundred times real time, with correct sequence numbers and timestamps.
#[test]
fn a_caller_who_sends_faster_than_time_passes_is_not_heard_faster() {
    let mut call = Call::connected(6);
    call.start_media();
    call.attach_agent();
    let payload = call.phone.next_frame();
    let mut frames = 0;
    for _ in 0..2000 {
        for _ in 0..10 {
            call.phone.timestamp = call.phone.timestamp.wrapping_add(960);
            call.send(OPUS, call.phone.timestamp, &payload);
            call.network.run_for(Duration::from_micros(100));
            frames += call.take_heard().len();
        }
    }
    // 2 s have passed: 100 frames, and a burst.
    assert!(frames <= 300, "{frames} frames");
    assert!(call.bridge().stats().caller.excess > 19_000);
    call.network.run_for(Duration::from_secs(10));
    while !call.take_heard().is_empty() {}
    let heard = call.heard_while_talking(50);
    let loud = heard.chunks(320).filter(|frame| frame.iter().any(|sample| sample.unsigned_abs() > 1000));
    assert!(loud.count() > 40, "whoever comes to reason is heard again");
}

/// A muted phone behind a relay may send neither RTP nor RTCP for a long time; its side answers the checks all the while.
#[test]
fn a_caller_who_sends_nothing_is_given_up_only_after_two_minutes_while_its_side_answers() {
    let silent = |call: &Call| call.events(|event| matches!(event, BridgeEvent::MediaSilent(_)));
    let failed = |call: &Call| call.events(|event| matches!(event, BridgeEvent::MediaFailed(_)));
    let mut call = Call::connected(2);
    call.start_media();
    call.talk(50);
    call.network.filter = Box::new(|datagram, _| datagram.to != network::address(RIGHT) || !datagram.is_rtcp());
    call.network.run_for(Duration::from_secs(4));
    assert_eq!(silent(&call), []);
    call.network.run_for(Duration::from_secs(2));
    assert_eq!(silent(&call), [BridgeEvent::MediaSilent(true)]);
    call.network.run_for(Duration::from_secs(110));
    assert_eq!(failed(&call), []);
    // It takes 30 ms to come.
    call.talk(3);
    assert_eq!(silent(&call), [BridgeEvent::MediaSilent(true), BridgeEvent::MediaSilent(false)]);
    call.network.run_for(Duration::from_secs(119));
    assert_eq!(failed(&call), []);
    call.network.run_for(Duration::from_secs(2));
    assert_eq!(failed(&call), [BridgeEvent::MediaFailed(MediaFailure::Silent)]);
}

#[test]
fn a_caller_whose_side_answers_no_check_is_given_up_after_thirty_seconds_though_its_sound_comes() {
    for sends in [true, false] {
        let mut call = Call::connected(2);
        call.start_media();
        call.talk(50);
        call.network.filter =
            Box::new(move |datagram, _| datagram.to != network::address(RIGHT) || (sends && !datagram.is_stun()));
        call.talk(28 * 50);
        assert_eq!(call.events(|event| matches!(event, BridgeEvent::MediaFailed(_))), [], "{sends}");
        assert_eq!(call.events(|event| matches!(event, BridgeEvent::MediaSilent(_))), [BridgeEvent::MediaSilent(true)]);
        call.talk(3 * 50);
        let failed = call.events(|event| matches!(event, BridgeEvent::MediaFailed(_)));
        assert_eq!(failed, [BridgeEvent::MediaFailed(MediaFailure::Silent)], "{sends}");
    }
}

/// A phone that offers, and the bridge that answers.
struct Call {
    network: Network<PeerEnd, BridgeEnd>,
    phone: Phone,
    prompts: Vec<Prompt>,
    encoder: Encoder,
}

/// What the phone sends.
struct Phone {
    encoder: Encoder,
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    said: usize,
}

struct BridgeEnd {
    bridge: Bridge,
    next: Instant,
    events: Vec<BridgeEvent>,
    /// How much earlier than at the start frames leave.
    earlier: Duration,
}

impl Call {
    fn connected(seed: u64) -> Self {
        let now = Instant::now();
        let (mut left, offer) = Peer::offer(&options(&[LEFT], 11), now).unwrap();
        let offer = Offer::parse(&offer).unwrap();
        let (right, answer) = Peer::answer(&options(&[RIGHT], 22), &offer, now).unwrap();
        left.accept_answer(&Answer::parse(&answer).unwrap(), now).unwrap();
        let leg = RtpLegOptions {
            ssrc: 22,
            first_sequence: 65_000,
            first_timestamp: u32::MAX - 100_000,
            audio: AudioTerms::webrtc(OPUS, Some(KEYS)),
            silence_warn_after: Duration::from_secs(5),
            silence_end_after: Duration::from_secs(120),
        };
        let bridge = Bridge::new(RtpLeg::new(right, &leg, now), now);
        let right = BridgeEnd { bridge, next: now, events: Vec::new(), earlier: Duration::ZERO };
        let network = Network::new(PeerEnd::new(left), right, &[RIGHT], now, seed);
        let encoder = Encoder::new(SampleRate::Hz16000, Profile::Eco).unwrap();
        let phone = Phone::new(11, 100, 0);
        let prompts = Builtin::ALL.iter().map(|builtin| Prompt::builtin(*builtin).unwrap()).collect();
        let mut call = Self { network, phone, prompts, encoder };
        assert!(call.network.run_until(Duration::from_secs(5), |network| {
            network.left.peer.is_connected() && network.right.events.contains(&BridgeEvent::MediaConnected)
        }));
        call
    }

    fn start_media(&mut self) {
        self.network.right.bridge.start_media(self.network.now);
    }

    fn bridge(&mut self) -> &mut Bridge {
        &mut self.network.right.bridge
    }

    fn events(&self, is_meant: impl Fn(&BridgeEvent) -> bool) -> Vec<BridgeEvent> {
        self.network.right.events.iter().filter(|event| is_meant(event)).cloned().collect()
    }

    /// The caller talks for `frames`.
    fn talk(&mut self, frames: usize) {
        for _ in 0..frames {
            let payload = self.phone.next_frame();
            self.send(OPUS, self.phone.timestamp, &payload);
            self.network.run_for(FRAME);
            while self.bridge().take_audio(Speaker::Agent).is_some() {}
        }
    }

    /// Attaches a PCM agent that has not spoken yet.
    fn attach_agent(&mut self) {
        let (pcm, now) = (AudioFormat::Pcm { rate: SampleRate::Hz16000, profile: Profile::Eco }, self.network.now);
        self.bridge().attach(Speaker::Agent, pcm, BUFFER, now).unwrap();
    }

    /// What the agent hears while the caller talks for `frames`, at 16 kHz.
    fn heard_while_talking(&mut self, frames: usize) -> Vec<i16> {
        let mut heard = Vec::new();
        for _ in 0..frames {
            let payload = self.phone.next_frame();
            self.send(OPUS, self.phone.timestamp, &payload);
            self.network.run_for(FRAME);
            heard.extend(self.take_heard().concat());
        }
        heard
    }

    /// The frames that wait for the agent.
    fn take_heard(&mut self) -> Vec<Vec<i16>> {
        let frames = std::iter::from_fn(|| self.bridge().take_audio(Speaker::Agent));
        frames.map(|frame| frame.chunks(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()).collect()
    }

    /// One key: five packets while it is down, three of its end.
    fn press(&mut self, event: u8, press: u32) {
        let timestamp = self.phone.timestamp + press * 8 * 960;
        for index in 0..8u16 {
            let duration = (160 * (index + 1).min(5)).to_be_bytes();
            let flags = if index >= 5 { 0x8a } else { 0x0a };
            self.send(KEYS, timestamp, &[event, flags, duration[0], duration[1]]);
            self.network.run_for(FRAME);
        }
    }

    fn send(&mut self, payload_type: u8, timestamp: u32, payload: &[u8]) {
        self.phone.sequence = self.phone.sequence.wrapping_add(1);
        let Phone { ssrc, sequence, .. } = self.phone;
        self.send_as(RtpHeader { payload_type, marker: false, sequence, timestamp, ssrc }, payload);
    }

    fn send_as(&mut self, header: RtpHeader, payload: &[u8]) {
        let now = self.network.now;
        if let Some(transmit) = self.network.left.peer.send_rtp(header, payload, now) {
            self.network.send(Datagram { from: transmit.socket, to: transmit.to, data: transmit.data.to_vec() });
        }
    }

    fn something_happens(&mut self, chance: &mut StdRng) {
        let now = self.network.now;
        let prompt = self.prompts[chance.random_range(0..self.prompts.len())].clone();
        let prompts = vec![prompt; chance.random_range(1..3)];
        let repeat = if chance.random_bool(0.5) { Repeat::Once } else { Repeat::Loop };
        let participant = chance.random_range(1..4);
        let role = [Role::Listen, Role::Whisper, Role::Join][chance.random_range(0..3)];
        let rate = SampleRate::ALL[chance.random_range(0..4)];
        let pcm = AudioFormat::Pcm { rate, profile: Profile::Eco };
        let words = self.words(chance.random_range(0..200));
        let bridge = &mut self.network.right.bridge;
        // Commands out of place are refused, and the line continues.
        match chance.random_range(0..29) {
            0 => bridge.stand_in(prompts, repeat),
            1 => bridge.play(chance.random(), prompts, repeat, now),
            2 => {
                let _ = bridge.stop_playback(now);
            }
            3 | 4 => {
                let _ = bridge.attach(Speaker::Agent, pcm, BUFFER, now);
            }
            5 => {
                let _ = bridge.attach(Speaker::Agent, AudioFormat::Opus, BUFFER, now);
            }
            6 => bridge.detach(Speaker::Agent),
            7..=10 => {
                let _ = bridge.push_audio(Speaker::Agent, words.into(), now);
            }
            11 => {
                let _ = bridge.clear(Speaker::Agent);
            }
            12 => {
                let mut packet = Vec::new();
                self.encoder.encode(&[1000; 320], &mut packet).unwrap();
                let _ = bridge.push_audio(Speaker::Agent, packet.into(), now);
            }
            13 => {
                let _ = bridge.add_participant(participant, role, BUFFER);
            }
            14 => {
                let _ = bridge.attach(Speaker::Participant(participant), pcm, BUFFER, now);
            }
            15 => {
                let _ = bridge.push_audio(Speaker::Participant(participant), words.into(), now);
            }
            16 => {
                let _ = bridge.set_role(participant, role);
            }
            17 => bridge.detach(Speaker::Participant(participant)),
            18 => {
                let _ = bridge.set_music((repeat == Repeat::Loop).then_some(prompts));
            }
            19 => {
                let _ = bridge.send_digits("1#");
            }
            20 => bridge.pause(Speaker::Agent),
            21 => {
                let _ = bridge.hold(prompts);
            }
            22 => {
                bridge.unhold(now);
            }
            23 => bridge.mute_agent(repeat == Repeat::Loop),
            24 => bridge.mute_caller(repeat == Repeat::Loop, now),
            25 => {
                let _ = bridge.promote(participant, pcm, now);
            }
            26 => {
                let sound = if repeat == Repeat::Loop { AudioFormat::Opus } else { pcm };
                let _ = bridge.change_format(Speaker::Agent, sound, now);
            }
            27 => {
                let _ = bridge.change_format(Speaker::Participant(participant), pcm, now);
            }
            _ => bridge.resume(Speaker::Agent),
        }
    }

    /// PCM of a tone, perhaps with half a sample more.
    fn words(&self, milliseconds: usize) -> Vec<u8> {
        let samples = (0..milliseconds * 16).map(|index| (8000.0 * (index as f64 * 0.2).sin()) as i16);
        let mut bytes: Vec<u8> = samples.flat_map(i16::to_le_bytes).collect();
        if milliseconds.is_multiple_of(3) {
            bytes.push(0);
        }
        bytes
    }
}

impl Phone {
    fn new(ssrc: u32, sequence: u16, timestamp: u32) -> Self {
        let encoder = Encoder::new(SampleRate::Hz16000, Profile::Eco).unwrap();
        Self { encoder, ssrc, sequence, timestamp, said: 0 }
    }

    fn next_frame(&mut self) -> Vec<u8> {
        let from = self.said;
        self.said += 320;
        self.timestamp = self.timestamp.wrapping_add(960);
        let frame: Vec<i16> = (from..self.said).map(|index| (6000.0 * (index as f64 * 0.17).sin()) as i16).collect();
        let mut packet = Vec::new();
        self.encoder.encode(&frame, &mut packet).unwrap();
        packet
    }
}

impl End for BridgeEnd {
    fn receive(&mut self, datagram: &Datagram, now: Instant) {
        self.bridge.receive(datagram.to, datagram.from, &datagram.data, now);
        self.listen();
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
        let transmit = self.bridge.poll_transmit()?;
        Some((transmit.socket, transmit.to, transmit.data.to_vec()))
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        Some(self.next)
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.next = now + FRAME;
        self.bridge.handle_timeout(now);
        if let Some(by) = self.bridge.poll_phase_advance() {
            self.bridge.advance_phase(by);
            self.next -= by;
            self.earlier += by;
        }
        self.listen();
    }
}

impl BridgeEnd {
    fn listen(&mut self) {
        while let Some(event) = self.bridge.poll_event() {
            self.events.push(event);
        }
    }
}
