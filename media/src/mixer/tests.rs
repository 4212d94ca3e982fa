//! One tone per person: who hears whom, and that nobody hears himself.

use super::*;
use crate::opus::{Decoder, Encoder, FRAME, SILENCE, inspect};
use crate::source::{DEFAULT_MAX_BUFFER, Source};
use proptest::prelude::*;
use std::f64::consts::TAU;

const RATE: SampleRate = SampleRate::Hz16000;
const CALLER: f64 = 500.0;
const AGENT: f64 = 850.0;
const ANNA: f64 = 1300.0;
const BERTA: f64 = 2100.0;
const MUSIC: f64 = 3100.0;
const EVERYBODY: [f64; 5] = [CALLER, AGENT, ANNA, BERTA, MUSIC];
const ANNA_ID: ParticipantId = 1;
const BERTA_ID: ParticipantId = 2;

#[test]
fn every_role_is_heard_by_whom_it_should_be_and_nobody_hears_himself() {
    use Role::{Join, Listen, Whisper};
    for anna in [Listen, Whisper, Join] {
        for berta in [Listen, Whisper, Join] {
            for rate in [SampleRate::Hz8000, SampleRate::Hz48000] {
                let mut call = Call::new();
                call.mixer.add_participant(ANNA_ID, anna, Some(rate), DEFAULT_MAX_BUFFER).unwrap();
                call.mixer.add_participant(BERTA_ID, berta, Some(RATE), DEFAULT_MAX_BUFFER).unwrap();
                call.everybody_talks(100);
                let case = format!("Anna {anna:?}, Berta {berta:?}, {rate:?}");
                let when = |is: bool, tone: f64| is.then_some(tone);
                let house = |role: Role| role != Join;
                let by_caller = [when(anna == Join, ANNA), when(berta == Join, BERTA)];
                assert_eq!(call.phone.people(RATE), sorted(&[Some(AGENT)], &by_caller), "caller: {case}");
                let by_agent = [when(anna != Listen, ANNA), when(berta != Listen, BERTA)];
                match (anna, berta) {
                    (Listen, Listen) => assert!(call.agent.0.is_empty(), "{case}"),
                    _ => assert_eq!(call.agent.people(RATE), sorted(&[Some(CALLER)], &by_agent), "agent: {case}"),
                }
                let by_anna = [when(berta == Join || (berta == Whisper && house(anna)), BERTA)];
                assert_eq!(call.anna.people(rate), sorted(&[Some(CALLER), Some(AGENT)], &by_anna), "Anna: {case}");
                let by_berta = [when(anna == Join || (anna == Whisper && house(berta)), ANNA)];
                assert_eq!(call.berta.people(RATE), sorted(&[Some(CALLER), Some(AGENT)], &by_berta), "Berta: {case}");
            }
        }
    }
}

#[test]
fn while_the_caller_is_on_hold_agent_and_participants_are_among_themselves() {
    for rate in [Some(SampleRate::Hz8000), None] {
        let mut call = Call::new();
        call.mixer.add_participant(ANNA_ID, Role::Join, rate, DEFAULT_MAX_BUFFER).unwrap();
        call.mixer.add_participant(BERTA_ID, Role::Listen, Some(RATE), DEFAULT_MAX_BUFFER).unwrap();
        call.source.hold(vec![steady_tone(MUSIC)]);
        call.source.set_mixer_takes_agent(true);
        call.mixer.hold(Some(RATE)).unwrap();
        call.everybody_talks(100);
        assert_eq!(call.phone.people(RATE), [MUSIC], "{rate:?}");
        assert_eq!(call.agent.people(RATE), [ANNA], "{rate:?}");
        assert_eq!(call.berta.people(RATE), [AGENT, ANNA], "{rate:?}");
        call.source.unhold();
        call.mixer.unhold();
        for ears in [&mut call.phone, &mut call.agent, &mut call.anna, &mut call.berta] {
            ears.0.clear();
        }
        call.everybody_talks(100);
        assert_eq!(call.phone.people(RATE), [AGENT, ANNA], "{rate:?}");
        assert_eq!(call.agent.people(RATE), [CALLER, ANNA], "{rate:?}");
        assert_eq!(call.berta.people(RATE), [CALLER, AGENT, ANNA], "{rate:?}");
    }
}

#[test]
fn an_agent_that_may_not_hear_the_caller_still_hears_the_participants() {
    let mut call = Call::new();
    call.mixer.add_participant(ANNA_ID, Role::Whisper, Some(RATE), DEFAULT_MAX_BUFFER).unwrap();
    call.mixer.set_agent_hears_caller(false);
    call.everybody_talks(100);
    assert_eq!(call.agent.people(RATE), [ANNA]);
    assert_eq!(call.anna.people(RATE), [CALLER, AGENT]);
}

#[test]
fn music_is_heard_by_the_caller_and_the_participants_but_not_by_the_agent() {
    let mut call = Call::new();
    call.mixer.add_participant(ANNA_ID, Role::Whisper, Some(RATE), DEFAULT_MAX_BUFFER).unwrap();
    call.mixer.set_music(Some(vec![steady_tone(MUSIC)])).unwrap();
    call.everybody_talks(100);
    assert_eq!(call.phone.people(RATE), [AGENT, MUSIC]);
    assert_eq!(call.anna.people(RATE), [CALLER, AGENT, MUSIC]);
    assert_eq!(call.agent.people(RATE), [CALLER, ANNA]);
}

#[test]
fn music_steps_back_while_the_agent_speaks() {
    let mut call = Call::new();
    call.mixer.set_music(Some(vec![steady_tone(MUSIC)])).unwrap();
    call.ticks(60);
    let alone = level(call.phone.second_half(), MUSIC, RATE);
    call.phone.0.clear();
    call.agent_says(&tone(AGENT, RATE, 60));
    call.ticks(60);
    let under_speech = level(call.phone.second_half(), MUSIC, RATE);
    let ducked_db = 20.0 * (under_speech / alone).log10();
    println!("music under speech: {ducked_db:.1} dB");
    assert!((ducked_db + 12.0).abs() < 1.5, "{ducked_db}");
    call.mixer.set_music(None).unwrap();
    call.ticks(30);
    assert!(call.mixer.is_idle());
    assert_eq!(call.packet, SILENCE);
}

#[test]
fn with_listeners_alone_the_caller_gets_the_agents_own_packets() {
    let mut call = Call::new();
    call.mixer.add_participant(ANNA_ID, Role::Listen, Some(RATE), DEFAULT_MAX_BUFFER).unwrap();
    call.mixer.add_participant(BERTA_ID, Role::Whisper, Some(RATE), DEFAULT_MAX_BUFFER).unwrap();
    let mut encoder = Encoder::new(RATE, Profile::Eco).unwrap();
    let (mut packet, mut on_air) = (Vec::new(), Vec::new());
    for frame in tone(AGENT, RATE, 100).chunks_exact(320) {
        encoder.encode(frame, &mut packet).unwrap();
        on_air.clone_from(&packet);
        call.mixer.participant_queue_mut(BERTA_ID).unwrap().push_pcm(&[1; 640]).unwrap();
        assert_eq!(call.mixer.tick(&mut on_air, true), Mixed { talking: true, replaced: false });
        assert_eq!(on_air, packet);
    }
}

#[test]
fn a_silent_participant_costs_no_encoding() {
    for zeros in [0, 40 * 480] {
        let mut call = Call::new();
        let rate = SampleRate::Hz24000;
        call.mixer.add_participant(ANNA_ID, Role::Join, Some(rate), DEFAULT_MAX_BUFFER).unwrap();
        call.ticks(50);
        let said = [tone(ANNA, rate, 5), vec![0; zeros]].concat();
        call.mixer.participant_queue_mut(ANNA_ID).unwrap().push_pcm(&bytes(&said)).unwrap();
        let mut replaced = 0;
        for _ in 0..50 {
            replaced += u32::from(call.tick().replaced);
        }
        assert!((6..=9).contains(&replaced), "{zeros} {replaced}");
        assert_eq!(call.packet, SILENCE);
    }
}

/// Neither a participant that comes and goes in the middle of the agent's words nor music makes an edge: no step between
/// neighbouring samples is larger than in the sounds themselves.
#[test]
fn nothing_clicks_when_mixing_begins_or_ends() {
    for hz in [437.0, 850.0] {
        let mut call = Call::new();
        call.mixer.add_participant(BERTA_ID, Role::Listen, Some(RATE), DEFAULT_MAX_BUFFER).unwrap();
        call.agent_says(&tone(hz, RATE, 600));
        call.ticks(50);
        let alone = step(call.phone.second_half());
        call.phone.0.drain(..20 * 320);
        call.mixer.add_participant(ANNA_ID, Role::Join, Some(RATE), DEFAULT_MAX_BUFFER).unwrap();
        call.ticks(20);
        let entered = step(&call.phone.0);
        call.mixer.participant_queue_mut(ANNA_ID).unwrap().push_pcm(&bytes(&tone(hz, RATE, 100))).unwrap();
        call.ticks(20);
        let together = step(&call.phone.0);
        call.mixer.remove_participant(ANNA_ID).unwrap();
        call.ticks(10);
        let gone = step(&call.phone.0[call.phone.0.len() - 10 * 320..]);
        call.ticks(80);
        assert!(call.tick().replaced, "mixing goes on while the agent speaks");
        call.phone.0.drain(..call.phone.0.len() - 320);
        call.ticks(40);
        assert!(!call.tick().replaced, "and not for ever");
        let left = step(&call.phone.0);
        println!("{hz} Hz: alone {alone}, entered {entered}, together {together}, gone {gone}, left {left}");
        assert!(entered <= alone * 3 / 2, "{hz}: {entered}");
        assert!(together <= alone * 3, "{hz}: {together}");
        assert!(gone <= alone * 5 / 2, "{hz}: {gone}");
        assert!(left <= alone * 2, "{hz}: {left}");
    }
}

/// Relayed packets and prompts count as talking all the time; their pauses are used as well.
#[test]
fn mixing_ends_in_a_pause() {
    let mut call = Call::new();
    call.mixer.add_participant(ANNA_ID, Role::Join, Some(RATE), DEFAULT_MAX_BUFFER).unwrap();
    call.mixer.participant_queue_mut(ANNA_ID).unwrap().push_pcm(&bytes(&tone(ANNA, RATE, 10))).unwrap();
    // The faintest noise, because zeros are silence to the source too.
    call.agent_says(&[tone(AGENT, RATE, 40), vec![1; 40 * 320], tone(AGENT, RATE, 40)].concat());
    call.ticks(10);
    call.mixer.remove_participant(ANNA_ID).unwrap();
    for frame in 10..120 {
        let mixed = call.tick();
        assert_eq!(mixed.replaced, frame < 42, "{frame}");
        assert!(mixed.talking);
    }
    let after_anna = step(&call.phone.0[15 * 320..]);
    assert!(after_anna < 1200, "{after_anna}");
}

/// A tone that is taken up in the middle of a sample is noise at full scale.
#[test]
fn half_a_sample_too_much_spoils_nothing_a_participant_says_later() {
    for rate in SampleRate::ALL {
        let mut call = Call::new();
        call.mixer.add_participant(ANNA_ID, Role::Join, Some(rate), DEFAULT_MAX_BUFFER).unwrap();
        let mut utterance = bytes(&tone(ANNA, rate, 20));
        utterance.push(0x11);
        call.mixer.participant_queue_mut(ANNA_ID).unwrap().push_pcm(&utterance).unwrap();
        call.ticks(95);
        call.phone.0.clear();
        call.mixer.participant_queue_mut(ANNA_ID).unwrap().push_pcm(&bytes(&tone(ANNA, rate, 50))).unwrap();
        call.ticks(50);
        assert_eq!(call.phone.people(RATE), [ANNA], "{rate:?}");
        let loudest = call.phone.0.iter().map(|sample| sample.unsigned_abs()).max();
        assert!(loudest < Some(4000), "{rate:?} {loudest:?}");
    }
}

#[test]
fn a_participants_queued_audio_is_heard_before_audio_in_another_format() {
    let forms = [Some(SampleRate::Hz8000), Some(SampleRate::Hz48000), None];
    for before in forms {
        for after in forms {
            let mut call = Call::new();
            call.mixer.add_participant(ANNA_ID, Role::Join, before, DEFAULT_MAX_BUFFER).unwrap();
            call.participant_says(ANNA_ID, before, &|rate| tone(ANNA, rate, 30));
            assert_eq!(call.mixer.change_format(ANNA_ID, after), Ok(Duration::ZERO));
            call.participant_says(ANNA_ID, after, &|rate| tone(BERTA, rate, 30));
            call.ticks(26);
            assert_eq!(call.phone.people(RATE), [ANNA], "{before:?} {after:?}");
            call.phone.0.clear();
            call.anna.0.clear();
            call.ticks(32);
            assert_eq!(call.phone.people(RATE), [BERTA], "{before:?} {after:?}");
            let edge = step(&call.phone.0);
            assert!(edge < 3600, "{before:?} {after:?} {edge}");
        }
    }
    assert_eq!(Call::new().mixer.change_format(ANNA_ID, None), Err(MixerError::UnknownParticipant(ANNA_ID)));
}

#[test]
fn what_a_listener_said_is_not_heard_later() {
    let mut call = Call::new();
    call.mixer.add_participant(ANNA_ID, Role::Listen, Some(RATE), DEFAULT_MAX_BUFFER).unwrap();
    call.mixer.participant_queue_mut(ANNA_ID).unwrap().push_pcm(&bytes(&tone(ANNA, RATE, 50))).unwrap();
    call.ticks(50);
    call.mixer.set_role(ANNA_ID, Role::Join).unwrap();
    call.phone.0.clear();
    call.ticks(50);
    assert!(call.phone.people(RATE).is_empty());
}

#[test]
fn a_participant_that_does_not_take_its_sound_loses_the_oldest() {
    let mut call = Call::new();
    call.mixer.add_participant(ANNA_ID, Role::Listen, Some(SampleRate::Hz24000), DEFAULT_MAX_BUFFER).unwrap();
    for _ in 0..100 {
        call.mixer.tick(&mut SILENCE.to_vec(), false);
    }
    let mut waiting = 0;
    while let Some(sound) = call.mixer.take_for_participant(ANNA_ID) {
        assert_eq!(sound.len(), 960);
        waiting += 1;
    }
    assert_eq!((waiting, call.mixer.dropped_for_participant(ANNA_ID)), (22, Some(78)));
}

#[test]
fn participants_are_counted_and_named_once() {
    let mut mixer = Mixer::new(Profile::Eco).unwrap();
    assert!(mixer.is_idle());
    for id in 0..8 {
        mixer.add_participant(id, Role::Listen, Some(RATE), FRAME).unwrap();
    }
    assert_eq!(mixer.add_participant(3, Role::Join, Some(RATE), FRAME), Err(MixerError::AlreadyPresent(3)));
    assert_eq!(mixer.add_participant(9, Role::Join, Some(RATE), FRAME), Err(MixerError::TooManyParticipants));
    assert_eq!(mixer.set_role(9, Role::Join), Err(MixerError::UnknownParticipant(9)));
    assert_eq!(mixer.remove_participant(9), Err(MixerError::UnknownParticipant(9)));
    mixer.remove_participant(3).unwrap();
    mixer.add_participant(9, Role::Join, Some(RATE), FRAME).unwrap();
    assert_eq!(mixer.participants().count(), MAX_PARTICIPANTS);
    assert!(!mixer.is_idle());
}

#[test]
fn a_frame_needs_no_new_memory() {
    let mut call = Call::new();
    call.mixer.add_participant(ANNA_ID, Role::Join, Some(SampleRate::Hz24000), DEFAULT_MAX_BUFFER).unwrap();
    call.mixer.participant_queue_mut(ANNA_ID).unwrap().push_pcm(&bytes(&tone(ANNA, RATE, 100))).unwrap();
    let mut on_air = Vec::with_capacity(crate::opus::MAX_ENCODED_BYTES);
    let memory = on_air.as_ptr();
    for _ in 0..50 {
        on_air.clear();
        on_air.extend_from_slice(&SILENCE);
        assert!(call.mixer.tick(&mut on_air, false).replaced);
        assert_eq!(on_air.as_ptr(), memory);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_every_frame_is_one_packet(
        steps in prop::collection::vec((0u8..14, 0u32..10, prop::collection::vec(any::<u8>(), 0..80)), 0..250),
    ) {
        let music = Prompt::from_pcm(&tone(MUSIC, RATE, 3), RATE).unwrap();
        let mut mixer = Mixer::new(Profile::Eco).unwrap();
        let mut on_air = Vec::new();
        for (step, id, bytes) in steps {
            let role = [Role::Listen, Role::Whisper, Role::Join][id as usize % 3];
            match step {
                0 => drop(mixer.add_participant(id, role, Some(SampleRate::ALL[id as usize % 4]), FRAME * 10)),
                1 => drop(mixer.remove_participant(id)),
                2 => drop(mixer.set_role(id / 2, role)),
                3 => mixer.set_music(Some(vec![music.clone(); id as usize])).unwrap(),
                4 => mixer.set_music(None).unwrap(),
                5 => mixer.push_caller(&Slot::Packet { timestamp: 0, payload: bytes.into() }),
                6 => mixer.push_caller(&Slot::Lost { timestamp: 0, duration: id * 960, next: Some(bytes.into()) }),
                7 => drop(mixer.take_for_participant(id)),
                8 => drop(mixer.participant_queue_mut(id).map(AgentQueue::clear)),
                9 => drop(mixer.participant_queue_mut(id).map(|queue| queue.push_pcm(&bytes.repeat(20)))),
                _ => {
                    on_air.clear();
                    match inspect(&bytes).is_ok_and(|facts| facts.duration == 960) {
                        true => on_air.extend_from_slice(&bytes),
                        false => on_air.extend_from_slice(&SILENCE),
                    }
                    mixer.tick(&mut on_air, id % 2 == 0);
                    prop_assert_eq!(inspect(&on_air).unwrap().duration, 960);
                }
            }
            prop_assert!(mixer.participants().count() <= MAX_PARTICIPANTS);
        }
    }
}

/// A call, and what everybody in it hears.
/// As a participant with Opus would send them.
fn packets(samples: &[i16]) -> impl Iterator<Item = Bytes> {
    let mut encoder = Encoder::new(RATE, Profile::Hq).unwrap();
    samples.chunks_exact(RATE.samples_per_frame()).map(move |frame| {
        let mut payload = Vec::new();
        encoder.encode(frame, &mut payload).unwrap();
        payload.into()
    })
}

struct Call {
    mixer: Mixer,
    source: Source,
    packet: Vec<u8>,
    decoder: Decoder,
    phone: Ears,
    agent: Ears,
    anna: Ears,
    berta: Ears,
}

#[derive(Default)]
struct Ears(Vec<i16>);

impl Call {
    fn new() -> Self {
        let mut source = Source::new();
        source.attach_agent(AgentQueue::pcm(RATE, DEFAULT_MAX_BUFFER), Profile::Eco).unwrap();
        source.switch_to_agent();
        Self {
            mixer: Mixer::new(Profile::Hq).unwrap(),
            source,
            packet: Vec::new(),
            decoder: Decoder::new(RATE).unwrap(),
            phone: Ears::default(),
            agent: Ears::default(),
            anna: Ears::default(),
            berta: Ears::default(),
        }
    }

    fn everybody_talks(&mut self, frames: usize) {
        let mut encoder = Encoder::new(RATE, Profile::Hq).unwrap();
        self.agent_says(&tone(AGENT, RATE, frames));
        for (id, hz) in [(ANNA_ID, ANNA), (BERTA_ID, BERTA)] {
            if let Some(rate) = self.mixer.participant_queue_mut(id).map(|queue| queue.rate()) {
                self.participant_says(id, rate, &|rate| tone(hz, rate, frames));
            }
        }
        for frame in tone(CALLER, RATE, frames).chunks_exact(320) {
            let mut payload = Vec::new();
            encoder.encode(frame, &mut payload).unwrap();
            self.mixer.push_caller(&Slot::Packet { timestamp: 0, payload: payload.into() });
            self.tick();
        }
    }

    /// In samples at this rate, or in Opus packets.
    fn participant_says(
        &mut self,
        id: ParticipantId,
        rate: Option<SampleRate>,
        sound: &dyn Fn(SampleRate) -> Vec<i16>,
    ) {
        let queue = self.mixer.participant_queue_mut(id).unwrap();
        match rate {
            Some(rate) => drop(queue.push_pcm(&bytes(&sound(rate))).unwrap()),
            None => packets(&sound(RATE)).for_each(|packet| assert!(queue.push_opus(packet).is_ok())),
        }
    }

    fn agent_says(&mut self, samples: &[i16]) {
        self.source.queue_mut().unwrap().push_pcm(&bytes(samples)).unwrap();
    }

    fn ticks(&mut self, frames: usize) {
        for _ in 0..frames {
            self.tick();
        }
    }

    fn tick(&mut self) -> Mixed {
        let filled = self.source.fill(&mut self.packet);
        if self.source.is_held() {
            self.mixer.pull_agent(self.source.queue_mut().unwrap());
        }
        let mixed = self.mixer.tick(&mut self.packet, filled.talking);
        self.decoder.decode(&self.packet, &mut self.phone.0).unwrap();
        self.agent.0.extend(self.mixer.agent_mix().unwrap_or_default());
        for (id, ears) in [(ANNA_ID, &mut self.anna), (BERTA_ID, &mut self.berta)] {
            let sound = self.mixer.take_for_participant(id).unwrap_or_default();
            ears.0.extend(sound.as_chunks::<2>().0.iter().map(|pair| i16::from_le_bytes(*pair)));
        }
        mixed
    }
}

impl Ears {
    fn second_half(&self) -> &[i16] {
        &self.0[self.0.len() / 2..]
    }

    /// Whose tones are heard, lowest first. Each speaks at a level of 3000, music is ducked.
    fn people(&self, rate: SampleRate) -> Vec<f64> {
        let heard = self.second_half();
        EVERYBODY.into_iter().filter(|hz| level(heard, *hz, rate) > 400.0).collect()
    }
}

fn sorted(always: &[Option<f64>], sometimes: &[Option<f64>]) -> Vec<f64> {
    let wanted: Vec<f64> = always.iter().chain(sometimes).flatten().copied().collect();
    EVERYBODY.into_iter().filter(|hz| wanted.contains(hz)).collect()
}

fn tone(hz: f64, rate: SampleRate, frames: usize) -> Vec<i16> {
    (0..frames * rate.samples_per_frame())
        .map(|index| (3000.0 * (TAU * hz * index as f64 / f64::from(rate.hz())).sin()) as i16)
        .collect()
}

fn steady_tone(hz: f64) -> Prompt {
    Prompt::from_pcm(&tone(hz, RATE, 500), RATE).unwrap()
}

fn bytes(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

/// The amplitude at one frequency.
fn level(pcm: &[i16], hz: f64, rate: SampleRate) -> f64 {
    let turn = TAU * hz / f64::from(rate.hz());
    let (mut real, mut imaginary) = (0.0, 0.0);
    for (index, &sample) in pcm.iter().enumerate() {
        let (sample, angle) = (f64::from(sample), turn * index as f64);
        real += sample * angle.cos();
        imaginary += sample * angle.sin();
    }
    2.0 * f64::hypot(real, imaginary) / pcm.len().max(1) as f64
}

/// The largest step between neighbouring samples.
fn step(pcm: &[i16]) -> u16 {
    pcm.windows(2).map(|pair| pair[0].abs_diff(pair[1])).max().unwrap_or(0)
}
