//! The caller's line as continuous samples.
//!
//! The samples given keep step with the caller's own clock. While nothing comes, ours stands in for it: silence is
//! given ahead of the line, and the line pays it back when it goes on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

use crate::cut::{Level, Seam};
use crate::opus::{Decoder, FRAME, OpusError, SampleRate, fade_in, fade_out, inspect};
use crate::reorder::Slot;
use crate::timeline::TICKS_PER_FRAME;

/// When the caller's next sound is so late, the agent is given silence, so that its turn detection goes on. It is
/// longer than three lost packets and the 60 ms that a gap may stay open: a loss is to be rebuilt, not filled.
const FILL_AFTER: Duration = Duration::from_millis(120);
/// Once silence is given, the agent is kept so close to our clock.
const FILL_LAG: Duration = Duration::from_millis(40);
/// Frames given at once after our own stall. What is older is worth nothing any more.
const FILL_AT_MOST: u32 = 25;
/// Silence given ahead of the line that may stay for good, in 48 kHz ticks: 60 ms.
const AHEAD_AT_MOST: u32 = 3 * TICKS_PER_FRAME;
/// Beyond that, so much of speech is given between two cuts of 20 ms, in 48 kHz ticks: 180 ms. A tenth is cut out:
/// one second of delay is gone in ten, sooner with pauses, and speech recognition still follows.
const SPEECH_BETWEEN_CUTS: u32 = 9 * TICKS_PER_FRAME;
/// A pause may seem so much shorter to us than by the caller's clock, when the network stalled at its beginning, in
/// 48 kHz ticks: 5 s. A clock that began anew lands here once in ten thousand times.
const SAME_PAUSE: u32 = 240_000;
/// A jump back of the caller's clock within one second is a sender's slip, as [`Reorder`](crate::reorder::Reorder)
/// sees it, not another line.
const SLIP: i32 = 48_000;

#[derive(Debug)]
pub(super) struct PcmForm {
    decoder: Decoder,
    /// Decoded, less than one frame of it after each slot.
    samples: Vec<i16>,
    chunk: BytesMut,
    /// Where the caller's line stands, in its 48 kHz ticks. `None` until it has begun.
    line_end: Option<u32>,
    /// When the caller's next sound is due, or the next silence in place of it.
    due_at: Instant,
    /// 48 kHz ticks given ahead of the line.
    ahead: u32,
    /// Those of them given since the last slot.
    filled: u32,
    /// A piece was cut out right before what comes next.
    seam: Option<Seam>,
    since_cut: u32,
    level: Level,
}

impl PcmForm {
    pub fn new(rate: SampleRate, now: Instant) -> Result<Self, OpusError> {
        Ok(Self {
            decoder: Decoder::new(rate)?,
            samples: Vec::new(),
            chunk: BytesMut::new(),
            line_end: None,
            due_at: now,
            ahead: 0,
            filled: 0,
            seam: None,
            since_cut: 0,
            level: Level::default(),
        })
    }

    pub fn rate(&self) -> SampleRate {
        self.decoder.rate()
    }

    pub fn start(&mut self, now: Instant) {
        self.due_at = now;
    }

    /// The sender is another: nothing of the old line leads into the new one.
    pub fn restart(&mut self, now: Instant) {
        if self.line_end.take().is_some() {
            let behind = self.behind(now);
            self.be_silent(behind);
        }
        self.forget_line();
    }

    pub fn hear(&mut self, slot: Slot, now: Instant) {
        match slot {
            Slot::Packet { timestamp, payload } => {
                self.follow(timestamp, now);
                let ticks = self.decode(&payload);
                self.line_end = Some(timestamp.wrapping_add(ticks));
                self.due_at = now + duration_of(ticks);
                self.filled = 0;
            }
            Slot::Lost { timestamp, duration, next } => {
                self.follow(timestamp, now);
                // Only what was given in this very gap: an older debt must not cost what FEC can rebuild.
                let rest = self.owed(duration, self.filled);
                let samples = self.decoder.rate().samples(rest);
                let start = self.samples.len();
                if self.decoder.decode_lost(next.as_deref(), samples, &mut self.samples).is_err() {
                    self.samples.truncate(start);
                    self.be_silent(rest);
                }
                self.line_end = Some(timestamp.wrapping_add(duration));
                self.due_at = now;
            }
            Slot::Quiet { timestamp, duration } => {
                self.follow(timestamp, now);
                let rest = self.owed(duration, self.ahead);
                self.be_silent(rest);
                self.line_end = Some(timestamp.wrapping_add(duration));
                self.due_at = now;
            }
        }
    }

    /// Gives silence in place of what is late.
    pub fn fill(&mut self, now: Instant) {
        let mut patience = if self.filled == 0 { FILL_AFTER } else { FILL_LAG };
        for _ in 0..FILL_AT_MOST {
            if now.saturating_duration_since(self.due_at) < patience {
                return;
            }
            patience = FILL_LAG;
            self.fade_away();
            self.ahead = self.ahead.saturating_add(TICKS_PER_FRAME);
            self.filled = self.filled.saturating_add(TICKS_PER_FRAME);
            self.due_at += FRAME;
        }
        self.due_at = self.due_at.max(now - FILL_LAG);
    }

    /// Moves the whole frames to `queue`. `push` says whether it had to drop one for it.
    pub fn cut_frames(
        &mut self,
        queue: &mut VecDeque<Bytes>,
        mut push: impl FnMut(&mut VecDeque<Bytes>, Bytes) -> bool,
    ) {
        const CHUNK_BYTES: usize = 2 * 1024;
        let frame = self.decoder.rate().samples_per_frame();
        let whole = self.samples.len() / frame * frame;
        for samples in self.samples[..whole].chunks_exact(frame) {
            if self.chunk.capacity() < 2 * frame {
                // Room for a frame at any rate; the memory comes back when the frames before have been sent.
                self.chunk.reserve(CHUNK_BYTES);
            }
            for sample in samples {
                self.chunk.put_i16_le(*sample);
            }
            if push(queue, self.chunk.split().freeze()) {
                // What the agent never gets is not ahead of anything.
                self.ahead = self.ahead.saturating_sub(TICKS_PER_FRAME);
            }
        }
        self.samples.drain(..whole);
    }

    /// Sees whether the line goes on where it stood. Only a pause of more than a second, or another line, does not.
    fn follow(&mut self, timestamp: u32, now: Instant) {
        let Some(end) = self.line_end else {
            return self.forget_line();
        };
        let jump = timestamp.wrapping_sub(end) as i32;
        if (-SLIP..=0).contains(&jump) {
            return;
        }
        let behind = self.behind(now);
        let jump_ticks = jump.unsigned_abs();
        // Ours may say more, when the network stalled at the end of the pause.
        if jump > 0 && jump_ticks <= self.filled.saturating_add(behind).saturating_add(SAME_PAUSE) {
            let rest = self.owed(jump_ticks, self.ahead);
            self.be_silent(rest.min(FILL_AT_MOST * TICKS_PER_FRAME));
        } else {
            // This clock says nothing about how long it was; ours does.
            self.be_silent(behind);
            self.forget_line();
        }
    }

    fn forget_line(&mut self) {
        // Nothing to forget is no reason to fail, and libopus gives none.
        let _ = self.decoder.reset();
        self.line_end = None;
        self.ahead = 0;
        self.filled = 0;
        self.seam = None;
    }

    /// How long the next sound has been due and was not filled, in 48 kHz ticks.
    fn behind(&self, now: Instant) -> u32 {
        let late = now.saturating_duration_since(self.due_at).min(FRAME * FILL_AT_MOST);
        (late.as_micros() * 48 / 1000) as u32
    }

    /// Decodes one packet and gives time back if some is owed; says how many ticks the packet lasts.
    fn decode(&mut self, payload: &Bytes) -> u32 {
        let start = self.samples.len();
        let Ok(facts) = inspect(payload) else {
            self.be_silent(TICKS_PER_FRAME);
            return TICKS_PER_FRAME;
        };
        let ticks = facts.duration;
        if self.decoder.decode(payload, &mut self.samples).is_err() {
            // The packet looked sound and was not: the line keeps its length.
            self.samples.truncate(start);
            self.be_silent(ticks);
            return ticks;
        }
        let quiet = match facts.voice {
            Some(voice) => !voice,
            None => self.level.is_quiet(self.samples[start..].iter().copied()),
        };
        self.since_cut = self.since_cut.saturating_add(ticks);
        if quiet && self.ahead > 0 {
            self.cut(start, ticks.min(self.ahead));
        } else if self.ahead > AHEAD_AT_MOST && self.since_cut >= SPEECH_BETWEEN_CUTS {
            self.cut(start, ticks.min(TICKS_PER_FRAME));
        }
        if start == self.samples.len() {
            return ticks;
        }
        if let Some(seam) = self.seam.take() {
            seam.lead_into(&mut self.samples[start..]);
        } else if self.filled > 0 {
            let fade = self.decoder.rate().samples(240).min(self.samples.len() - start);
            fade_in(&mut self.samples[start..start + fade]);
        }
        ticks
    }

    /// Takes the first `ticks` of what was decoded at `start` out again.
    fn cut(&mut self, start: usize, ticks: u32) {
        let rate = self.decoder.rate();
        let end = (start + rate.samples(ticks)).min(self.samples.len());
        if self.seam.is_none() {
            self.seam = Some(Seam::before(self.samples[start..end].iter().copied(), rate));
        }
        self.samples.drain(start..end);
        self.ahead -= ticks;
        self.since_cut = 0;
    }

    /// What of a gap has not been given already, when at most `given` counts.
    fn owed(&mut self, duration: u32, given: u32) -> u32 {
        let paid = duration.min(given);
        self.ahead -= paid;
        self.filled = self.filled.saturating_sub(paid);
        duration - paid
    }

    /// One frame in place of a late one. The first of them lets the last sound fade, as one that is lost would.
    fn fade_away(&mut self) {
        let samples = self.decoder.rate().samples_per_frame();
        let start = self.samples.len();
        if self.filled == 0 && self.line_end.is_some() {
            match self.decoder.decode_lost(None, samples, &mut self.samples) {
                Ok(()) => fade_out(&mut self.samples[start..]),
                Err(_) => self.samples.truncate(start),
            }
        }
        self.samples.resize(start + samples, 0);
    }

    fn be_silent(&mut self, ticks: u32) {
        let samples = self.decoder.rate().samples(ticks);
        self.samples.resize(self.samples.len() + samples, 0);
    }
}

fn duration_of(ticks: u32) -> Duration {
    Duration::from_micros(u64::from(ticks) * 1000 / 48)
}
