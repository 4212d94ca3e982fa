//! AgentQueue: an agent's or participant's audio waiting to be played, with its marks.

mod backlog;
mod bound;
mod marks;
mod pace;
mod pcm;
mod segments;

use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::opus::{FRAME, PacketError, SampleRate, inspect};
use crate::timeline::TICKS_PER_FRAME;
use backlog::Backlog;
use bound::Bound;
use marks::Marks;
use segments::{Segment, Segments, take_packet};

pub use bound::Room;
pub use marks::{MAX_MARK_BYTES, MAX_MARKS, MarkStatus, QueueEvent, TooManyMarks};

/// How much audio an agent may send ahead before it is told to stop. Fast speech synthesis delivers whole answers at once.
pub const DEFAULT_MAX_BUFFER: Duration = Duration::from_secs(120);

/// How much more is taken of an agent that does not stop, so that the `clear` behind it is read. With [`DEFAULT_MAX_BUFFER`]
/// it is the ten minutes that Twilio queues, more than any other platform does.
pub const OVERRUN: Duration = Duration::from_secs(480);

/// An empty queue for this long ends the agent's utterance. Speech synthesis that streams sentence by sentence falls
/// behind for some hundred milliseconds within one utterance.
pub const UTTERANCE_PAUSE: Duration = Duration::from_secs(1);

/// A queue of audio, bounded by duration.
///
/// Overflow: a push that starts below the bound and the overrun of [`tolerating`](Self::tolerating) is taken whole, as long as
/// it is not longer than the bound itself, so that back-pressure loses nothing. What is beyond is refused and counted.
///
/// Agents are of two kinds, recognised by their pace. Audio that arrives faster than real time, such as synthesised
/// speech, is content: all of it is played. Audio that arrives in real time is live and never pre-buffered: a late chunk
/// costs silence and leaves the queue that much deeper. A cushion of that backlog is kept against jitter: 20 ms for each
/// underrun in speech, up to 200 ms; none for a single underrun in 10 s; one frame less after 30 s without underruns.
/// A backlog more than 40 ms above the cushion, or any backlog without a cushion, loses frames without speech; one more
/// than 120 ms above it loses one frame in four. Time is counted in frames taken.
#[derive(Debug)]
pub struct AgentQueue {
    segments: Segments,
    bound: Bound,
    totals: Totals,
    paused: bool,
    /// Frames since the queue ran empty.
    empty_frames: u64,
    /// The last frame was missing.
    has_underrun: bool,
    /// The last frame taken held no speech.
    in_pause: bool,
    backlog: Backlog,
    marks: Marks,
}

/// Totals since the start, in 48 kHz ticks whatever the format.
#[derive(Debug, Default)]
struct Totals {
    pushed: u64,
    taken: u64,
    /// Left in frames, within this utterance only.
    played: u64,
    /// Skipped to shorten the delay.
    trimmed: u64,
    refused: u64,
}

/// The content of one 20 ms frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The agent's audio.
    Speech,
    /// The queue is empty or paused.
    Silence,
}

/// The answer to `clear`: how much of the utterance the caller heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cleared {
    /// Milliseconds of the agent's audio that left in frames since the utterance began, without padding and without what
    /// was [trimmed](AgentQueue::trimmed).
    ///
    /// An utterance begins with the first audio queued after a `clear`, after the start of the call, or after the queue
    /// was empty for [`UTTERANCE_PAUSE`].
    pub played_ms: u64,
    /// Milliseconds that were still queued and are dropped.
    pub dropped_ms: u64,
}

/// Why the agent's audio was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PushError {
    /// PCM for an Opus agent, or Opus for a PCM agent.
    #[error("the agent's audio is not in the encoding it agreed on")]
    WrongEncoding,
    /// Not an Opus packet.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// A packet that does not last 20 ms, which would not fit the 20 ms frames.
    #[error("an Opus packet of an agent lasts 20 ms, not {} µs", .ticks * 1000 / 48)]
    PacketDuration {
        /// Its duration in 48 kHz ticks.
        ticks: u32,
    },
}

impl AgentQueue {
    /// The queue of an agent that sends 16-bit mono PCM.
    pub fn pcm(rate: SampleRate, max_buffer: Duration) -> Self {
        Self::new(Some(rate), max_buffer)
    }

    /// The queue of an agent that sends 20 ms Opus packets.
    pub fn opus(max_buffer: Duration) -> Self {
        Self::new(None, max_buffer)
    }

    /// The queue of an agent that sends 16-bit mono PCM at `rate`, or 20 ms Opus packets.
    pub fn new(rate: Option<SampleRate>, max_buffer: Duration) -> Self {
        Self {
            segments: Segments::new(rate),
            bound: Bound::new(max_buffer),
            totals: Totals::default(),
            paused: false,
            empty_frames: 0,
            has_underrun: false,
            in_pause: false,
            backlog: Backlog::new(),
            marks: Marks::default(),
        }
    }

    /// Accepts `overrun` more while the queue is full.
    pub fn tolerating(self, overrun: Duration) -> Self {
        Self { bound: self.bound.tolerating(overrun), ..self }
    }

    /// Whether a push now would be refused.
    pub fn refuses(&self) -> bool {
        self.bound.refuses(self.queued())
    }

    /// Switches to PCM at `rate`, or to Opus packets for None. Queued audio is played first in its own format, and marks
    /// keep their order. Returns how much had to be [cleared](Self::clear): nothing, unless four formats are queued.
    pub fn change_to(&mut self, rate: Option<SampleRate>) -> Duration {
        let mut dropped = Duration::ZERO;
        if !self.segments.has_room_for(rate) {
            dropped = self.queued();
            self.clear();
        }
        self.segments.change_to(rate);
        dropped
    }

    /// Queues audio in the agent's present format.
    pub fn push(&mut self, sound: Bytes) -> Result<Room, PushError> {
        match self.segments.last() {
            Segment::Pcm(_) => self.push_pcm(&sound),
            Segment::Opus(_) => self.push_opus(sound),
        }
    }

    /// Queues little-endian samples, any number of bytes. Half a sample waits for its other half until the queue has been
    /// empty for some frames, a [`mark`](Self::mark), a [`clear`](Self::clear) or a change of format.
    pub fn push_pcm(&mut self, bytes: &[u8]) -> Result<Room, PushError> {
        let free = self.free_ticks();
        let Segment::Pcm(pcm) = self.segments.last_mut() else {
            return Err(PushError::WrongEncoding);
        };
        let (taken, refused) = pcm.push(bytes, pcm.samples(free));
        let (taken, refused) = (pcm.ticks(taken), pcm.ticks(refused));
        self.queued_ticks(taken, refused);
        Ok(self.room())
    }

    /// Queues one Opus packet of exactly 20 ms, in one frame or several.
    pub fn push_opus(&mut self, packet: Bytes) -> Result<Room, PushError> {
        let free = self.free_ticks();
        let Segment::Opus(packets) = self.segments.last_mut() else {
            return Err(PushError::WrongEncoding);
        };
        let ticks = inspect(&packet)?.duration;
        if ticks != TICKS_PER_FRAME {
            return Err(PushError::PacketDuration { ticks });
        }
        if free > 0 {
            packets.push_back(packet);
            self.queued_ticks(u64::from(ticks), 0);
        } else {
            self.queued_ticks(0, u64::from(ticks));
        }
        Ok(self.room())
    }

    /// Places a mark behind everything queued so far. It is reported when all of that has been taken. The next push starts
    /// with a whole sample.
    pub fn mark(&mut self, name: String) -> Result<(), TooManyMarks> {
        self.marks.place(self.totals.pushed, name)?;
        self.segments.last_mut().drop_odd_byte();
        self.marks.reach(self.totals.taken);
        Ok(())
    }

    /// Drops everything: queued audio, half a frame, half a sample, and marks. The next frame is silence.
    pub fn clear(&mut self) -> Cleared {
        let cleared =
            Cleared { played_ms: milliseconds(self.totals.played), dropped_ms: milliseconds(self.totals.queued()) };
        self.segments.clear();
        self.totals.taken = self.totals.pushed;
        self.totals.played = 0;
        self.backlog.clear();
        self.marks.clear();
        self.bound.removed(Duration::ZERO);
        cleared
    }

    /// Plays silence and keeps the queue.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Continues where [`pause`](Self::pause) stopped.
    pub fn resume(&mut self) {
        self.paused = false;
    }

    /// Takes the next 20 ms of PCM. `frame` is exactly one frame at the queue's rate and is always filled.
    ///
    /// A partial frame is held for one tick, because the rest is usually in flight; then it is padded with silence.
    pub fn take_frame(&mut self, frame: &mut [i16]) -> Taken {
        if self.paused || !matches!(self.segments.playing(), Segment::Pcm(_)) {
            frame.fill(0);
            self.idle();
            return Taken::Silence;
        }
        let taken = self.next_frame(frame);
        self.backlog.tick(self.totals.queued());
        taken
    }

    /// Takes the next Opus packet; None if there is none or the queue is paused.
    pub fn take_packet(&mut self) -> Option<Bytes> {
        if self.paused || !matches!(self.segments.playing(), Segment::Opus(_)) {
            self.idle();
            return None;
        }
        let packet = self.next_packet();
        self.backlog.tick(self.totals.queued());
        packet
    }

    /// For each 20 ms in which something else is on air: a live agent's audio is discarded, or it would become permanent
    /// delay. Content waits.
    pub fn tick_off_air(&mut self) {
        match self.backlog.is_live() {
            true => self.discard_frame(),
            false => self.idle(),
        }
    }

    /// Discards the next 20 ms, as for a muted agent.
    pub fn discard_frame(&mut self) {
        if self.paused {
            return self.idle();
        }
        let ticks = self.segments.discard_frame();
        if ticks == 0 {
            self.idle();
        }
        self.trim(ticks);
        self.marks.reach(self.totals.taken);
        self.backlog.tick(self.totals.queued());
    }

    /// Forgets underruns of the start-up phase, so that no cushion is kept for them.
    pub fn settle(&mut self) {
        self.backlog.settle();
    }

    /// The next event. Each mark is reported once, in the order they were placed.
    pub fn poll_event(&mut self) -> Option<QueueEvent> {
        self.marks.poll_event()
    }

    /// Whether the agent may send more.
    pub fn room(&self) -> Room {
        self.bound.room()
    }

    /// Duration of the queued audio.
    pub fn queued(&self) -> Duration {
        duration_of(self.totals.queued())
    }

    /// Total audio queued since the start.
    pub fn pushed(&self) -> Duration {
        duration_of(self.totals.pushed)
    }

    /// Position in all audio ever queued at the end of the next frame; None unless the agent is live and the frame is
    /// queued.
    pub fn live_frame_end(&self) -> Option<Duration> {
        let is_there = !self.paused && self.queued() >= FRAME && self.backlog.is_live();
        is_there.then(|| duration_of(self.totals.taken) + FRAME)
    }

    /// Total audio refused because the queue was full.
    pub fn refused(&self) -> Duration {
        duration_of(self.totals.refused)
    }

    /// Total live audio skipped because it was late. The caller did not hear it.
    pub fn trimmed(&self) -> Duration {
        duration_of(self.totals.trimmed)
    }

    /// The sample rate of the audio taken next, or None for Opus packets. Audio pushed now may have another format.
    pub fn rate(&self) -> Option<SampleRate> {
        self.segments.playing().rate()
    }

    /// What one push may add, in 48 kHz ticks: nothing once bound and overrun are reached.
    fn free_ticks(&self) -> u64 {
        match self.refuses() {
            true => 0,
            false => ticks_in(self.bound.limit_of_a_push()).saturating_sub(self.totals.queued()),
        }
    }

    fn next_frame(&mut self, frame: &mut [i16]) -> Taken {
        let Segment::Pcm(pcm) = self.segments.playing_mut() else { return Taken::Silence };
        let crossfade = match self.backlog.is_live() && self.backlog.has_spare() {
            true => pcm.skip(|is_quiet| self.backlog.skips(is_quiet)),
            false => None,
        };
        let samples = pcm.take(frame);
        if samples > 0 {
            self.in_pause = pcm.is_quiet(frame);
        }
        let (taken, trimmed) = (pcm.ticks(samples), pcm.ticks(frame.len()));
        if let Some(crossfade) = crossfade {
            crossfade.apply(frame);
            self.trim(trimmed);
        }
        if samples == 0 {
            frame.fill(0);
            self.missed_frame();
            return Taken::Silence;
        }
        self.took(taken);
        Taken::Speech
    }

    fn next_packet(&mut self) -> Option<Bytes> {
        let Segment::Opus(packets) = self.segments.playing_mut() else { return None };
        let skips = match packets.front() {
            Some(packet) if packets.len() > 1 && self.backlog.has_spare() => self.backlog.skips(is_quiet(packet)),
            _ => false,
        };
        if skips {
            packets.pop_front();
        }
        let packet = take_packet(packets);
        if skips {
            self.trim(u64::from(TICKS_PER_FRAME));
        }
        match &packet {
            Some(packet) => {
                self.in_pause = is_quiet(packet);
                self.took(u64::from(TICKS_PER_FRAME));
            }
            None => self.missed_frame(),
        }
        packet
    }

    fn queued_ticks(&mut self, taken: u64, refused: u64) {
        if taken > 0 {
            if self.empty_frames >= frames_in(UTTERANCE_PAUSE) {
                self.totals.played = 0;
                self.backlog.resume();
            } else if self.has_underrun && self.totals.played > 0 {
                self.backlog.underran(self.in_pause);
            }
            self.empty_frames = 0;
            self.has_underrun = false;
            self.backlog.pushed(u32::try_from(taken).unwrap_or(u32::MAX));
        }
        self.totals.pushed += taken;
        self.totals.refused += refused;
        let queued = self.queued();
        self.bound.pushed(queued);
    }

    /// Marks inside are reported with the frame that follows.
    fn trim(&mut self, ticks: u64) {
        self.totals.trimmed += ticks;
        self.removed(ticks);
    }

    fn took(&mut self, ticks: u64) {
        self.totals.played += ticks;
        self.has_underrun = false;
        self.removed(ticks);
        self.marks.reach(self.totals.taken);
    }

    /// `ticks` have left the queue, played or not.
    fn removed(&mut self, ticks: u64) {
        self.totals.taken += ticks;
        self.segments.advance();
        let queued = self.queued();
        self.bound.removed(queued);
    }

    /// A frame of silence because no audio is ready.
    fn missed_frame(&mut self) {
        self.has_underrun = true;
        self.idle();
    }

    /// 20 ms passed without a frame taken. They count towards the end of an utterance only if nothing is queued.
    fn idle(&mut self) {
        if self.totals.queued() == 0 {
            self.empty_frames += 1;
        }
        self.segments.last_mut().idle();
    }
}

impl Totals {
    fn queued(&self) -> u64 {
        self.pushed - self.taken
    }
}

/// By the sender's voice-activity bit, or because only DTX makes packets of two bytes (RFC 6716 §3.1).
fn is_quiet(packet: &Bytes) -> bool {
    packet.len() <= 2 || inspect(packet).is_ok_and(|facts| facts.voice == Some(false))
}

fn frames_in(duration: Duration) -> u64 {
    (duration.as_millis() / FRAME.as_millis()) as u64
}

/// In 48 kHz ticks.
fn ticks_in(duration: Duration) -> u64 {
    (duration.as_micros() * 48 / 1000) as u64
}

fn duration_of(ticks: u64) -> Duration {
    SampleRate::Hz48000.duration(ticks)
}

fn milliseconds(ticks: u64) -> u64 {
    ticks / 48
}

#[cfg(test)]
mod tests;
