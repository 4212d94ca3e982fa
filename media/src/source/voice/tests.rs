//! The agent's queue, frame by frame.

mod live;

use super::*;
use crate::opus::SILENCE;
use proptest::prelude::*;

const RATE: SampleRate = SampleRate::Hz16000;
const FRAME_SAMPLES: usize = 320;

#[test]
fn chunks_of_any_size_come_out_as_the_same_samples() {
    let samples: Vec<i16> = (0..960).collect();
    let bytes = bytes_of(&samples);
    for size in [1, 3, 7, 641, 2000] {
        let mut voice = voice();
        for chunk in bytes.chunks(size) {
            voice.push_pcm(chunk).unwrap();
        }
        let heard: Vec<i16> = (0..3).flat_map(|_| speech_frame(&mut voice)).collect();
        assert_eq!(heard, samples, "{size}");
    }
}

#[test]
fn half_a_sample_too_much_is_no_part_of_the_next_utterance() {
    type Between = fn(&mut Voice);
    let betweens: [(&str, Between); 7] = [
        ("1.5 s of nothing", |voice| idle(voice, 75)),
        ("200 ms of nothing", |voice| idle(voice, 10)),
        ("nothing while it is muted", |voice| (0..75).for_each(|_| voice.let_go())),
        ("nothing while a prompt is on air", |voice| (0..75).for_each(|_| voice.pass_by())),
        ("nothing while it is paused", |voice| {
            voice.pause();
            idle(voice, 75);
            voice.resume();
        }),
        ("a mark", |voice| voice.mark("whole".into()).unwrap()),
        ("a clear", |voice| {
            voice.clear();
        }),
    ];
    for (what, between) in betweens {
        let mut voice = voice();
        push(&mut voice, &[5; FRAME_SAMPLES]);
        voice.push_pcm(&[0x11]).unwrap();
        speech_frame(&mut voice);
        between(&mut voice);
        push(&mut voice, &[1000; FRAME_SAMPLES]);
        assert_eq!(speech_frame(&mut voice), [1000; FRAME_SAMPLES], "{what}");
    }
}

#[test]
fn a_stream_cut_at_odd_bytes_may_be_late() {
    for late_frames in [0, 1, 5, 10] {
        let (mut voice, mut heard) = (voice(), Vec::new());
        for (index, chunk) in bytes_of(&[1000; 100 * FRAME_SAMPLES]).chunks(641).enumerate() {
            voice.push_pcm(chunk).unwrap();
            heard.extend(taken(&mut voice).1);
            // After an odd number of such chunks half a sample waits.
            if index % 10 == 6 {
                (0..late_frames).for_each(|_| heard.extend(taken(&mut voice).1));
            }
        }
        // What is late costs silence and fades, never the right sample.
        assert!(heard.iter().all(|sample| (0..=1000).contains(sample)), "{late_frames}");
        assert!(heard.iter().filter(|sample| **sample == 1000).count() > 95 * FRAME_SAMPLES, "{late_frames}");
    }
}

#[test]
fn a_stream_may_begin_with_half_a_sample_after_a_long_silence() {
    let mut voice = voice();
    idle(&mut voice, 100);
    let bytes = bytes_of(&[0x0201; FRAME_SAMPLES]);
    voice.push_pcm(&bytes[..1]).unwrap();
    taken(&mut voice);
    voice.push_pcm(&bytes[1..]).unwrap();
    assert_eq!(speech_frame(&mut voice), [0x0201; FRAME_SAMPLES]);
}

#[test]
fn a_half_frame_waits_one_tick_and_is_completed() {
    let mut voice = voice();
    push(&mut voice, &[1000; 200]);
    assert_eq!(taken(&mut voice).0, Taken::Silence);
    push(&mut voice, &[1000; 120]);
    assert_eq!(speech_frame(&mut voice), [1000; FRAME_SAMPLES]);
}

#[test]
fn a_half_frame_that_nothing_follows_goes_out_with_a_fade() {
    let mut voice = voice();
    push(&mut voice, &[1000; 200]);
    assert_eq!(taken(&mut voice).0, Taken::Silence);
    let frame = speech_frame(&mut voice);
    assert!(frame[..120].iter().all(|&sample| sample == 1000));
    assert!(frame[120..200].is_sorted_by(|before, after| before >= after));
    assert_eq!(frame[199], 0);
    assert!(frame[200..].iter().all(|&sample| sample == 0));
    assert_eq!(voice.queued(), Duration::ZERO);
}

#[test]
fn marks_are_told_when_the_sound_before_them_has_left() {
    let mut voice = voice();
    voice.mark("nothing before".into()).unwrap();
    push(&mut voice, &[1; 400]);
    voice.mark("first".into()).unwrap();
    push(&mut voice, &[1; 240]);
    voice.mark("second".into()).unwrap();
    voice.mark("third".into()).unwrap();
    assert_eq!(told(&mut voice), [played("nothing before")]);
    speech_frame(&mut voice);
    assert_eq!(told(&mut voice), []);
    speech_frame(&mut voice);
    assert_eq!(told(&mut voice), [played("first"), played("second"), played("third")]);
}

#[test]
fn clear_empties_everything_and_says_what_was_heard() {
    let mut voice = voice();
    push(&mut voice, &[1; 1000]);
    voice.mark("done".into()).unwrap();
    speech_frame(&mut voice);
    voice.push_pcm(&[7]).unwrap();
    let cleared = voice.clear();
    assert_eq!((cleared.played_ms, cleared.dropped_ms), (20, 42));
    assert_eq!(told(&mut voice), [("done".into(), MarkStatus::Cleared)]);
    assert_eq!(taken(&mut voice), (Taken::Silence, [0; FRAME_SAMPLES]));
    assert_eq!(voice.queued(), Duration::ZERO);
    assert_eq!(voice.clear(), Cleared::default());
    push(&mut voice, &[0x0201; FRAME_SAMPLES]);
    assert_eq!(speech_frame(&mut voice), [0x0201; FRAME_SAMPLES], "the half sample is gone");
}

#[test]
fn another_form_waits_behind_the_one_before() {
    let mut voice = voice();
    push(&mut voice, &[1000; 400]);
    voice.mark("old".into()).unwrap();
    voice.push_pcm(&[7]).unwrap();
    assert_eq!(voice.change_to(Some(SampleRate::Hz8000)), Duration::ZERO);
    push(&mut voice, &[2000; 160]);
    voice.mark("new".into()).unwrap();
    assert_eq!((voice.queued(), voice.rate()), (Duration::from_millis(45), Some(RATE)));
    assert_eq!(speech_frame(&mut voice), [1000; FRAME_SAMPLES]);
    assert_eq!(told(&mut voice), []);
    // Nothing completes the last part of the old form, so it does not wait.
    let rest = speech_frame(&mut voice);
    assert!(rest[0] > 900 && rest[80..].iter().all(|sample| *sample == 0));
    assert_eq!(told(&mut voice), [played("old")]);
    assert_eq!(voice.rate(), Some(SampleRate::Hz8000));
    let mut frame = [99; 160];
    assert_eq!((voice.take_frame(&mut frame), frame), (Taken::Speech, [2000; 160]));
    assert_eq!(told(&mut voice), [played("new")]);
    assert_eq!(voice.clear(), Cleared { played_ms: 45, dropped_ms: 0 });
}

#[test]
fn the_same_form_again_loses_nothing_but_half_a_sample() {
    let mut voice = voice();
    push(&mut voice, &[1; FRAME_SAMPLES / 2]);
    voice.push_pcm(&[7]).unwrap();
    assert_eq!(voice.change_to(Some(RATE)), Duration::ZERO);
    push(&mut voice, &[1; FRAME_SAMPLES / 2]);
    assert_eq!(speech_frame(&mut voice), [1; FRAME_SAMPLES]);
}

#[test]
fn packets_and_samples_may_follow_each_other() {
    let mut voice = Voice::opus(DEFAULT_MAX_BUFFER);
    let silence = Bytes::from_static(&SILENCE);
    voice.push(silence.clone()).unwrap();
    voice.change_to(Some(RATE));
    push(&mut voice, &[1; FRAME_SAMPLES]);
    voice.change_to(None);
    voice.push(silence.clone()).unwrap();
    assert_eq!(voice.rate(), None);
    assert_eq!(taken(&mut voice).0, Taken::Silence, "packets are taken next");
    assert_eq!(voice.take_packet(), Some(silence.clone()));
    assert_eq!((voice.take_packet(), voice.rate()), (None, Some(RATE)));
    assert_eq!(speech_frame(&mut voice), [1; FRAME_SAMPLES]);
    assert_eq!((voice.take_packet(), voice.queued()), (Some(silence), Duration::ZERO));
}

#[test]
fn a_clear_and_the_bound_are_for_all_forms_together() {
    let mut voice = Voice::pcm(RATE, Duration::from_millis(100));
    assert_eq!(push(&mut voice, &[1; 4 * FRAME_SAMPLES]), Room::Free);
    voice.mark("first".into()).unwrap();
    voice.change_to(Some(SampleRate::Hz8000));
    assert_eq!(push(&mut voice, &[1; 160]), Room::Full);
    voice.mark("second".into()).unwrap();
    push(&mut voice, &[1; 160]);
    assert_eq!((voice.queued(), voice.refused()), (5 * FRAME, FRAME));
    speech_frame(&mut voice);
    assert_eq!(voice.room(), Room::Full);
    speech_frame(&mut voice);
    assert_eq!(voice.room(), Room::Free);
    assert_eq!(voice.clear(), Cleared { played_ms: 40, dropped_ms: 60 });
    let cleared = |name: &str| (name.into(), MarkStatus::Cleared);
    assert_eq!(told(&mut voice), [cleared("first"), cleared("second")]);
    assert_eq!(voice.rate(), Some(SampleRate::Hz8000), "the last form stays");
}

#[test]
fn of_too_many_forms_all_that_waits_is_thrown_away_and_told() {
    let mut voice = voice();
    for rate in [SampleRate::Hz8000, RATE, SampleRate::Hz8000] {
        push(&mut voice, &[1; FRAME_SAMPLES]);
        assert_eq!(voice.change_to(Some(rate)), Duration::ZERO);
    }
    push(&mut voice, &[1; 160]);
    voice.mark("late".into()).unwrap();
    assert_eq!(voice.change_to(Some(SampleRate::Hz8000)), Duration::ZERO, "the same form again is no other");
    assert_eq!(voice.change_to(Some(RATE)), Duration::from_millis(20 + 40 + 20 + 20));
    assert_eq!(told(&mut voice), [("late".into(), MarkStatus::Cleared)]);
    push(&mut voice, &[3; FRAME_SAMPLES]);
    assert_eq!(speech_frame(&mut voice), [3; FRAME_SAMPLES]);
}

#[test]
fn padding_is_not_counted_as_heard() {
    let mut voice = voice();
    push(&mut voice, &[1; 160]);
    taken(&mut voice);
    speech_frame(&mut voice);
    assert_eq!(voice.clear().played_ms, 10);
}

#[test]
fn an_utterance_survives_a_short_silence_and_ends_with_a_long_one() {
    let mut voice = voice();
    for (silent_frames, expected_ms) in [(49, 40), (50, 20)] {
        voice.clear();
        push(&mut voice, &[1; FRAME_SAMPLES]);
        speech_frame(&mut voice);
        for _ in 0..silent_frames {
            taken(&mut voice);
        }
        push(&mut voice, &[1; FRAME_SAMPLES]);
        speech_frame(&mut voice);
        assert_eq!(voice.clear().played_ms, expected_ms);
    }
}

#[test]
fn an_utterance_that_ended_is_still_reported_until_the_next_begins() {
    let mut voice = voice();
    push(&mut voice, &[1; FRAME_SAMPLES]);
    for _ in 0..100 {
        taken(&mut voice);
    }
    assert_eq!(voice.clear().played_ms, 20);
}

#[test]
fn a_paused_voice_keeps_its_queue() {
    let mut voice = voice();
    push(&mut voice, &[5; 2 * FRAME_SAMPLES]);
    speech_frame(&mut voice);
    voice.pause();
    for _ in 0..100 {
        assert_eq!(taken(&mut voice), (Taken::Silence, [0; FRAME_SAMPLES]));
    }
    assert_eq!(voice.queued(), FRAME);
    voice.resume();
    assert_eq!(speech_frame(&mut voice), [5; FRAME_SAMPLES]);
    assert_eq!(voice.clear().played_ms, 40, "a pause ends no utterance");
}

#[test]
fn a_full_queue_loses_nothing_until_it_is_ignored() {
    let mut voice = Voice::pcm(RATE, Duration::from_millis(100));
    assert_eq!(push(&mut voice, &[1; 4 * FRAME_SAMPLES]), Room::Free);
    assert_eq!(push(&mut voice, &[1; 4 * FRAME_SAMPLES]), Room::Full);
    assert_eq!((voice.queued(), voice.refused()), (8 * FRAME, Duration::ZERO));
    push(&mut voice, &[1; FRAME_SAMPLES]);
    assert_eq!((voice.queued(), voice.refused()), (8 * FRAME, FRAME));
    for _ in 0..4 {
        speech_frame(&mut voice);
        assert_eq!(voice.room(), Room::Full);
    }
    speech_frame(&mut voice);
    assert_eq!((voice.queued(), voice.room()), (3 * FRAME, Room::Free));
}

/// A muted agent that was told to stop may go on as soon as there is room; it would wait for that word for ever.
#[test]
fn what_is_let_go_makes_room_too() {
    let mut voice = Voice::pcm(RATE, Duration::from_millis(100));
    assert_eq!(push(&mut voice, &[1; 5 * FRAME_SAMPLES]), Room::Full);
    voice.let_go();
    assert_eq!((voice.queued(), voice.room()), (4 * FRAME, Room::Full));
    voice.let_go();
    assert_eq!((voice.queued(), voice.room()), (3 * FRAME, Room::Free));
}

#[test]
fn one_huge_push_is_cut_at_twice_the_bound() {
    let mut voice = Voice::pcm(RATE, Duration::from_millis(100));
    push(&mut voice, &[1; 100 * FRAME_SAMPLES]);
    assert_eq!((voice.queued(), voice.refused()), (10 * FRAME, 90 * FRAME));
}

#[test]
fn refused_bytes_do_not_shift_the_samples_after_them() {
    let mut voice = Voice::pcm(RATE, FRAME);
    push(&mut voice, &[1; FRAME_SAMPLES]);
    voice.push_pcm(&[9, 9, 9]).unwrap();
    speech_frame(&mut voice);
    voice.push_pcm(&[0]).unwrap();
    push(&mut voice, &[0x0201; FRAME_SAMPLES]);
    let frame = speech_frame(&mut voice);
    assert_eq!(frame[0], 9);
    assert_eq!(frame[1..], [0x0201; FRAME_SAMPLES - 1]);
}

#[test]
fn marks_are_bounded() {
    let mut voice = voice();
    push(&mut voice, &[1]);
    for _ in 0..MAX_MARKS {
        voice.mark("m".into()).unwrap();
    }
    assert_eq!(voice.mark("one more".into()), Err(TooManyMarks));
    voice.clear();
    assert_eq!(voice.mark("untold ones count".into()), Err(TooManyMarks));
}

#[test]
fn the_names_of_marks_are_bounded_together() {
    let mut voice = voice();
    push(&mut voice, &[1]);
    let half = "m".repeat(MAX_MARK_BYTES / 2);
    voice.mark(half.clone()).unwrap();
    voice.mark(half).unwrap();
    assert_eq!(voice.mark("m".into()), Err(TooManyMarks));
    voice.clear();
    assert_eq!(voice.mark("m".into()), Err(TooManyMarks), "untold ones count");
    while voice.poll_event().is_some() {}
    voice.mark("m".repeat(MAX_MARK_BYTES)).unwrap();
}

#[test]
fn an_opus_agent_sends_packets_of_20_ms() {
    let mut voice = Voice::opus(Duration::from_millis(60));
    let silence = Bytes::from_static(&SILENCE);
    let sixty = PushError::PacketDuration { ticks: 2880 };
    assert_eq!(voice.push_opus(Bytes::from_static(&[11 << 3, 0])), Err(sixty));
    assert_eq!(voice.push_opus(Bytes::new()), Err(PacketError::Empty.into()));
    assert_eq!(voice.push_pcm(&[0; 4]), Err(PushError::WrongEncoding));
    assert_eq!(voice.push_opus(silence.clone()), Ok(Room::Free));
    voice.mark("one".into()).unwrap();
    assert_eq!(voice.push_opus(silence.clone()), Ok(Room::Free));
    assert_eq!(voice.push_opus(silence.clone()), Ok(Room::Full));
    voice.push_opus(silence.clone()).unwrap();
    assert_eq!((voice.queued(), voice.refused()), (3 * FRAME, FRAME));
    assert_eq!(voice.take_packet(), Some(silence));
    assert_eq!(told(&mut voice), [played("one")]);
    let cleared = voice.clear();
    assert_eq!((cleared.played_ms, cleared.dropped_ms), (20, 40));
    assert_eq!(voice.take_packet(), None);
}

#[derive(Debug, Clone)]
enum Step {
    Push(Vec<u8>),
    Mark,
    Take,
    Clear,
    Change(SampleRate),
    Pause,
    Resume,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..3000).prop_map(Step::Push),
        2 => Just(Step::Mark),
        6 => Just(Step::Take),
        1 => Just(Step::Clear),
        1 => prop::sample::select(SampleRate::ALL.to_vec()).prop_map(Step::Change),
        1 => Just(Step::Pause),
        1 => Just(Step::Resume),
    ]
}

proptest! {
    /// Whatever an agent does: each mark is told once and in order, and what was pushed was heard, dropped or waits.
    #[test]
    fn nothing_is_lost_or_told_twice(steps in prop::collection::vec(step(), 1..120)) {
        let mut voice = Voice::pcm(RATE, Duration::from_millis(500));
        let (mut placed, mut heard) = (0u32, Vec::new());
        for step in steps {
            match step {
                Step::Push(bytes) => {
                    voice.push_pcm(&bytes).unwrap();
                }
                Step::Mark => {
                    voice.mark(placed.to_string()).unwrap();
                    placed += 1;
                }
                Step::Take => {
                    let before = voice.queued();
                    let mut frame = vec![99; voice.rate().unwrap().samples_per_frame()];
                    if voice.take_frame(&mut frame) == Taken::Silence {
                        prop_assert!(frame.iter().all(|sample| *sample == 0));
                        prop_assert_eq!(voice.queued(), before);
                    } else {
                        prop_assert!(before - voice.queued() <= FRAME);
                    }
                }
                Step::Clear => {
                    let queued = voice.queued();
                    let cleared = voice.clear();
                    prop_assert_eq!(cleared.dropped_ms, queued.as_millis() as u64);
                    prop_assert_eq!(voice.queued(), Duration::ZERO);
                }
                Step::Change(rate) => {
                    let queued = voice.queued();
                    let dropped = voice.change_to(Some(rate));
                    prop_assert_eq!(dropped, queued - voice.queued());
                }
                Step::Pause => voice.pause(),
                Step::Resume => voice.resume(),
            }
            prop_assert!(voice.queued() <= Duration::from_secs(1));
            heard.extend(told(&mut voice).into_iter().map(|(name, _)| name));
        }
        voice.clear();
        heard.extend(told(&mut voice).into_iter().map(|(name, _)| name));
        let expected: Vec<String> = (0..placed).map(|name| name.to_string()).collect();
        prop_assert_eq!(heard, expected);
    }

    #[test]
    fn any_chunking_gives_the_same_sound(
        samples in prop::collection::vec(any::<i16>(), FRAME_SAMPLES * 4),
        sizes in prop::collection::vec(1usize..900, 1..20),
    ) {
        let mut voice = voice();
        let bytes = bytes_of(&samples);
        let mut rest = bytes.as_slice();
        for size in sizes.iter().cycle() {
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            voice.push_pcm(chunk).unwrap();
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let heard: Vec<i16> = (0..4).flat_map(|_| taken(&mut voice).1).collect();
        prop_assert_eq!(heard, samples);
    }
}

fn voice() -> Voice {
    Voice::pcm(RATE, DEFAULT_MAX_BUFFER)
}

fn push(voice: &mut Voice, samples: &[i16]) -> Room {
    voice.push_pcm(&bytes_of(samples)).unwrap()
}

fn bytes_of(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

fn taken(voice: &mut Voice) -> (Taken, [i16; FRAME_SAMPLES]) {
    let mut frame = [99; FRAME_SAMPLES];
    (voice.take_frame(&mut frame), frame)
}

/// Nothing is there to be taken.
fn idle(voice: &mut Voice, frames: u32) {
    for _ in 0..frames {
        assert_eq!(taken(voice).0, Taken::Silence);
    }
}

fn speech_frame(voice: &mut Voice) -> [i16; FRAME_SAMPLES] {
    let (what, frame) = taken(voice);
    assert_eq!(what, Taken::Speech);
    frame
}

fn told(voice: &mut Voice) -> Vec<(String, MarkStatus)> {
    std::iter::from_fn(|| voice.poll_event()).map(|VoiceEvent::Mark { name, status }| (name, status)).collect()
}

fn played(name: &str) -> (String, MarkStatus) {
    (name.into(), MarkStatus::Played)
}
