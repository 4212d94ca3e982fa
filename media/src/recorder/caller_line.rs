//! CallerLine: the caller's audio, placed along the master clock.
//!
//! Packets are counted in RTP ticks from the first one on. The two clocks differ by up to 200 ppm, so the line is
//! moved by one frame in a pause when the least late packets of some seconds show that it has drifted.

use super::RecorderStats;
use super::delimited;
use super::floor::Floor;
use super::recoder::Recoder;
use super::tracks::{Placed, Tracks};
use crate::opus::inspect;
use crate::reorder::Slot;
use crate::timeline::TICKS_PER_FRAME;

const FRAME: i64 = TICKS_PER_FRAME as i64;

/// A jump of the sender's timestamps beyond one second is a new clock, as in `Reorder`; 120 ms are one packet's own.
const RESTART_TICKS: i64 = 48_000 + 5760;

/// 15 ms off: the line moves one frame in the next pause, and is 5 ms off on the other side.
const TOLERANCE_TICKS: i64 = 720;

/// 25 ms off: the line moves even in speech. The rounding to frames adds at most 10 ms.
const LIMIT_TICKS: i64 = 1200;

/// In speech it moves at most once in 200 ms: ten cuts in a row would remove a word.
const MOVE_IN_SPEECH_EVERY_TICKS: i64 = 9600;

/// A packet half a second before its place means that the sender's clock has jumped.
const TOO_EARLY_TICKS: i64 = 24_000;

/// When every packet of one second arrives after its place was written, the line is in the wrong place.
const TOO_LATE_FOR_TICKS: i64 = 48_000;

/// A lost frame is best replaced by the one before it, three times (60 ms); then by silence.
const REPEAT_AT_MOST: u8 = 3;

pub(super) struct CallerLine {
    clock: Option<SenderClock>,
    /// The first frame that this line has not reached. Those before it are final.
    passed: i64,
    /// The packet that a loss repeats, self-delimited.
    last: Vec<u8>,
    repeats_left: u8,
    recoder: Recoder,
    /// The frame of which the recoder has a part.
    recoding_at: i64,
    scratch: Vec<u8>,
}

/// The sender's timestamps against the master clock, in 48 kHz ticks.
struct SenderClock {
    timestamp: u32,
    /// The same without wrapping around.
    ticks: i64,
    /// Ticks minus the position on the master clock.
    offset: i64,
    lateness: Floor,
    moved_at: i64,
    too_late_since: Option<i64>,
}

/// How the line moves against the master clock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Move {
    /// The packets arrive before their place: one frame is left out.
    Earlier,
    /// The packets arrive after their place: one frame is repeated.
    Later,
}

impl CallerLine {
    pub(super) fn new() -> Self {
        Self {
            clock: None,
            passed: 0,
            last: Vec::new(),
            repeats_left: 0,
            recoder: Recoder::default(),
            recoding_at: 0,
            scratch: Vec::new(),
        }
    }

    /// The first frame that this line may still fill.
    pub(super) fn passed(&self) -> i64 {
        self.passed
    }

    /// The next slot is another sender's: its line starts where its first packet is on time.
    pub(super) fn restart(&mut self) {
        self.clock = None;
        self.repeats_left = 0;
    }

    /// Places one slot. `arrival` is the present position of the master clock, in 48 kHz ticks.
    pub(super) fn hear(&mut self, slot: &Slot, arrival: i64, tracks: &mut Tracks, stats: &mut RecorderStats) {
        self.passed = self.passed.max(tracks.open());
        match slot {
            Slot::Packet { timestamp, payload } => self.hear_packet(*timestamp, payload, arrival, tracks, stats),
            Slot::Lost { timestamp, duration, .. } => self.hear_gap(*timestamp, *duration, tracks, stats),
            Slot::Quiet { timestamp, duration } => {
                self.repeats_left = 0;
                self.hear_gap(*timestamp, *duration, tracks, stats);
            }
        }
    }

    fn hear_packet(
        &mut self,
        timestamp: u32,
        packet: &[u8],
        arrival: i64,
        tracks: &mut Tracks,
        stats: &mut RecorderStats,
    ) {
        let Ok(facts) = inspect(packet) else {
            stats.broken += 1;
            return;
        };
        let can_be_copied = delimited::can_be_cut(facts);
        if can_be_copied {
            self.end_recoding(tracks, stats);
        }
        let mut frame = self.frame_of(timestamp, arrival, tracks, stats);
        let mut moved = None;
        if !self.recoder.is_empty() {
            frame = self.recoding_at;
        } else if let Some(clock) = &mut self.clock {
            let is_pause = facts.voice == Some(false) || packet.len() <= 2;
            moved = clock.correct(arrival, is_pause);
        }
        match moved {
            Some(Move::Earlier) => {
                frame -= 1;
                stats.frames_left_out += 1;
            }
            Some(Move::Later) => {
                frame += 1;
                stats.frames_repeated += 1;
            }
            None => {}
        }
        let mut layer = Layer { frame, moved, passed: &mut self.passed, last: &mut self.last, tracks, stats };
        let laid = if can_be_copied {
            delimited::cut(packet, facts, &mut self.scratch, |packet| layer.lay(packet))
        } else {
            layer.stats.recoded += 1;
            self.recoder.push(packet, |packet| layer.lay(packet))
        };
        layer.stats.broken += u64::from(laid.is_err());
        self.recoding_at = layer.frame;
        self.repeats_left = REPEAT_AT_MOST;
    }

    /// A loss repeats the last packet for a while; a pause is silent.
    fn hear_gap(&mut self, timestamp: u32, duration: u32, tracks: &mut Tracks, stats: &mut RecorderStats) {
        self.end_recoding(tracks, stats);
        let Some(position) = self.clock.as_mut().and_then(|clock| clock.follow(timestamp)) else { return };
        let duration = i64::from(duration).min(RESTART_TICKS);
        let end = nearest_frame(position + duration);
        for frame in nearest_frame(position).max(self.passed)..end {
            if self.repeats_left == 0 || self.last.is_empty() {
                break;
            }
            self.repeats_left -= 1;
            stats.frames_concealed += 1;
            tracks.put_caller(frame, &self.last);
        }
        self.passed = self.passed.max(end);
    }

    /// Finishes the frame that the recoder has begun, before anything else follows.
    fn end_recoding(&mut self, tracks: &mut Tracks, stats: &mut RecorderStats) {
        if self.recoder.is_empty() {
            return;
        }
        let frame = self.recoding_at;
        let (passed, last) = (&mut self.passed, &mut self.last);
        let mut layer = Layer { frame, moved: None, passed, last, tracks, stats };
        let flushed = self.recoder.flush(|packet| layer.lay(packet));
        layer.stats.broken += u64::from(flushed.is_err());
    }

    /// Which frame a packet belongs to.
    fn frame_of(&mut self, timestamp: u32, arrival: i64, tracks: &mut Tracks, stats: &mut RecorderStats) -> i64 {
        let Some(clock) = &mut self.clock else { return self.begin_line(timestamp, arrival, tracks) };
        if let Some(position) = clock.follow(timestamp)
            && clock.is_believable(arrival, position, tracks.open())
        {
            let frame = nearest_frame(position);
            // A packet that starts a little before the last one ends, as when steps are not whole frames.
            let overlaps_a_little = frame == self.passed - 1 && position > frame * FRAME;
            return if overlaps_a_little { self.passed } else { frame };
        }
        stats.restarts += 1;
        self.begin_line(timestamp, arrival, tracks)
    }

    /// Starts the line where this packet is on time.
    fn begin_line(&mut self, timestamp: u32, arrival: i64, tracks: &mut Tracks) -> i64 {
        let frame = nearest_frame(arrival).max(tracks.open());
        if frame + 10 < self.passed {
            tracks.forget_caller_from(frame);
            self.passed = frame;
        }
        let frame = frame.max(self.passed);
        self.clock = Some(SenderClock::new(timestamp, frame * FRAME, arrival));
        frame
    }
}

/// Places packets one after the other.
struct Layer<'line> {
    /// The place of the next one.
    frame: i64,
    /// The first one is left out, or placed twice: before its place and in it.
    moved: Option<Move>,
    passed: &'line mut i64,
    last: &'line mut Vec<u8>,
    tracks: &'line mut Tracks,
    stats: &'line mut RecorderStats,
}

impl Layer<'_> {
    fn lay(&mut self, packet: &[u8]) {
        let moved = self.moved.take();
        if self.frame >= *self.passed {
            if moved == Some(Move::Later) && self.frame > *self.passed {
                self.tracks.put_caller(self.frame - 1, packet);
            }
            let placed = self.tracks.put_caller(self.frame, packet);
            self.stats.too_early += u64::from(placed == Placed::TooEarly);
            *self.passed = self.frame + 1;
        } else if moved != Some(Move::Earlier) {
            self.stats.too_late += 1;
        }
        self.frame += 1;
        self.last.clear();
        self.last.extend_from_slice(packet);
    }
}

impl SenderClock {
    fn new(timestamp: u32, position: i64, arrival: i64) -> Self {
        let mut lateness = Floor::new(arrival);
        lateness.note(arrival, arrival - position);
        let ticks = i64::from(timestamp);
        Self { timestamp, ticks, offset: ticks - position, lateness, moved_at: arrival, too_late_since: None }
    }

    /// Moves to `timestamp` and returns its position; None if the sender has started a new line.
    fn follow(&mut self, timestamp: u32) -> Option<i64> {
        let step = i64::from(timestamp.wrapping_sub(self.timestamp) as i32);
        if step.abs() > RESTART_TICKS {
            return None;
        }
        self.timestamp = timestamp;
        self.ticks += step;
        Some(self.ticks - self.offset)
    }

    /// Notes the lateness of a packet. Returns false when it cannot belong there.
    fn is_believable(&mut self, arrival: i64, position: i64, open: i64) -> bool {
        let lateness = arrival - position;
        self.lateness.note(arrival, lateness);
        if nearest_frame(position) >= open {
            self.too_late_since = None;
        } else {
            let since = *self.too_late_since.get_or_insert(arrival);
            if arrival - since >= TOO_LATE_FOR_TICKS {
                return false;
            }
        }
        lateness > -TOO_EARLY_TICKS
    }

    /// Moves the line by one frame if it has drifted and this packet may be left out or repeated.
    fn correct(&mut self, arrival: i64, is_pause: bool) -> Option<Move> {
        let floor = self.lateness.least();
        let may_cut_speech = floor.abs() >= LIMIT_TICKS && arrival - self.moved_at >= MOVE_IN_SPEECH_EVERY_TICKS;
        if floor.abs() < TOLERANCE_TICKS || !(is_pause || may_cut_speech) {
            return None;
        }
        // Nothing arrives before it is sent, so an early packet proves the drift. A late one may have been delayed.
        let (moved, by) = match floor < 0 {
            true => (Move::Earlier, FRAME),
            false if self.lateness.is_certain(arrival) => (Move::Later, -FRAME),
            false => return None,
        };
        self.offset += by;
        self.lateness.shift(by);
        self.moved_at = arrival;
        Some(moved)
    }
}

/// The frame whose start is nearest.
fn nearest_frame(position: i64) -> i64 {
    (position + FRAME / 2).div_euclid(FRAME)
}
