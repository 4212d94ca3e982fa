//! The caller's line as continuous samples.

use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};

use super::Queue;
use super::clock::{Clock, Joint};
use crate::cut::{Level, Seam};
use crate::opus::{Decoder, FRAME, OpusError, SampleRate, fade_in, fade_out, inspect};
use crate::reorder::Slot;
use crate::timeline::TICKS_PER_FRAME;

#[derive(Debug)]
pub(super) struct PcmForm {
    decoder: Decoder,
    clock: Clock,
    /// Decoded, less than one frame of it after each slot.
    samples: Vec<i16>,
    chunk: BytesMut,
    /// A piece was cut out right before what comes next.
    seam: Option<Seam>,
    level: Level,
}

impl PcmForm {
    pub fn new(rate: SampleRate, now: Instant) -> Result<Self, OpusError> {
        Ok(Self {
            decoder: Decoder::new(rate)?,
            clock: Clock::new(now),
            samples: Vec::new(),
            chunk: BytesMut::new(),
            seam: None,
            level: Level::default(),
        })
    }

    pub fn rate(&self) -> SampleRate {
        self.decoder.rate()
    }

    pub fn start(&mut self, now: Instant) {
        self.clock.start(now);
    }

    /// The sender is another: nothing of the old line leads into the new one.
    pub fn restart(&mut self, now: Instant) {
        let joint = self.clock.restart(now);
        self.join(joint);
    }

    pub fn hear(&mut self, slot: Slot, now: Instant) {
        match slot {
            Slot::Packet { timestamp, payload } => {
                let joint = self.clock.follow(timestamp, now);
                self.join(joint);
                self.hear_packet(timestamp, &payload, now);
            }
            Slot::Lost { timestamp, duration, next } => {
                let joint = self.clock.follow(timestamp, now);
                self.join(joint);
                let rest = self.clock.lost(timestamp, duration, now);
                let samples = self.decoder.rate().samples(rest);
                let start = self.samples.len();
                if self.decoder.decode_lost(next.as_deref(), samples, &mut self.samples).is_err() {
                    self.samples.truncate(start);
                    self.be_silent(rest);
                }
            }
            Slot::Quiet { timestamp, duration } => {
                let joint = self.clock.follow(timestamp, now);
                self.join(joint);
                let rest = self.clock.quiet(timestamp, duration, now);
                self.be_silent(rest);
            }
        }
    }

    /// Gives silence in place of what is late.
    pub fn fill(&mut self, now: Instant) {
        let leads_over = self.clock.has_begun() && !self.clock.has_filled();
        let frames = self.clock.fill(now);
        let samples = self.decoder.rate().samples_per_frame();
        let end = self.samples.len() + samples * frames as usize;
        // The first of them lets the last sound fade, as one that is lost would.
        if leads_over && frames > 0 {
            let start = self.samples.len();
            match self.decoder.decode_lost(None, samples, &mut self.samples) {
                Ok(()) => fade_out(&mut self.samples[start..]),
                Err(_) => self.samples.truncate(start),
            }
        }
        self.samples.resize(end, 0);
    }

    /// Moves the whole frames to `queue`.
    pub fn hand_over(&mut self, queue: &mut Queue, now: Instant) {
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
            if queue.push(self.chunk.split().freeze(), FRAME, now) {
                self.clock.dropped();
            }
        }
        self.samples.drain(..whole);
    }

    fn join(&mut self, joint: Joint) {
        let (Joint::GoesOn { silence } | Joint::Anew { silence }) = joint;
        self.be_silent(silence);
        if let Joint::Anew { .. } = joint {
            // Nothing to forget is no reason to fail, and libopus gives none.
            let _ = self.decoder.reset();
            self.seam = None;
        }
    }

    /// Decodes one packet and gives time back if some is owed. The line keeps the packet's length whatever is in it.
    fn hear_packet(&mut self, timestamp: u32, payload: &Bytes, now: Instant) {
        let start = self.samples.len();
        let facts = inspect(payload).ok();
        let ticks = facts.map_or(TICKS_PER_FRAME, |facts| facts.duration);
        if facts.is_none() || self.decoder.decode(payload, &mut self.samples).is_err() {
            // The packet looked sound and was not.
            self.samples.truncate(start);
            self.be_silent(ticks);
            return self.clock.packet(timestamp, ticks, ticks, false, now);
        }
        let marked = super::is_pause(payload, facts.and_then(|facts| facts.voice));
        let is_pause = marked.unwrap_or_else(|| self.level.is_quiet(self.samples[start..].iter().copied()));
        let cut = self.clock.spare(ticks, is_pause);
        if cut > 0 {
            self.cut(start, cut);
        }
        self.lead_over(start);
        self.clock.packet(timestamp, ticks, ticks - cut, is_pause, now);
    }

    /// What was decoded at `start` comes after a cut, or after silence.
    fn lead_over(&mut self, start: usize) {
        if start == self.samples.len() {
            return;
        }
        if let Some(seam) = self.seam.take() {
            seam.lead_into(&mut self.samples[start..]);
        } else if self.clock.has_filled() {
            let fade = self.decoder.rate().samples(240).min(self.samples.len() - start);
            fade_in(&mut self.samples[start..start + fade]);
        }
    }

    /// Takes the first `ticks` of what was decoded at `start` out again.
    fn cut(&mut self, start: usize, ticks: u32) {
        let rate = self.decoder.rate();
        let end = (start + rate.samples(ticks)).min(self.samples.len());
        if self.seam.is_none() {
            self.seam = Some(Seam::before(self.samples[start..end].iter().copied(), rate));
        }
        self.samples.drain(start..end);
        self.clock.cut(ticks);
    }

    fn be_silent(&mut self, ticks: u32) {
        let samples = self.decoder.rate().samples(ticks);
        self.samples.resize(self.samples.len() + samples, 0);
    }
}
