//! Recorder: one call as an Ogg Opus file, the caller left and the agent right, made by copying packets.
//!
//! Each Ogg packet holds 20 ms of both: two uncoupled mono streams under channel mapping family 1 (RFC 7845 §5.1.1).
//! Nothing is decoded unless the caller sends packets that cannot be cut into 20 ms.

mod caller_line;
mod container;
mod delimited;
mod floor;
mod measure;
mod page;
mod recoder;
mod tracks;

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::opus::{FRAME, SILENCE, inspect};
use crate::reorder::Slot;
use crate::timeline::TICKS_PER_FRAME;
use caller_line::CallerLine;
use container::Container;
use floor::Floor;
pub use measure::{Measured, measure};
use tracks::Tracks;

/// A jump of the agent's line up to one minute is filled with silence. A call stalled for longer has ended long ago; audio
/// after such a jump directly follows the audio before it.
const MAX_JUMP_FRAMES: i64 = 3000;

/// Records one call.
///
/// The agent's line is the master clock: one frame of it is 20 ms of the file. The caller's line is placed along it by
/// its RTP timestamps. [`poll_page`](Self::poll_page) returns the new bytes, to be polled after each
/// [`agent_frame`](Self::agent_frame) or less often.
///
/// A truncated file plays up to its last whole page, which is at most a second behind.
pub struct Recorder {
    container: Container,
    tracks: Tracks,
    caller: CallerLine,
    master: Option<Master>,
    paused: bool,
    masked: bool,
    stats: RecorderStats,
}

/// The rest of a recording when it ends.
#[derive(Debug)]
pub struct Recorded {
    /// The last bytes of the file, in order, including those not yet taken from [`Recorder::poll_page`].
    pub pages: Vec<Bytes>,
    /// Duration of the whole file.
    pub duration: Duration,
    /// Irregularities.
    pub stats: RecorderStats,
}

/// Irregularities of a recording, in frames of 20 ms unless stated otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecorderStats {
    /// Lost caller frames, filled by repeating the one before.
    pub frames_concealed: u64,
    /// Caller frames left out because the caller's clock is fast.
    pub frames_left_out: u64,
    /// Caller frames repeated because the caller's clock is slow.
    pub frames_repeated: u64,
    /// Caller frames that arrived after their place was written or taken.
    pub too_late: u64,
    /// Caller frames too far ahead of the master clock.
    pub too_early: u64,
    /// Caller packets before the first frame of the agent's line.
    pub before_start: u64,
    /// Caller packets that had to be decoded and encoded again.
    pub recoded: u64,
    /// Packets that were not Opus of the right length, replaced by silence.
    pub broken: u64,
    /// Restarts of a line because its clock jumped.
    pub restarts: u64,
    /// Pages dropped because they were not taken in time. The file has a hole.
    pub pages_dropped: u64,
}

/// The agent's line against our clock.
struct Master {
    started: Instant,
    timestamp: u32,
    /// Lateness of frames. A worker may be late but never early, so the least late frame shows the true time.
    lateness: Floor,
}

impl Recorder {
    /// A recording that begins with the agent's next frame. `serial` tells Ogg streams apart (RFC 3533 §6) and should
    /// be random.
    pub fn new(serial: u32) -> Self {
        Self {
            container: Container::new(serial),
            tracks: Tracks::new(),
            caller: CallerLine::new(),
            master: None,
            paused: false,
            masked: false,
            stats: RecorderStats::default(),
        }
    }

    /// Takes a packet of 20 ms that left for the caller. `timestamp` is that of our RTP line, in 48 kHz ticks; a jump ahead
    /// by whole frames is silence in the file.
    pub fn agent_frame(&mut self, timestamp: u32, packet: &[u8], now: Instant) {
        let skipped = self.step_to(timestamp) - 1;
        for _ in 0..skipped {
            self.push_agent(&SILENCE);
        }
        self.note_time(timestamp, now);
        if inspect(packet).is_ok_and(|facts| facts.duration == TICKS_PER_FRAME) {
            self.push_agent(packet);
        } else {
            self.stats.broken += 1;
            self.push_agent(&SILENCE);
        }
    }

    /// Takes the next slot of the caller's line, as it left the reorder buffer at `now`. Before the agent's first frame
    /// slots are only counted.
    pub fn caller(&mut self, slot: &Slot, now: Instant) {
        let Some(master) = &self.master else {
            self.stats.before_start += 1;
            return;
        };
        self.caller.hear(slot, master.position(now), &mut self.tracks, &mut self.stats);
        self.write();
    }

    /// Another sender starts: its timestamps are unrelated to those before.
    pub fn caller_restarts(&mut self) {
        self.caller.restart();
    }

    /// Records silence in both channels until [`resume`](Self::resume). Time continues.
    pub fn pause(&mut self) {
        self.paused = true;
        self.tracks.set_silent(true);
    }

    /// Ends a pause. While the recording is masked it stays silent.
    pub fn resume(&mut self) {
        self.paused = false;
        self.tracks.set_silent(self.masked);
    }

    /// Records silence for protected passages, independently of pauses.
    pub fn mask(&mut self, on: bool) {
        self.masked = on;
        self.tracks.set_silent(self.masked || self.paused);
    }

    /// The next bytes of the file: whole pages, one every 700 ms. The headers come first, at once. If pages are not taken
    /// for 90 s, new ones are dropped and counted.
    pub fn poll_page(&mut self) -> Option<Bytes> {
        self.container.poll_page()
    }

    /// Duration so far, by the master clock.
    pub fn duration(&self) -> Duration {
        FRAME * u32::try_from(self.tracks.frames()).unwrap_or(u32::MAX)
    }

    /// Irregularities so far.
    pub fn stats(&self) -> RecorderStats {
        RecorderStats { pages_dropped: self.container.pages_dropped(), ..self.stats }
    }

    /// Ends the file.
    pub fn finish(mut self) -> Recorded {
        self.tracks.take_all(|caller, agent| self.container.push(caller, agent));
        self.container.finish(&delimited::SILENCE, &SILENCE);
        let pages = std::iter::from_fn(|| self.container.poll_page()).collect();
        Recorded { pages, duration: self.duration(), stats: self.stats() }
    }

    /// By how many frames the agent's line advances.
    fn step_to(&mut self, timestamp: u32) -> i64 {
        let Some(master) = &self.master else { return 1 };
        let ticks = i64::from(timestamp.wrapping_sub(master.timestamp) as i32);
        let frames = (ticks + i64::from(TICKS_PER_FRAME) / 2).div_euclid(i64::from(TICKS_PER_FRAME));
        if (1..=MAX_JUMP_FRAMES).contains(&frames) {
            return frames;
        }
        self.stats.restarts += 1;
        self.master = None;
        1
    }

    fn note_time(&mut self, timestamp: u32, now: Instant) {
        let position = self.tracks.frames() * i64::from(TICKS_PER_FRAME);
        let master = self.master.get_or_insert_with(|| Master { started: now, timestamp, lateness: Floor::new(0) });
        master.timestamp = timestamp;
        let at = master.ticks(now);
        master.lateness.note(at, at - position);
    }

    fn push_agent(&mut self, packet: &[u8]) {
        self.tracks.push_agent(packet);
        self.write();
    }

    fn write(&mut self) {
        self.tracks.take(self.caller.passed(), |caller, agent| self.container.push(caller, agent));
    }
}

impl Master {
    /// 48 kHz ticks since the first frame, by our clock.
    fn ticks(&self, now: Instant) -> i64 {
        let passed = now.saturating_duration_since(self.started).as_nanos();
        i64::try_from(passed * 48 / 1_000_000).unwrap_or(i64::MAX / 2)
    }

    /// Position of the master clock, in 48 kHz ticks from the start of the recording.
    fn position(&self, now: Instant) -> i64 {
        self.ticks(now) - self.lateness.least()
    }
}

#[cfg(test)]
mod tests;
