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
        let mut queue = queue();
        for chunk in bytes.chunks(size) {
            queue.push_pcm(chunk).unwrap();
        }
        let heard: Vec<i16> = (0..3).flat_map(|_| speech_frame(&mut queue)).collect();
        assert_eq!(heard, samples, "{size}");
    }
}

#[test]
fn half_a_sample_too_much_is_no_part_of_the_next_utterance() {
    type Between = fn(&mut AgentQueue);
    let betweens: [(&str, Between); 7] = [
        ("1.5 s of nothing", |queue| idle(queue, 75)),
        ("200 ms of nothing", |queue| idle(queue, 10)),
        ("nothing while it is muted", |queue| (0..75).for_each(|_| queue.discard_frame())),
        ("nothing while a prompt is on air", |queue| (0..75).for_each(|_| queue.tick_off_air())),
        ("nothing while it is paused", |queue| {
            queue.pause();
            idle(queue, 75);
            queue.resume();
        }),
        ("a mark", |queue| queue.mark("whole".into()).unwrap()),
        ("a clear", |queue| {
            queue.clear();
        }),
    ];
    for (what, between) in betweens {
        let mut queue = queue();
        push(&mut queue, &[5; FRAME_SAMPLES]);
        queue.push_pcm(&[0x11]).unwrap();
        speech_frame(&mut queue);
        between(&mut queue);
        push(&mut queue, &[1000; FRAME_SAMPLES]);
        assert_eq!(speech_frame(&mut queue), [1000; FRAME_SAMPLES], "{what}");
    }
}

#[test]
fn a_stream_cut_at_odd_bytes_may_be_late() {
    for late_frames in [0, 1, 5, 10] {
        let (mut queue, mut heard) = (queue(), Vec::new());
        for (index, chunk) in bytes_of(&[1000; 100 * FRAME_SAMPLES]).chunks(641).enumerate() {
            queue.push_pcm(chunk).unwrap();
            heard.extend(taken(&mut queue).1);
            // After an odd number of such chunks half a sample waits.
            if index % 10 == 6 {
                (0..late_frames).for_each(|_| heard.extend(taken(&mut queue).1));
            }
        }
        // Late chunks cost silence and fades, never a wrong sample.
        assert!(heard.iter().all(|sample| (0..=1000).contains(sample)), "{late_frames}");
        assert!(heard.iter().filter(|sample| **sample == 1000).count() > 95 * FRAME_SAMPLES, "{late_frames}");
    }
}

#[test]
fn a_stream_may_begin_with_half_a_sample_after_a_long_silence() {
    let mut queue = queue();
    idle(&mut queue, 100);
    let bytes = bytes_of(&[0x0201; FRAME_SAMPLES]);
    queue.push_pcm(&bytes[..1]).unwrap();
    taken(&mut queue);
    queue.push_pcm(&bytes[1..]).unwrap();
    assert_eq!(speech_frame(&mut queue), [0x0201; FRAME_SAMPLES]);
}

#[test]
fn a_half_frame_waits_one_tick_and_is_completed() {
    let mut queue = queue();
    push(&mut queue, &[1000; 200]);
    assert_eq!(taken(&mut queue).0, Taken::Silence);
    push(&mut queue, &[1000; 120]);
    assert_eq!(speech_frame(&mut queue), [1000; FRAME_SAMPLES]);
}

#[test]
fn a_half_frame_that_nothing_follows_goes_out_with_a_fade() {
    let mut queue = queue();
    push(&mut queue, &[1000; 200]);
    assert_eq!(taken(&mut queue).0, Taken::Silence);
    let frame = speech_frame(&mut queue);
    assert!(frame[..120].iter().all(|&sample| sample == 1000));
    assert!(frame[120..200].is_sorted_by(|before, after| before >= after));
    assert_eq!(frame[199], 0);
    assert!(frame[200..].iter().all(|&sample| sample == 0));
    assert_eq!(queue.queued(), Duration::ZERO);
}

#[test]
fn marks_are_reported_when_the_audio_before_them_has_left() {
    let mut queue = queue();
    queue.mark("nothing before".into()).unwrap();
    push(&mut queue, &[1; 400]);
    queue.mark("first".into()).unwrap();
    push(&mut queue, &[1; 240]);
    queue.mark("second".into()).unwrap();
    queue.mark("third".into()).unwrap();
    assert_eq!(events(&mut queue), [played("nothing before")]);
    speech_frame(&mut queue);
    assert_eq!(events(&mut queue), []);
    speech_frame(&mut queue);
    assert_eq!(events(&mut queue), [played("first"), played("second"), played("third")]);
}

#[test]
fn clear_empties_everything_and_says_what_was_heard() {
    let mut queue = queue();
    push(&mut queue, &[1; 1000]);
    queue.mark("done".into()).unwrap();
    speech_frame(&mut queue);
    queue.push_pcm(&[7]).unwrap();
    let cleared = queue.clear();
    assert_eq!((cleared.played_ms, cleared.dropped_ms), (20, 42));
    assert_eq!(events(&mut queue), [("done".into(), MarkStatus::Cleared)]);
    assert_eq!(taken(&mut queue), (Taken::Silence, [0; FRAME_SAMPLES]));
    assert_eq!(queue.queued(), Duration::ZERO);
    assert_eq!(queue.clear(), Cleared::default());
    push(&mut queue, &[0x0201; FRAME_SAMPLES]);
    assert_eq!(speech_frame(&mut queue), [0x0201; FRAME_SAMPLES], "the half sample is gone");
}

#[test]
fn another_format_waits_behind_the_one_before() {
    let mut queue = queue();
    push(&mut queue, &[1000; 400]);
    queue.mark("old".into()).unwrap();
    queue.push_pcm(&[7]).unwrap();
    assert_eq!(queue.change_to(Some(SampleRate::Hz8000)), Duration::ZERO);
    push(&mut queue, &[2000; 160]);
    queue.mark("new".into()).unwrap();
    assert_eq!((queue.queued(), queue.rate()), (Duration::from_millis(45), Some(RATE)));
    assert_eq!(speech_frame(&mut queue), [1000; FRAME_SAMPLES]);
    assert_eq!(events(&mut queue), []);
    // Nothing completes the last part of the old format, so it does not wait.
    let rest = speech_frame(&mut queue);
    assert!(rest[0] > 900 && rest[80..].iter().all(|sample| *sample == 0));
    assert_eq!(events(&mut queue), [played("old")]);
    assert_eq!(queue.rate(), Some(SampleRate::Hz8000));
    let mut frame = [99; 160];
    assert_eq!((queue.take_frame(&mut frame), frame), (Taken::Speech, [2000; 160]));
    assert_eq!(events(&mut queue), [played("new")]);
    assert_eq!(queue.clear(), Cleared { played_ms: 45, dropped_ms: 0 });
}

#[test]
fn the_same_format_again_loses_nothing_but_half_a_sample() {
    let mut queue = queue();
    push(&mut queue, &[1; FRAME_SAMPLES / 2]);
    queue.push_pcm(&[7]).unwrap();
    assert_eq!(queue.change_to(Some(RATE)), Duration::ZERO);
    push(&mut queue, &[1; FRAME_SAMPLES / 2]);
    assert_eq!(speech_frame(&mut queue), [1; FRAME_SAMPLES]);
}

#[test]
fn packets_and_samples_may_follow_each_other() {
    let mut queue = AgentQueue::opus(DEFAULT_MAX_BUFFER);
    let silence = Bytes::from_static(&SILENCE);
    queue.push(silence.clone()).unwrap();
    queue.change_to(Some(RATE));
    push(&mut queue, &[1; FRAME_SAMPLES]);
    queue.change_to(None);
    queue.push(silence.clone()).unwrap();
    assert_eq!(queue.rate(), None);
    assert_eq!(taken(&mut queue).0, Taken::Silence, "packets are taken next");
    assert_eq!(queue.take_packet(), Some(silence.clone()));
    assert_eq!((queue.take_packet(), queue.rate()), (None, Some(RATE)));
    assert_eq!(speech_frame(&mut queue), [1; FRAME_SAMPLES]);
    assert_eq!((queue.take_packet(), queue.queued()), (Some(silence), Duration::ZERO));
}

#[test]
fn a_clear_and_the_bound_cover_all_formats_together() {
    let mut queue = AgentQueue::pcm(RATE, Duration::from_millis(100));
    assert_eq!(push(&mut queue, &[1; 4 * FRAME_SAMPLES]), Room::Free);
    queue.mark("first".into()).unwrap();
    queue.change_to(Some(SampleRate::Hz8000));
    assert_eq!(push(&mut queue, &[1; 160]), Room::Full);
    queue.mark("second".into()).unwrap();
    push(&mut queue, &[1; 160]);
    assert_eq!((queue.queued(), queue.refused()), (5 * FRAME, FRAME));
    speech_frame(&mut queue);
    assert_eq!(queue.room(), Room::Full);
    speech_frame(&mut queue);
    assert_eq!(queue.room(), Room::Free);
    assert_eq!(queue.clear(), Cleared { played_ms: 40, dropped_ms: 60 });
    let cleared = |name: &str| (name.into(), MarkStatus::Cleared);
    assert_eq!(events(&mut queue), [cleared("first"), cleared("second")]);
    assert_eq!(queue.rate(), Some(SampleRate::Hz8000), "the last form stays");
}

#[test]
fn too_many_formats_drop_and_report_everything_queued() {
    let mut queue = queue();
    for rate in [SampleRate::Hz8000, RATE, SampleRate::Hz8000] {
        push(&mut queue, &[1; FRAME_SAMPLES]);
        assert_eq!(queue.change_to(Some(rate)), Duration::ZERO);
    }
    push(&mut queue, &[1; 160]);
    queue.mark("late".into()).unwrap();
    assert_eq!(queue.change_to(Some(SampleRate::Hz8000)), Duration::ZERO, "the same form again is no other");
    assert_eq!(queue.change_to(Some(RATE)), Duration::from_millis(20 + 40 + 20 + 20));
    assert_eq!(events(&mut queue), [("late".into(), MarkStatus::Cleared)]);
    push(&mut queue, &[3; FRAME_SAMPLES]);
    assert_eq!(speech_frame(&mut queue), [3; FRAME_SAMPLES]);
}

#[test]
fn padding_is_not_counted_as_heard() {
    let mut queue = queue();
    push(&mut queue, &[1; 160]);
    taken(&mut queue);
    speech_frame(&mut queue);
    assert_eq!(queue.clear().played_ms, 10);
}

#[test]
fn an_utterance_survives_a_short_silence_and_ends_with_a_long_one() {
    let mut queue = queue();
    for (silent_frames, expected_ms) in [(49, 40), (50, 20)] {
        queue.clear();
        push(&mut queue, &[1; FRAME_SAMPLES]);
        speech_frame(&mut queue);
        for _ in 0..silent_frames {
            taken(&mut queue);
        }
        push(&mut queue, &[1; FRAME_SAMPLES]);
        speech_frame(&mut queue);
        assert_eq!(queue.clear().played_ms, expected_ms);
    }
}

#[test]
fn an_utterance_that_ended_is_still_reported_until_the_next_begins() {
    let mut queue = queue();
    push(&mut queue, &[1; FRAME_SAMPLES]);
    for _ in 0..100 {
        taken(&mut queue);
    }
    assert_eq!(queue.clear().played_ms, 20);
}

#[test]
fn a_paused_queue_keeps_its_audio() {
    let mut queue = queue();
    push(&mut queue, &[5; 2 * FRAME_SAMPLES]);
    speech_frame(&mut queue);
    queue.pause();
    for _ in 0..100 {
        assert_eq!(taken(&mut queue), (Taken::Silence, [0; FRAME_SAMPLES]));
    }
    assert_eq!(queue.queued(), FRAME);
    queue.resume();
    assert_eq!(speech_frame(&mut queue), [5; FRAME_SAMPLES]);
    assert_eq!(queue.clear().played_ms, 40, "a pause ends no utterance");
}

#[test]
fn a_full_queue_loses_nothing_until_it_is_ignored() {
    let mut queue = AgentQueue::pcm(RATE, Duration::from_millis(100));
    assert_eq!(push(&mut queue, &[1; 4 * FRAME_SAMPLES]), Room::Free);
    assert_eq!(push(&mut queue, &[1; 4 * FRAME_SAMPLES]), Room::Full);
    assert_eq!((queue.queued(), queue.refused()), (8 * FRAME, Duration::ZERO));
    push(&mut queue, &[1; FRAME_SAMPLES]);
    assert_eq!((queue.queued(), queue.refused()), (8 * FRAME, FRAME));
    for _ in 0..4 {
        speech_frame(&mut queue);
        assert_eq!(queue.room(), Room::Full);
    }
    speech_frame(&mut queue);
    assert_eq!((queue.queued(), queue.room()), (3 * FRAME, Room::Free));
}

/// Discarding frees room too: otherwise a muted agent that was told to stop would wait forever.
#[test]
fn what_is_let_go_makes_room_too() {
    let mut queue = AgentQueue::pcm(RATE, Duration::from_millis(100));
    assert_eq!(push(&mut queue, &[1; 5 * FRAME_SAMPLES]), Room::Full);
    queue.discard_frame();
    assert_eq!((queue.queued(), queue.room()), (4 * FRAME, Room::Full));
    queue.discard_frame();
    assert_eq!((queue.queued(), queue.room()), (3 * FRAME, Room::Free));
}

#[test]
fn one_huge_push_is_cut_at_twice_the_bound() {
    let mut queue = AgentQueue::pcm(RATE, Duration::from_millis(100));
    push(&mut queue, &[1; 100 * FRAME_SAMPLES]);
    assert_eq!((queue.queued(), queue.refused()), (10 * FRAME, 90 * FRAME));
}

#[test]
fn refused_bytes_do_not_shift_the_samples_after_them() {
    let mut queue = AgentQueue::pcm(RATE, FRAME);
    push(&mut queue, &[1; FRAME_SAMPLES]);
    queue.push_pcm(&[9, 9, 9]).unwrap();
    speech_frame(&mut queue);
    queue.push_pcm(&[0]).unwrap();
    push(&mut queue, &[0x0201; FRAME_SAMPLES]);
    let frame = speech_frame(&mut queue);
    assert_eq!(frame[0], 9);
    assert_eq!(frame[1..], [0x0201; FRAME_SAMPLES - 1]);
}

#[test]
fn marks_are_bounded() {
    let mut queue = queue();
    push(&mut queue, &[1]);
    for _ in 0..MAX_MARKS {
        queue.mark("m".into()).unwrap();
    }
    assert_eq!(queue.mark("one more".into()), Err(TooManyMarks));
    queue.clear();
    assert_eq!(queue.mark("unreported ones count".into()), Err(TooManyMarks));
}

#[test]
fn the_names_of_marks_are_bounded_together() {
    let mut queue = queue();
    push(&mut queue, &[1]);
    let half = "m".repeat(MAX_MARK_BYTES / 2);
    queue.mark(half.clone()).unwrap();
    queue.mark(half).unwrap();
    assert_eq!(queue.mark("m".into()), Err(TooManyMarks));
    queue.clear();
    assert_eq!(queue.mark("m".into()), Err(TooManyMarks), "unreported ones count");
    while queue.poll_event().is_some() {}
    queue.mark("m".repeat(MAX_MARK_BYTES)).unwrap();
}

#[test]
fn an_opus_agent_sends_packets_of_20_ms() {
    let mut queue = AgentQueue::opus(Duration::from_millis(60));
    let silence = Bytes::from_static(&SILENCE);
    let sixty = PushError::PacketDuration { ticks: 2880 };
    assert_eq!(queue.push_opus(Bytes::from_static(&[11 << 3, 0])), Err(sixty));
    assert_eq!(queue.push_opus(Bytes::new()), Err(PacketError::Empty.into()));
    assert_eq!(queue.push_pcm(&[0; 4]), Err(PushError::WrongEncoding));
    assert_eq!(queue.push_opus(silence.clone()), Ok(Room::Free));
    queue.mark("one".into()).unwrap();
    assert_eq!(queue.push_opus(silence.clone()), Ok(Room::Free));
    assert_eq!(queue.push_opus(silence.clone()), Ok(Room::Full));
    queue.push_opus(silence.clone()).unwrap();
    assert_eq!((queue.queued(), queue.refused()), (3 * FRAME, FRAME));
    assert_eq!(queue.take_packet(), Some(silence));
    assert_eq!(events(&mut queue), [played("one")]);
    let cleared = queue.clear();
    assert_eq!((cleared.played_ms, cleared.dropped_ms), (20, 40));
    assert_eq!(queue.take_packet(), None);
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
    /// Whatever an agent does, each mark is reported once and in order, and all audio pushed is played, dropped or queued.
    #[test]
    fn nothing_is_lost_or_reported_twice(steps in prop::collection::vec(step(), 1..120)) {
        let mut queue = AgentQueue::pcm(RATE, Duration::from_millis(500));
        let (mut placed, mut heard) = (0u32, Vec::new());
        for step in steps {
            match step {
                Step::Push(bytes) => {
                    queue.push_pcm(&bytes).unwrap();
                }
                Step::Mark => {
                    queue.mark(placed.to_string()).unwrap();
                    placed += 1;
                }
                Step::Take => {
                    let before = queue.queued();
                    let mut frame = vec![99; queue.rate().unwrap().samples_per_frame()];
                    if queue.take_frame(&mut frame) == Taken::Silence {
                        prop_assert!(frame.iter().all(|sample| *sample == 0));
                        prop_assert_eq!(queue.queued(), before);
                    } else {
                        prop_assert!(before - queue.queued() <= FRAME);
                    }
                }
                Step::Clear => {
                    let queued = queue.queued();
                    let cleared = queue.clear();
                    prop_assert_eq!(cleared.dropped_ms, queued.as_millis() as u64);
                    prop_assert_eq!(queue.queued(), Duration::ZERO);
                }
                Step::Change(rate) => {
                    let queued = queue.queued();
                    let dropped = queue.change_to(Some(rate));
                    prop_assert_eq!(dropped, queued - queue.queued());
                }
                Step::Pause => queue.pause(),
                Step::Resume => queue.resume(),
            }
            prop_assert!(queue.queued() <= Duration::from_secs(1));
            heard.extend(events(&mut queue).into_iter().map(|(name, _)| name));
        }
        queue.clear();
        heard.extend(events(&mut queue).into_iter().map(|(name, _)| name));
        let expected: Vec<String> = (0..placed).map(|name| name.to_string()).collect();
        prop_assert_eq!(heard, expected);
    }

    #[test]
    fn any_chunking_gives_the_same_sound(
        samples in prop::collection::vec(any::<i16>(), FRAME_SAMPLES * 4),
        sizes in prop::collection::vec(1usize..900, 1..20),
    ) {
        let mut queue = queue();
        let bytes = bytes_of(&samples);
        let mut rest = bytes.as_slice();
        for size in sizes.iter().cycle() {
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            queue.push_pcm(chunk).unwrap();
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let heard: Vec<i16> = (0..4).flat_map(|_| taken(&mut queue).1).collect();
        prop_assert_eq!(heard, samples);
    }
}

fn queue() -> AgentQueue {
    AgentQueue::pcm(RATE, DEFAULT_MAX_BUFFER)
}

fn push(queue: &mut AgentQueue, samples: &[i16]) -> Room {
    queue.push_pcm(&bytes_of(samples)).unwrap()
}

fn bytes_of(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

fn taken(queue: &mut AgentQueue) -> (Taken, [i16; FRAME_SAMPLES]) {
    let mut frame = [99; FRAME_SAMPLES];
    (queue.take_frame(&mut frame), frame)
}

/// Takes frames from an empty queue.
fn idle(queue: &mut AgentQueue, frames: u32) {
    for _ in 0..frames {
        assert_eq!(taken(queue).0, Taken::Silence);
    }
}

fn speech_frame(queue: &mut AgentQueue) -> [i16; FRAME_SAMPLES] {
    let (what, frame) = taken(queue);
    assert_eq!(what, Taken::Speech);
    frame
}

fn events(queue: &mut AgentQueue) -> Vec<(String, MarkStatus)> {
    std::iter::from_fn(|| queue.poll_event()).map(|QueueEvent::Mark { name, status }| (name, status)).collect()
}

fn played(name: &str) -> (String, MarkStatus) {
    (name.into(), MarkStatus::Played)
}
