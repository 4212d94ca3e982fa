//! The caller's line decoded to continuous PCM.

use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};

use super::Queue;
use super::clock::{Clock, Continuity};
use crate::opus::{Decoder, FRAME, OpusError, SampleRate, fade_in, fade_out, inspect};
use crate::reorder::Slot;
use crate::splice::{Crossfade, SpeechLevel};
use crate::timeline::TICKS_PER_FRAME;

#[derive(Debug)]
pub(super) struct PcmForm {
    decoder: Decoder,
    clock: Clock,
    /// Decoded samples; less than one frame is left after each slot.
    samples: Vec<i16>,
    chunk: BytesMut,
    /// A piece was cut right before the next samples.
    crossfade: Option<Crossfade>,
    level: SpeechLevel,
}

impl PcmForm {
    pub fn new(rate: SampleRate, now: Instant) -> Result<Self, OpusError> {
        Ok(Self {
            decoder: Decoder::new(rate)?,
            clock: Clock::new(now),
            samples: Vec::new(),
            chunk: BytesMut::new(),
            crossfade: None,
            level: SpeechLevel::default(),
        })
    }

    pub fn rate(&self) -> SampleRate {
        self.decoder.rate()
    }

    pub fn start(&mut self, now: Instant) {
        self.clock.start(now);
    }

    /// Another sender starts: the old line must not leak into the new one.
    pub fn restart(&mut self, now: Instant) {
        let continuity = self.clock.restart(now);
        self.follow(continuity);
    }

    pub fn push(&mut self, slot: Slot, now: Instant) {
        match slot {
            Slot::Packet { timestamp, payload } => {
                let continuity = self.clock.follow(timestamp, now);
                self.follow(continuity);
                self.push_packet(timestamp, &payload, now);
            }
            Slot::Lost { timestamp, duration, next } => {
                let continuity = self.clock.follow(timestamp, now);
                self.follow(continuity);
                let rest = self.clock.lost(timestamp, duration, now);
                let samples = self.decoder.rate().samples(rest);
                let start = self.samples.len();
                if self.decoder.decode_lost(next.as_deref(), samples, &mut self.samples).is_err() {
                    self.samples.truncate(start);
                    self.push_silence(rest);
                }
            }
            Slot::Quiet { timestamp, duration } => {
                let continuity = self.clock.follow(timestamp, now);
                self.follow(continuity);
                let rest = self.clock.quiet(timestamp, duration, now);
                self.push_silence(rest);
            }
        }
    }

    /// Inserts silence in place of late audio.
    pub fn fill(&mut self, now: Instant) {
        let conceals = self.clock.has_begun() && !self.clock.has_filled();
        let frames = self.clock.fill(now);
        let samples = self.decoder.rate().samples_per_frame();
        let end = self.samples.len() + samples * frames as usize;
        // The first frame fades out the last audio, as concealment of a lost packet does.
        if conceals && frames > 0 {
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
                // Room for a frame at any rate. The memory is reused once the frames before have been sent.
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

    fn follow(&mut self, continuity: Continuity) {
        let (Continuity::Continues { silence } | Continuity::Restarts { silence }) = continuity;
        self.push_silence(silence);
        if let Continuity::Restarts { .. } = continuity {
            // A decoder that fails to reset still decodes.
            let _ = self.decoder.reset();
            self.crossfade = None;
        }
    }

    /// Decodes one packet and cuts a part of it if the agent is behind. The line keeps the packet's length even if it
    /// cannot be decoded.
    fn push_packet(&mut self, timestamp: u32, payload: &Bytes, now: Instant) {
        let start = self.samples.len();
        let facts = inspect(payload).ok();
        let ticks = facts.map_or(TICKS_PER_FRAME, |facts| facts.duration);
        if facts.is_none() || self.decoder.decode(payload, &mut self.samples).is_err() {
            // Well-formed by its header, but libopus refused it.
            self.samples.truncate(start);
            self.push_silence(ticks);
            return self.clock.packet(timestamp, ticks, ticks, false, now);
        }
        let marked = super::is_pause(payload, facts.and_then(|facts| facts.voice));
        let is_pause = marked.unwrap_or_else(|| self.level.is_quiet(self.samples[start..].iter().copied()));
        let cut = self.clock.spare(ticks, is_pause);
        if cut > 0 {
            self.cut(start, cut);
        }
        self.smooth_start(start);
        self.clock.packet(timestamp, ticks, ticks - cut, is_pause, now);
    }

    /// Smooths the transition at `start`, after a cut or after silence.
    fn smooth_start(&mut self, start: usize) {
        if start == self.samples.len() {
            return;
        }
        if let Some(crossfade) = self.crossfade.take() {
            crossfade.apply(&mut self.samples[start..]);
        } else if self.clock.has_filled() {
            let fade = self.decoder.rate().samples(240).min(self.samples.len() - start);
            fade_in(&mut self.samples[start..start + fade]);
        }
    }

    /// Removes the first `ticks` of what was decoded at `start`.
    fn cut(&mut self, start: usize, ticks: u32) {
        let rate = self.decoder.rate();
        let end = (start + rate.samples(ticks)).min(self.samples.len());
        if self.crossfade.is_none() {
            self.crossfade = Some(Crossfade::from_removed(self.samples[start..end].iter().copied(), rate));
        }
        self.samples.drain(start..end);
        self.clock.cut(ticks);
    }

    fn push_silence(&mut self, ticks: u32) {
        let samples = self.decoder.rate().samples(ticks);
        self.samples.resize(self.samples.len() + samples, 0);
    }
}
