//! AgentAudio: the caller's audio on its way to the agent.
//!
//! Packet-driven: an in-order packet is passed on at once. A PCM agent gets continuous 20 ms frames whatever the network
//! or a muted phone does; an Opus agent gets the caller's packets unchanged. While the caller sends nothing on purpose
//! (DTX), both get a frame of silence whenever one is due.

mod clock;
mod opus;
mod pcm;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::opus::OpusForm;
use crate::allowance::Allowance;
use crate::mixer::MixEncoder;
use crate::opus::{FRAME, OpusError, SampleRate};
use crate::reorder::Slot;
use pcm::PcmForm;

/// Frames that wait for an agent that reads slowly. With one on its way into the agent's socket and one inside of it they are
/// less than half a second. Overflow drops the oldest, to bound the delay.
pub(crate) const QUEUE_FRAMES: usize = 22;

/// What the agent hears, waiting to be taken.
#[derive(Debug)]
pub struct AgentAudio {
    form: Form,
    /// While a participant speaks to the agent.
    mixed: Option<Box<MixEncoder>>,
    queue: Queue,
}

/// The format that the agent takes.
#[derive(Debug)]
enum Form {
    /// No agent is attached.
    Off,
    Opus(Box<OpusForm>),
    Pcm(Box<PcmForm>),
}

/// Frames or packets that wait for the agent.
#[derive(Debug)]
struct Queue {
    frames: VecDeque<Bytes>,
    /// Bounds what a caller that sends faster than real time makes the agent receive.
    allowance: Allowance,
    dropped: u64,
    /// Dropped because it was not taken in time, until that is [asked for](AgentAudio::take_missed).
    missed: Duration,
}

impl AgentAudio {
    /// No agent is attached yet.
    pub fn new(now: Instant) -> Self {
        let queue =
            Queue { frames: VecDeque::new(), allowance: Allowance::new(now), dropped: 0, missed: Duration::ZERO };
        Self { form: Form::Off, mixed: None, queue }
    }

    /// Attaches an agent that takes Opus packets.
    pub fn attach_opus(&mut self, now: Instant) {
        self.set_form(Form::Opus(Box::new(OpusForm::new(now))));
    }

    /// Attaches an agent that takes 16-bit PCM at `rate`.
    pub fn attach_pcm(&mut self, rate: SampleRate, now: Instant) -> Result<(), OpusError> {
        self.set_form(Form::Pcm(Box::new(PcmForm::new(rate, now)?)));
        Ok(())
    }

    /// Switches an attached agent to PCM at `rate`, or to Opus packets for None. Does nothing if it has that format.
    pub fn change_to(&mut self, rate: Option<SampleRate>, now: Instant) -> Result<(), OpusError> {
        match (&self.form, rate) {
            (Form::Off, _) | (Form::Opus(_), None) => Ok(()),
            (Form::Pcm(pcm), Some(rate)) if pcm.rate() == rate => Ok(()),
            (_, Some(rate)) => self.attach_pcm(rate, now),
            (Form::Pcm(_), None) => {
                self.attach_opus(now);
                Ok(())
            }
        }
    }

    /// The caller's audio starts now; no silence is due for the time before.
    pub fn start(&mut self, now: Instant) {
        match &mut self.form {
            Form::Off => {}
            Form::Opus(opus) => opus.start(now),
            Form::Pcm(pcm) => pcm.start(now),
        }
    }

    /// Detaches the agent and drops what waits for it.
    pub fn detach(&mut self) {
        self.set_form(Form::Off);
    }

    /// Whether [`take`](Self::take) would return something.
    pub fn has_audio(&self) -> bool {
        !self.queue.frames.is_empty()
    }

    /// The next 20 ms of little-endian PCM, or the next Opus packet.
    pub fn take(&mut self) -> Option<Bytes> {
        self.queue.frames.pop_front()
    }

    /// Frames and packets dropped because the agent read too slowly, or the caller sent too much.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped
    }

    /// How much was dropped since the last call because the agent read too slowly.
    pub fn take_missed(&mut self) -> Duration {
        std::mem::take(&mut self.queue.missed)
    }

    /// Takes the next slot of the caller's line.
    ///
    /// Timestamps that do not continue the line mean that the sender restarted: decoding starts afresh.
    pub fn push(&mut self, slot: Slot, now: Instant) {
        match &mut self.form {
            Form::Off => {}
            Form::Opus(opus) => opus.push(slot, now),
            Form::Pcm(pcm) => pcm.push(slot, now),
        }
        self.hand_over(now);
    }

    /// Takes 20 ms of a mix at 16 kHz in place of the caller's line, until [`restart`](Self::restart).
    pub fn push_mix(&mut self, frame: &[i16], now: Instant) {
        let mixed = match (&mut self.mixed, &self.form) {
            (Some(mixed), _) => mixed,
            (None, Form::Off) => return,
            (None, Form::Opus(_)) => match MixEncoder::opus() {
                Ok(encoder) => self.mixed.insert(Box::new(encoder)),
                // libopus refuses only when out of memory; the agent misses the mix then.
                Err(_) => return,
            },
            (None, Form::Pcm(pcm)) => self.mixed.insert(Box::new(MixEncoder::pcm(pcm.rate()))),
        };
        if let Some(audio) = mixed.encode(frame) {
            self.queue.push(audio, FRAME, now);
        }
    }

    /// Whether the agent hears a mix at present, and not the caller's line.
    pub fn is_mixed(&self) -> bool {
        self.mixed.is_some()
    }

    /// The caller's line starts anew: another SSRC, or the end of a mix, a hold or a mute. A sender whose sequence or
    /// clock jumps is noticed without this.
    pub fn restart(&mut self, now: Instant) {
        self.mixed = None;
        match &mut self.form {
            Form::Off => {}
            Form::Opus(opus) => opus.restart(now),
            Form::Pcm(pcm) => pcm.restart(now),
        }
        self.hand_over(now);
    }

    /// Fills the pauses of a caller that sends nothing. To be called every 20 ms after [`start`](Self::start), but not
    /// while packets wait behind a gap, which is about to be concealed.
    pub fn fill(&mut self, now: Instant) {
        match &mut self.form {
            Form::Off => {}
            Form::Opus(opus) => opus.fill(now),
            Form::Pcm(pcm) => pcm.fill(now),
        }
        self.hand_over(now);
    }

    fn set_form(&mut self, form: Form) {
        self.form = form;
        self.mixed = None;
        self.queue.frames.clear();
        self.queue.missed = Duration::ZERO;
    }

    fn hand_over(&mut self, now: Instant) {
        match &mut self.form {
            Form::Off => {}
            Form::Opus(opus) => opus.hand_over(&mut self.queue, now),
            Form::Pcm(pcm) => pcm.hand_over(&mut self.queue, now),
        }
    }
}

impl Queue {
    /// Queues a frame; overflow drops the oldest. Returns true if anything was dropped.
    fn push(&mut self, audio: Bytes, duration: Duration, now: Instant) -> bool {
        let is_full = self.frames.len() >= QUEUE_FRAMES;
        let is_allowed = self.allowance.spend(duration, now);
        if is_allowed {
            if is_full {
                self.frames.pop_front();
                self.missed += duration;
            }
            self.frames.push_back(audio);
        }
        let has_dropped = is_full || !is_allowed;
        self.dropped += u64::from(has_dropped);
        has_dropped
    }
}

/// Whether the packet itself says that it is a pause: by the sender's voice-activity bit, or because it has the one or two
/// bytes that an encoder makes in DTX (RFC 6716 §2.1.9). None if it does not say.
fn is_pause(packet: &[u8], voice: Option<bool>) -> Option<bool> {
    match voice {
        _ if packet.len() <= 2 => Some(true),
        Some(voice) => Some(!voice),
        None => None,
    }
}

#[cfg(test)]
mod tests;
