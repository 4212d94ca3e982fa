//! Voice: the agent's sound waiting for its turn, with the marks that stand in it.

mod backlog;
mod marks;
mod pace;
mod pcm;
mod queue;

use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::opus::{FRAME, PacketError, SampleRate, inspect};
use crate::timeline::TICKS_PER_FRAME;
use backlog::Backlog;
use marks::Marks;
use queue::{Queue, Sound, take_packet};

pub use marks::{MAX_MARK_BYTES, MAX_MARKS, MarkStatus, TooManyMarks, VoiceEvent};

/// How much sound an agent may send ahead. Fast speech synthesis delivers whole answers at once.
pub const DEFAULT_MAX_BUFFER: Duration = Duration::from_secs(120);

/// A pause this long with nothing queued ends the agent's utterance. Speech synthesis that streams sentence by
/// sentence falls behind for some hundred milliseconds and is still in the same utterance.
pub const UTTERANCE_PAUSE: Duration = Duration::from_secs(1);

/// Room freed after being full before the agent is asked to go on, so that `xoff` and `xon` do not flutter.
const FREE_AGAIN_SHARE: u32 = 4;

/// The agent's queue, bounded by time.
///
/// Overflow: a push that begins below the bound is taken whole, up to twice the bound, so that back-pressure loses
/// nothing; what comes while the queue is full, and [`tolerating`](Self::tolerating) no more, is refused and counted.
///
/// Agents are of two kinds, told apart by how they deliver. What comes faster than real time, such as synthesised
/// speech, is content: all of it is played. What comes live, in real time, is never pre-buffered: a late chunk costs
/// silence and leaves the queue that much deeper. Of that backlog a cushion is kept, 20 ms for each underrun in speech
/// up to 200 ms, none for one that is alone in 10 s, one frame less after 30 s without; what stays above it by more than
/// 40 ms, or at all where there is none, loses frames without speech, and by more than 120 ms one frame of every four. Time is counted in frames taken.
#[derive(Debug)]
pub struct Voice {
    queue: Queue,
    max_buffer: Duration,
    overrun: Duration,
    full: bool,
    paused: bool,
    /// Ever queued and ever taken, in 48 kHz ticks, which are the same in every form.
    pushed: u64,
    taken: u64,
    /// Ticks of this utterance that left in frames.
    played: u64,
    /// Ticks ever left out to come back from a delay.
    trimmed: u64,
    /// Ticks ever refused.
    refused: u64,
    /// Frames since the queue ran empty.
    dry_frames: u64,
    /// Something was missing for the last frame.
    is_late: bool,
    /// What was taken last was without speech.
    in_pause: bool,
    backlog: Backlog,
    marks: Marks,
}

/// Whether the agent may send more. It is told on the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Send on.
    Free,
    /// Stop reading from the agent until a quarter of the queue is free again.
    Full,
}

/// What one 20 ms frame was filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The agent's sound.
    Speech,
    /// Nothing to say, or paused.
    Silence,
}

/// The answer to `clear`: how much of the utterance the caller got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cleared {
    /// Milliseconds of the agent's own sound that left in frames since the utterance began; neither padding nor what
    /// was [trimmed](Voice::trimmed) counts.
    ///
    /// An utterance begins with the first sound queued after a `clear`, after the start of the call, or after
    /// [`UTTERANCE_PAUSE`] in which the queue was empty.
    pub played_ms: u64,
    /// Milliseconds that were still queued and that nobody will hear.
    pub dropped_ms: u64,
}

/// Why the agent's bytes were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PushError {
    /// PCM for an Opus agent, or Opus for a PCM agent.
    #[error("the agent's sound is not in the encoding it agreed on")]
    WrongEncoding,
    /// Not an Opus packet.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// A packet of another length than 20 ms. It could not take its turn in 20 ms frames.
    #[error("an Opus packet of an agent lasts 20 ms, not {} µs", .ticks * 1000 / 48)]
    PacketDuration {
        /// What it lasts, in 48 kHz ticks.
        ticks: u32,
    },
}

impl Voice {
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
            queue: Queue::new(rate),
            max_buffer,
            overrun: Duration::ZERO,
            full: false,
            paused: false,
            pushed: 0,
            taken: 0,
            played: 0,
            trimmed: 0,
            refused: 0,
            dry_frames: 0,
            is_late: false,
            in_pause: false,
            backlog: Backlog::new(),
            marks: Marks::default(),
        }
    }

    /// Takes so much more while the queue is full: what was under way when the agent was told.
    pub fn tolerating(self, overrun: Duration) -> Self {
        Self { overrun, ..self }
    }

    /// Whether everything that is pushed now would be refused.
    pub fn refuses(&self) -> bool {
        self.queued() >= self.max_buffer.saturating_add(self.overrun)
    }

    /// What is queued from now on is samples at `rate`, or Opus packets. What waits is played first, in its own form,
    /// and marks keep their order. Says how much had to be [cleared](Self::clear): nothing, unless four forms wait.
    pub fn change_to(&mut self, rate: Option<SampleRate>) -> Duration {
        let mut dropped = Duration::ZERO;
        if !self.queue.takes_form(rate) {
            dropped = self.queued();
            self.clear();
        }
        self.queue.change_to(rate);
        dropped
    }

    /// Queues what the agent sent, in the form it sends in.
    pub fn push(&mut self, sound: Bytes) -> Result<Room, PushError> {
        match self.queue.last() {
            Sound::Pcm(_) => self.push_pcm(&sound),
            Sound::Opus(_) => self.push_opus(sound),
        }
    }

    /// Queues little-endian samples. Any number of bytes: half a sample waits for its other half, until the queue has
    /// been empty for some frames, a [`mark`](Self::mark), a [`clear`](Self::clear) or another form.
    pub fn push_pcm(&mut self, bytes: &[u8]) -> Result<Room, PushError> {
        let free = self.free_ticks();
        let Sound::Pcm(pcm) = self.queue.last_mut() else {
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
        let Sound::Opus(packets) = self.queue.last_mut() else {
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

    /// Places a mark behind everything queued so far. It is told when all of that has been taken. What is queued from
    /// now on begins with a whole sample.
    pub fn mark(&mut self, name: String) -> Result<(), TooManyMarks> {
        self.marks.place(self.pushed, name)?;
        self.queue.last_mut().drop_odd_byte();
        self.marks.reach(self.taken);
        Ok(())
    }

    /// Throws everything away: queue, half frame, half sample and marks. The next frame is silence.
    pub fn clear(&mut self) -> Cleared {
        let cleared =
            Cleared { played_ms: milliseconds(self.played), dropped_ms: milliseconds(self.pushed - self.taken) };
        self.queue.clear();
        self.taken = self.pushed;
        self.played = 0;
        self.backlog.clear();
        self.marks.clear();
        self.full = false;
        cleared
    }

    /// Silence from now on, while the queue waits.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Goes on where [`pause`](Self::pause) stopped.
    pub fn resume(&mut self) {
        self.paused = false;
    }

    /// Takes the next 20 ms of a PCM agent. `frame` is exactly one frame at its rate and is always filled.
    ///
    /// A half frame is held for one tick, because the rest of it is usually on its way; then it goes out padded.
    pub fn take_frame(&mut self, frame: &mut [i16]) -> Taken {
        if self.paused || !matches!(self.queue.playing(), Sound::Pcm(_)) {
            frame.fill(0);
            self.idle();
            return Taken::Silence;
        }
        let taken = self.next_frame(frame);
        self.backlog.tick(self.pushed - self.taken);
        taken
    }

    /// Takes the next packet of an Opus agent, if there is one and it is not paused.
    pub fn take_packet(&mut self) -> Option<Bytes> {
        if self.paused || !matches!(self.queue.playing(), Sound::Opus(_)) {
            self.idle();
            return None;
        }
        let packet = self.next_packet();
        self.backlog.tick(self.pushed - self.taken);
        packet
    }

    /// For each 20 ms in which something else is on air: what a live agent says meanwhile goes by, or it would be delay
    /// ever after. Content waits.
    pub fn pass_by(&mut self) {
        match self.backlog.is_live() {
            true => self.let_go(),
            false => self.idle(),
        }
    }

    /// The next 20 ms are heard by nobody: for an agent that is muted, whatever it says.
    pub fn let_go(&mut self) {
        if self.paused {
            return self.idle();
        }
        let ticks = self.queue.pass_by();
        if ticks == 0 {
            self.idle();
        }
        self.left_out(ticks);
        self.marks.reach(self.taken);
        self.backlog.tick(self.pushed - self.taken);
    }

    /// What was late so far came of the beginning: no cushion is kept for it any more.
    pub fn settle(&mut self) {
        self.backlog.settle();
    }

    /// The next event. Marks are told once each, in the order they were placed.
    pub fn poll_event(&mut self) -> Option<VoiceEvent> {
        self.marks.poll_event()
    }

    /// Whether the agent may send more.
    pub fn room(&self) -> Room {
        if self.full { Room::Full } else { Room::Free }
    }

    /// How long the queue plays.
    pub fn queued(&self) -> Duration {
        duration_of(self.pushed - self.taken)
    }

    /// All that was ever queued.
    pub fn pushed(&self) -> Duration {
        duration_of(self.pushed)
    }

    /// Up to where all that was ever queued will have been taken with the next frame, if the agent is live and the frame
    /// is there.
    pub fn live_frame_end(&self) -> Option<Duration> {
        let is_there = !self.paused && self.queued() >= FRAME && self.backlog.is_live();
        is_there.then(|| duration_of(self.taken) + FRAME)
    }

    /// Sound refused because the queue was full, since the beginning.
    pub fn refused(&self) -> Duration {
        duration_of(self.refused)
    }

    /// Live sound left out because it was late, since the beginning. The caller did not hear it.
    pub fn trimmed(&self) -> Duration {
        duration_of(self.trimmed)
    }

    /// The rate of the samples that are taken next, or `None` for Opus packets. What is queued now may be in another
    /// form.
    pub fn rate(&self) -> Option<SampleRate> {
        self.queue.playing().rate()
    }

    /// What one push may add: up to twice the bound in all, or nothing when it is reached.
    fn free_ticks(&self) -> u64 {
        match self.refuses() {
            true => 0,
            false => ticks_in(self.max_buffer.saturating_mul(2)).saturating_sub(self.pushed - self.taken),
        }
    }

    fn next_frame(&mut self, frame: &mut [i16]) -> Taken {
        let Sound::Pcm(pcm) = self.queue.playing_mut() else { return Taken::Silence };
        let seam = match self.backlog.is_live() && self.backlog.has_spare() {
            true => pcm.skip(|is_quiet| self.backlog.leaves_out(is_quiet)),
            false => None,
        };
        let samples = pcm.take(frame);
        if samples > 0 {
            self.in_pause = pcm.is_quiet(frame);
        }
        let (taken, left_out) = (pcm.ticks(samples), pcm.ticks(frame.len()));
        if let Some(seam) = seam {
            seam.lead_into(frame);
            self.left_out(left_out);
        }
        if samples == 0 {
            frame.fill(0);
            self.was_late();
            return Taken::Silence;
        }
        self.took(taken);
        Taken::Speech
    }

    fn next_packet(&mut self) -> Option<Bytes> {
        let Sound::Opus(packets) = self.queue.playing_mut() else { return None };
        let left_out = match packets.front() {
            Some(packet) if packets.len() > 1 && self.backlog.has_spare() => self.backlog.leaves_out(is_quiet(packet)),
            _ => false,
        };
        if left_out {
            packets.pop_front();
        }
        let packet = take_packet(packets);
        if left_out {
            self.left_out(u64::from(TICKS_PER_FRAME));
        }
        match &packet {
            Some(packet) => {
                self.in_pause = is_quiet(packet);
                self.took(u64::from(TICKS_PER_FRAME));
            }
            None => self.was_late(),
        }
        packet
    }

    fn queued_ticks(&mut self, taken: u64, refused: u64) {
        if taken > 0 {
            if self.dry_frames >= frames_in(UTTERANCE_PAUSE) {
                self.played = 0;
                self.backlog.resume();
            } else if self.is_late && self.played > 0 {
                self.backlog.underran(self.in_pause);
            }
            self.dry_frames = 0;
            self.is_late = false;
            self.backlog.pushed(u32::try_from(taken).unwrap_or(u32::MAX));
        }
        self.pushed += taken;
        self.refused += refused;
        self.full |= self.queued() >= self.max_buffer;
    }

    /// The marks inside are told with the frame that follows.
    fn left_out(&mut self, ticks: u64) {
        self.trimmed += ticks;
        self.left(ticks);
    }

    fn took(&mut self, ticks: u64) {
        self.played += ticks;
        self.is_late = false;
        self.left(ticks);
        self.marks.reach(self.taken);
    }

    /// So much is queued no more, whoever heard it.
    fn left(&mut self, ticks: u64) {
        self.taken += ticks;
        self.queue.advance();
        if self.queued() <= self.max_buffer - self.max_buffer / FREE_AGAIN_SHARE {
            self.full = false;
        }
    }

    /// A frame of silence because nothing is ready.
    fn was_late(&mut self) {
        self.is_late = true;
        self.idle();
    }

    /// 20 ms have passed in which nothing was taken. They count as the end of an utterance only if nothing is queued.
    fn idle(&mut self) {
        if self.pushed == self.taken {
            self.dry_frames += 1;
        }
        self.queue.last_mut().idle();
    }
}

/// By the sender's own voice bit, or because only a pause is sent in two bytes (RFC 6716 §3.1: DTX).
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
