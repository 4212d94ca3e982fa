//! Ear: the caller's sound on its way to the agent.
//!
//! Packet-driven: a packet that comes in order is heard in the same instant. A PCM agent gets continuous samples,
//! 20 ms at a time, whatever the network or a muted phone does; an Opus agent gets the caller's packets as they are.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

use crate::opus::{Decoder, OpusError, SampleRate, inspect};
use crate::reorder::Slot;
use crate::timeline::TICKS_PER_FRAME;

/// Frames waiting for an agent that reads slowly: half a second. The oldest goes, so that what it hears stays fresh.
const QUEUE_FRAMES: usize = 25;
/// After so long without a packet a PCM agent is given silence, so that its turn detection goes on.
const FILL_AFTER: Duration = Duration::from_millis(60);
/// Room for a burst of frames; the allocator is asked once for many.
const CHUNK_BYTES: usize = 16 * 1024;

/// What the agent hears, waiting to be taken.
#[derive(Debug)]
pub struct Ear {
    form: Form,
    queue: VecDeque<Bytes>,
    dropped: u64,
}

#[derive(Debug)]
enum Form {
    /// Nobody listens.
    Deaf,
    Opus,
    Pcm(Box<PcmForm>),
}

#[derive(Debug)]
struct PcmForm {
    decoder: Decoder,
    /// Decoded, less than one frame of it after each slot.
    samples: Vec<i16>,
    chunk: BytesMut,
    /// When the last sound was put out.
    last_at: Instant,
    /// 48 kHz ticks of silence given ahead of the caller's own line, to be taken back from its pauses.
    ahead: u32,
}

impl Ear {
    /// Nobody listens yet.
    pub fn deaf() -> Self {
        Self { form: Form::Deaf, queue: VecDeque::new(), dropped: 0 }
    }

    /// An agent that takes Opus packets begins to listen.
    pub fn take_opus(&mut self) {
        self.form = Form::Opus;
        self.queue.clear();
    }

    /// An agent that takes 16-bit samples at this rate begins to listen.
    pub fn take_pcm(&mut self, rate: SampleRate, now: Instant) -> Result<(), OpusError> {
        self.form = Form::Pcm(Box::new(PcmForm {
            decoder: Decoder::new(rate)?,
            samples: Vec::new(),
            chunk: BytesMut::new(),
            last_at: now,
            ahead: 0,
        }));
        self.queue.clear();
        Ok(())
    }

    /// The caller can speak from now on; until then there was nothing to fill.
    pub fn start(&mut self, now: Instant) {
        if let Form::Pcm(pcm) = &mut self.form {
            pcm.last_at = now;
        }
    }

    /// Nobody listens any more.
    pub fn deafen(&mut self) {
        self.form = Form::Deaf;
        self.queue.clear();
    }

    /// Whether anything waits to be taken.
    pub fn has_sound(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next 20 ms of samples in little-endian bytes, or the next Opus packet.
    pub fn take(&mut self) -> Option<Bytes> {
        self.queue.pop_front()
    }

    /// Frames and packets dropped because the agent read too slowly.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Hears what comes next on the caller's line.
    pub fn hear(&mut self, slot: Slot, now: Instant) {
        match &mut self.form {
            Form::Deaf => {}
            Form::Opus => {
                if let Slot::Packet { payload, .. } = slot {
                    push(&mut self.queue, &mut self.dropped, payload);
                }
            }
            Form::Pcm(pcm) => {
                pcm.hear(slot, now);
                pcm.cut_frames(&mut self.queue, &mut self.dropped);
            }
        }
    }

    /// To be called every 20 ms while sound is on: fills the pauses of a caller that sends nothing.
    pub fn fill(&mut self, now: Instant) {
        if let Form::Pcm(pcm) = &mut self.form
            && now.saturating_duration_since(pcm.last_at) >= FILL_AFTER
        {
            pcm.be_silent(TICKS_PER_FRAME);
            pcm.ahead = pcm.ahead.saturating_add(TICKS_PER_FRAME);
            pcm.last_at += Duration::from_millis(20);
            pcm.cut_frames(&mut self.queue, &mut self.dropped);
        }
    }
}

impl PcmForm {
    fn hear(&mut self, slot: Slot, now: Instant) {
        self.last_at = self.last_at.max(now);
        match slot {
            Slot::Packet { payload, .. } => {
                let start = self.samples.len();
                let decoded = self.decoder.decode(&payload, &mut self.samples);
                let facts = inspect(&payload).ok();
                let ticks = facts.map_or(TICKS_PER_FRAME, |facts| facts.duration);
                if decoded.is_err() {
                    // The packet looked sound and was not: the line keeps its length.
                    self.samples.truncate(start);
                    self.be_silent(ticks);
                } else if self.ahead >= ticks && facts.is_some_and(|facts| facts.voice == Some(false)) {
                    // The fill was a stall, not a pause: a frame without speech gives the time back.
                    self.samples.truncate(start);
                    self.ahead -= ticks;
                }
            }
            Slot::Lost { duration, next, .. } => {
                let rest = self.owed(duration);
                let samples = self.decoder.rate().samples(rest);
                let start = self.samples.len();
                if self.decoder.decode_lost(next.as_deref(), samples, &mut self.samples).is_err() {
                    self.samples.truncate(start);
                    self.be_silent(rest);
                }
            }
            Slot::Quiet { duration, .. } => {
                let rest = self.owed(duration);
                self.be_silent(rest);
            }
        }
    }

    /// What of a gap has not been filled with silence already.
    fn owed(&mut self, duration: u32) -> u32 {
        let paid = duration.min(self.ahead);
        self.ahead -= paid;
        duration - paid
    }

    fn be_silent(&mut self, ticks: u32) {
        let samples = self.decoder.rate().samples(ticks);
        self.samples.resize(self.samples.len() + samples, 0);
    }

    fn cut_frames(&mut self, queue: &mut VecDeque<Bytes>, dropped: &mut u64) {
        let frame = self.decoder.rate().samples_per_frame();
        let whole = self.samples.len() / frame * frame;
        for samples in self.samples[..whole].chunks_exact(frame) {
            if self.chunk.capacity() < 2 * frame {
                self.chunk.reserve(CHUNK_BYTES);
            }
            for sample in samples {
                self.chunk.put_i16_le(*sample);
            }
            push(queue, dropped, self.chunk.split().freeze());
        }
        self.samples.drain(..whole);
    }
}

fn push(queue: &mut VecDeque<Bytes>, dropped: &mut u64, sound: Bytes) {
    if queue.len() == QUEUE_FRAMES {
        queue.pop_front();
        *dropped += 1;
    }
    queue.push_back(sound);
}
