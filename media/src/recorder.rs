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

/// A jump of the agent's line up to one minute is filled with silence. A call that stood still longer has long ended;
/// what comes after such a jump is laid down right behind what came before it.
const MAX_JUMP_FRAMES: i64 = 3000;

/// Writes one call down.
///
/// The agent's line is the master clock: one frame of it is 20 ms of the file. The caller's line is laid along it by
/// its RTP timestamps. After each [`agent_frame`](Self::agent_frame), or as often as one likes,
/// [`poll_page`](Self::poll_page) gives the bytes that are new.
///
/// A file that ends anywhere can be heard up to its last whole page, which is never more than a second behind.
pub struct Recorder {
    container: Container,
    tracks: Tracks,
    caller: CallerLine,
    master: Option<Master>,
    paused: bool,
    masked: bool,
    stats: RecorderStats,
}

/// What is left when a recording ends.
#[derive(Debug)]
pub struct Recorded {
    /// The last bytes of the file, in order. Those of [`Recorder::poll_page`] that were not taken are among them.
    pub pages: Vec<Bytes>,
    /// The sound of the whole file.
    pub duration: Duration,
    /// What was not as usual.
    pub stats: RecorderStats,
}

/// What was not as usual, in frames of 20 ms if nothing else is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecorderStats {
    /// Lost frames of the caller's that repeat the one before.
    pub frames_concealed: u64,
    /// Left out because the caller's clock is fast.
    pub frames_left_out: u64,
    /// Doubled because the caller's clock is slow.
    pub frames_repeated: u64,
    /// The caller's, which came when their place was written or taken.
    pub too_late: u64,
    /// The caller's, too far ahead of the master clock.
    pub too_early: u64,
    /// The caller's packets from before the first frame of the agent's line.
    pub before_start: u64,
    /// The caller's packets that had to be decoded and encoded again.
    pub recoded: u64,
    /// Packets that were no Opus of the right length. They are silence.
    pub broken: u64,
    /// Times that a clock was not to be followed and a line was laid down anew.
    pub restarts: u64,
    /// Pages that nobody took. The file has a hole.
    pub pages_dropped: u64,
}

/// How the agent's line lies in time.
struct Master {
    started: Instant,
    timestamp: u32,
    /// How late the frames were. A worker may be late but never early, so the least late one tells the true time.
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

    /// What just left for the caller: one packet of 20 ms. `timestamp` is that of our RTP line, in 48 kHz ticks; where
    /// it jumps ahead by whole frames, the file is silent.
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

    /// The next of the caller's line, as it came out of the reorder buffer at `now`. Before the agent's first frame
    /// there is nothing to lay it along, and it is counted only.
    pub fn caller(&mut self, slot: &Slot, now: Instant) {
        let Some(master) = &self.master else {
            self.stats.before_start += 1;
            return;
        };
        self.caller.hear(slot, master.position(now), &mut self.tracks, &mut self.stats);
        self.write();
    }

    /// Another sender speaks for the caller from now on: its timestamps have nothing to do with those before.
    pub fn caller_restarts(&mut self) {
        self.caller.restart();
    }

    /// Both channels are silent until [`resume`](Self::resume). Time goes on.
    pub fn pause(&mut self) {
        self.paused = true;
        self.tracks.set_silent(true);
    }

    /// Ends a pause. While the recording is masked it stays silent.
    pub fn resume(&mut self) {
        self.paused = false;
        self.tracks.set_silent(self.masked);
    }

    /// The same silence for protected passages, apart from pauses: it is on from now, or off.
    pub fn mask(&mut self, on: bool) {
        self.masked = on;
        self.tracks.set_silent(self.masked || self.paused);
    }

    /// The next bytes of the file, if there are new ones: whole pages, one every 700 ms. The headers come first, at
    /// once. Not taken for 90 s, new ones are dropped and counted.
    pub fn poll_page(&mut self) -> Option<Bytes> {
        self.container.poll_page()
    }

    /// The sound so far, by the master clock.
    pub fn duration(&self) -> Duration {
        FRAME * u32::try_from(self.tracks.frames()).unwrap_or(u32::MAX)
    }

    /// What was not as usual so far.
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

    /// By how many frames the agent's line moves on.
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
    /// Ticks since the first frame came, by the clock on the wall.
    fn ticks(&self, now: Instant) -> i64 {
        let passed = now.saturating_duration_since(self.started).as_nanos();
        i64::try_from(passed * 48 / 1_000_000).unwrap_or(i64::MAX / 2)
    }

    /// Where the master clock stands, in ticks from the beginning of the recording.
    fn position(&self, now: Instant) -> i64 {
        self.ticks(now) - self.lateness.least()
    }
}

#[cfg(test)]
mod tests;
