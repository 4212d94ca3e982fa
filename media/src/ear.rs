//! Ear: the caller's sound on its way to the agent.
//!
//! Packet-driven: a packet that comes in order is heard in the same instant. A PCM agent gets continuous samples,
//! 20 ms at a time, whatever the network or a muted phone does; an Opus agent gets the caller's packets as they are.

mod mixed;
mod pcm;

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use crate::opus::{OpusError, SampleRate};
use crate::reorder::Slot;
pub(crate) use mixed::MixedForm;
use pcm::PcmForm;

/// Frames waiting for an agent that reads slowly: half a second. The oldest goes, so that what it hears stays fresh.
const QUEUE_FRAMES: usize = 25;

/// What the agent hears, waiting to be taken.
#[derive(Debug)]
pub struct Ear {
    form: Form,
    /// While a third party speaks to the agent.
    mixed: Option<Box<MixedForm>>,
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

impl Ear {
    /// Nobody listens yet.
    pub fn deaf() -> Self {
        Self { form: Form::Deaf, mixed: None, queue: VecDeque::new(), dropped: 0 }
    }

    /// An agent that takes Opus packets begins to listen.
    pub fn take_opus(&mut self) {
        self.form = Form::Opus;
        self.mixed = None;
        self.queue.clear();
    }

    /// An agent that takes 16-bit samples at this rate begins to listen.
    pub fn take_pcm(&mut self, rate: SampleRate, now: Instant) -> Result<(), OpusError> {
        self.form = Form::Pcm(Box::new(PcmForm::new(rate, now)?));
        self.mixed = None;
        self.queue.clear();
        Ok(())
    }

    /// An agent that listens takes samples at `rate` from now on, or Opus packets. Nothing changes if it does already.
    pub fn change_to(&mut self, rate: Option<SampleRate>, now: Instant) -> Result<(), OpusError> {
        match (&self.form, rate) {
            (Form::Deaf, _) | (Form::Opus, None) => Ok(()),
            (Form::Pcm(pcm), Some(rate)) if pcm.rate() == rate => Ok(()),
            (_, Some(rate)) => self.take_pcm(rate, now),
            (Form::Pcm(_), None) => {
                self.take_opus();
                Ok(())
            }
        }
    }

    /// The caller can speak from now on; until then there was nothing to fill.
    pub fn start(&mut self, now: Instant) {
        if let Form::Pcm(pcm) = &mut self.form {
            pcm.start(now);
        }
    }

    /// Nobody listens any more.
    pub fn deafen(&mut self) {
        self.form = Form::Deaf;
        self.mixed = None;
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
    ///
    /// A line that does not go on where it stood, by its timestamps, is a sender that started anew: its sound is
    /// decoded without what came before.
    pub fn hear(&mut self, slot: Slot, now: Instant) {
        match &mut self.form {
            Form::Deaf => {}
            Form::Opus => {
                if let Slot::Packet { payload, .. } = slot {
                    self.dropped += u64::from(push(&mut self.queue, payload));
                }
            }
            Form::Pcm(pcm) => pcm.hear(slot, now),
        }
        self.cut_frames();
    }

    /// Hears 20 ms of a mix at 16 kHz in place of the caller's line, until [`restart`](Self::restart).
    pub fn hear_mix(&mut self, frame: &[i16]) {
        let mixed = match (&mut self.mixed, &self.form) {
            (Some(mixed), _) => mixed,
            (None, Form::Deaf) => return,
            (None, Form::Opus) => match MixedForm::opus() {
                Ok(form) => self.mixed.insert(Box::new(form)),
                // libopus refuses only when there is no memory; the agent hears nothing then.
                Err(_) => return,
            },
            (None, Form::Pcm(pcm)) => self.mixed.insert(Box::new(MixedForm::pcm(pcm.rate()))),
        };
        if let Some(sound) = mixed.hear(frame) {
            self.dropped += u64::from(push(&mut self.queue, sound));
        }
    }

    /// Whether it was a mix that was heard last.
    pub fn is_mixed(&self) -> bool {
        self.mixed.is_some()
    }

    /// Another sender begins, for a new SSRC. One whose numbers or clock jump is noticed without this.
    pub fn restart(&mut self, now: Instant) {
        self.mixed = None;
        if let Form::Pcm(pcm) = &mut self.form {
            pcm.restart(now);
        }
        self.cut_frames();
    }

    /// To be called every 20 ms while sound is on: fills the pauses of a caller that sends nothing.
    pub fn fill(&mut self, now: Instant) {
        if let Form::Pcm(pcm) = &mut self.form {
            pcm.fill(now);
        }
        self.cut_frames();
    }

    fn cut_frames(&mut self) {
        if let Form::Pcm(pcm) = &mut self.form {
            pcm.cut_frames(&mut self.queue, |queue, frame| {
                let dropped = push(queue, frame);
                self.dropped += u64::from(dropped);
                dropped
            });
        }
    }
}

/// The oldest goes if there is no room; says whether it had to.
fn push(queue: &mut VecDeque<Bytes>, sound: Bytes) -> bool {
    let is_full = queue.len() >= QUEUE_FRAMES;
    if is_full {
        queue.pop_front();
    }
    queue.push_back(sound);
    is_full
}

#[cfg(test)]
mod tests;
