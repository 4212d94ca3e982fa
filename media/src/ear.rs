//! Ear: the caller's sound on its way to the agent.
//!
//! Packet-driven: a packet that comes in order is heard in the same instant. A PCM agent gets continuous samples,
//! 20 ms at a time, whatever the network or a muted phone does; an Opus agent gets the caller's packets as they are. While
//! the caller sends nothing on purpose (DTX) both get silence, a frame when a frame is due.

mod clock;
mod mixed;
mod opus;
mod pcm;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::opus::OpusForm;
use crate::allowance::Allowance;
use crate::opus::{FRAME, OpusError, SampleRate};
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
    queue: Queue,
}

#[derive(Debug)]
enum Form {
    /// Nobody listens.
    Deaf,
    Opus(Box<OpusForm>),
    Pcm(Box<PcmForm>),
}

/// Frames or packets that wait for the agent.
#[derive(Debug)]
struct Queue {
    frames: VecDeque<Bytes>,
    /// A caller that sends faster than time passes is not heard faster.
    allowance: Allowance,
    dropped: u64,
}

impl Ear {
    /// Nobody listens yet.
    pub fn deaf(now: Instant) -> Self {
        let queue = Queue { frames: VecDeque::new(), allowance: Allowance::new(now), dropped: 0 };
        Self { form: Form::Deaf, mixed: None, queue }
    }

    /// An agent that takes Opus packets begins to listen.
    pub fn take_opus(&mut self, now: Instant) {
        self.listen(Form::Opus(Box::new(OpusForm::new(now))));
    }

    /// An agent that takes 16-bit samples at this rate begins to listen.
    pub fn take_pcm(&mut self, rate: SampleRate, now: Instant) -> Result<(), OpusError> {
        self.listen(Form::Pcm(Box::new(PcmForm::new(rate, now)?)));
        Ok(())
    }

    /// An agent that listens takes samples at `rate` from now on, or Opus packets. Nothing changes if it does already.
    pub fn change_to(&mut self, rate: Option<SampleRate>, now: Instant) -> Result<(), OpusError> {
        match (&self.form, rate) {
            (Form::Deaf, _) | (Form::Opus(_), None) => Ok(()),
            (Form::Pcm(pcm), Some(rate)) if pcm.rate() == rate => Ok(()),
            (_, Some(rate)) => self.take_pcm(rate, now),
            (Form::Pcm(_), None) => {
                self.take_opus(now);
                Ok(())
            }
        }
    }

    /// The caller can speak from now on; until then there was nothing to fill.
    pub fn start(&mut self, now: Instant) {
        match &mut self.form {
            Form::Deaf => {}
            Form::Opus(opus) => opus.start(now),
            Form::Pcm(pcm) => pcm.start(now),
        }
    }

    /// Nobody listens any more.
    pub fn deafen(&mut self) {
        self.listen(Form::Deaf);
    }

    /// Whether anything waits to be taken.
    pub fn has_sound(&self) -> bool {
        !self.queue.frames.is_empty()
    }

    /// The next 20 ms of samples in little-endian bytes, or the next Opus packet.
    pub fn take(&mut self) -> Option<Bytes> {
        self.queue.frames.pop_front()
    }

    /// Frames and packets dropped because the agent read too slowly, or the caller sent too much.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped
    }

    /// Hears what comes next on the caller's line.
    ///
    /// A line that does not go on where it stood, by its timestamps, is a sender that started anew: its sound is
    /// decoded without what came before.
    pub fn hear(&mut self, slot: Slot, now: Instant) {
        match &mut self.form {
            Form::Deaf => {}
            Form::Opus(opus) => opus.hear(slot, now),
            Form::Pcm(pcm) => pcm.hear(slot, now),
        }
        self.hand_over(now);
    }

    /// Hears 20 ms of a mix at 16 kHz in place of the caller's line, until [`restart`](Self::restart).
    pub fn hear_mix(&mut self, frame: &[i16], now: Instant) {
        let mixed = match (&mut self.mixed, &self.form) {
            (Some(mixed), _) => mixed,
            (None, Form::Deaf) => return,
            (None, Form::Opus(_)) => match MixedForm::opus() {
                Ok(form) => self.mixed.insert(Box::new(form)),
                // libopus refuses only when there is no memory; the agent hears nothing then.
                Err(_) => return,
            },
            (None, Form::Pcm(pcm)) => self.mixed.insert(Box::new(MixedForm::pcm(pcm.rate()))),
        };
        if let Some(sound) = mixed.hear(frame) {
            self.queue.push(sound, FRAME, now);
        }
    }

    /// Whether it was a mix that was heard last.
    pub fn is_mixed(&self) -> bool {
        self.mixed.is_some()
    }

    /// Another sender begins, for a new SSRC. One whose numbers or clock jump is noticed without this.
    pub fn restart(&mut self, now: Instant) {
        self.mixed = None;
        match &mut self.form {
            Form::Deaf => {}
            Form::Opus(opus) => opus.restart(now),
            Form::Pcm(pcm) => pcm.restart(now),
        }
        self.hand_over(now);
    }

    /// To be called every 20 ms while sound is on: fills the pauses of a caller that sends nothing. Not while packets wait
    /// behind a gap: it is about to be rebuilt.
    pub fn fill(&mut self, now: Instant) {
        match &mut self.form {
            Form::Deaf => {}
            Form::Opus(opus) => opus.fill(now),
            Form::Pcm(pcm) => pcm.fill(now),
        }
        self.hand_over(now);
    }

    fn listen(&mut self, form: Form) {
        self.form = form;
        self.mixed = None;
        self.queue.frames.clear();
    }

    fn hand_over(&mut self, now: Instant) {
        match &mut self.form {
            Form::Deaf => {}
            Form::Opus(opus) => opus.hand_over(&mut self.queue, now),
            Form::Pcm(pcm) => pcm.hand_over(&mut self.queue, now),
        }
    }
}

impl Queue {
    /// The oldest goes if there is no room; says whether something was dropped.
    fn push(&mut self, sound: Bytes, duration: Duration, now: Instant) -> bool {
        let is_full = self.frames.len() >= QUEUE_FRAMES;
        let is_allowed = self.allowance.spend(duration, now);
        if is_allowed {
            if is_full {
                self.frames.pop_front();
            }
            self.frames.push_back(sound);
        }
        let has_dropped = is_full || !is_allowed;
        self.dropped += u64::from(has_dropped);
        has_dropped
    }
}

/// Whether a packet is of a pause, as far as it says so itself: by the sender's voice bit, or as what an encoder makes
/// while it would rather send nothing (RFC 6716 §2.1.9, one or two bytes).
fn is_pause(packet: &[u8], voice: Option<bool>) -> Option<bool> {
    match voice {
        _ if packet.len() <= 2 => Some(true),
        Some(voice) => Some(!voice),
        None => None,
    }
}

#[cfg(test)]
mod tests;
