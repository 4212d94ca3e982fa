//! Live: the agent's queue as Opus payloads for the caller, 20 ms at a time.

use std::time::Duration;

use super::agent_queue::{AgentQueue, Taken};
use super::{Filled, silence};
use crate::opus::{Encoder, OpusError, Profile, SampleRate, fade_in, fade_out};

/// Length of the fades: audio that starts or stops in the middle of a wave clicks.
const FADE: Duration = Duration::from_millis(5);

/// Frames of exact zeros that are encoded before the cached silence packet replaces them. The codec lags by 6.5 ms and its
/// filters ring: after 100 ms encoder and decoder are as silent as that packet.
const ZEROS_ENCODED: u32 = 5;

/// The agent's queue and its encoder.
#[derive(Debug)]
pub(super) struct Live {
    queue: AgentQueue,
    profile: Profile,
    form: Form,
}

/// How the queue's audio becomes Opus.
#[derive(Debug)]
enum Form {
    Encoded(Encoded),
    Relayed {
        /// The last frame was a packet of the agent.
        in_spurt: bool,
    },
}

#[derive(Debug)]
struct Encoded {
    encoder: Encoder,
    frame: Box<[i16]>,
    /// The last sample of the previous frame.
    last_sample: i16,
    in_spurt: bool,
    /// Frames of exact zeros in a row.
    zeros: u32,
}

impl Live {
    /// `profile` matters for PCM only.
    pub fn new(queue: AgentQueue, profile: Profile) -> Result<Self, OpusError> {
        Ok(Self { form: Form::new(queue.rate(), profile)?, queue, profile })
    }

    pub fn queue(&self) -> &AgentQueue {
        &self.queue
    }

    pub fn queue_mut(&mut self) -> &mut AgentQueue {
        &mut self.queue
    }

    pub fn into_queue(self) -> AgentQueue {
        self.queue
    }

    /// The next 20 ms. Encodes just in time, so that nothing encoded is ever thrown away by a `clear`.
    pub fn fill(&mut self, muted: bool, out: &mut Vec<u8>) -> Filled {
        if self.form.rate() != self.queue.rate() {
            if let Some(end) = self.form.close_spurt(out) {
                return end;
            }
            match Form::new(self.queue.rate(), self.profile) {
                Ok(form) => self.form = form,
                // libopus refuses a rate of ours only when out of memory. The RTP line must still continue.
                Err(_) => {
                    self.queue.discard_frame();
                    return silence(out);
                }
            }
        }
        match &mut self.form {
            Form::Encoded(encoded) => encoded.fill(&mut self.queue, muted, out),
            Form::Relayed { in_spurt } => {
                let filled = relay(&mut self.queue, muted, out);
                *in_spurt = filled.talking;
                filled
            }
        }
    }

    /// Something else goes out next: the agent's next audio starts a new talk-spurt.
    pub fn end_spurt(&mut self) {
        match &mut self.form {
            Form::Encoded(encoded) => (encoded.in_spurt, encoded.zeros) = (false, 0),
            Form::Relayed { in_spurt } => *in_spurt = false,
        }
    }
}

impl Form {
    fn new(rate: Option<SampleRate>, profile: Profile) -> Result<Self, OpusError> {
        let Some(rate) = rate else { return Ok(Self::Relayed { in_spurt: false }) };
        Ok(Self::Encoded(Encoded {
            encoder: Encoder::new(rate, profile)?,
            frame: vec![0; rate.samples_per_frame()].into(),
            last_sample: 0,
            in_spurt: false,
            zeros: 0,
        }))
    }

    /// Sample rate of PCM; None for Opus.
    fn rate(&self) -> Option<SampleRate> {
        match self {
            Self::Encoded(encoded) => Some(encoded.encoder.rate()),
            Self::Relayed { .. } => None,
        }
    }

    /// The last frame of a talk-spurt that a format change interrupts; None if there is none.
    fn close_spurt(&mut self, out: &mut Vec<u8>) -> Option<Filled> {
        match self {
            Self::Encoded(encoded) => encoded.in_spurt.then(|| encoded.close_spurt(out)),
            Self::Relayed { in_spurt } => std::mem::take(in_spurt).then(|| silence(out)),
        }
    }
}

impl Encoded {
    fn fill(&mut self, queue: &mut AgentQueue, muted: bool, out: &mut Vec<u8>) -> Filled {
        let taken = match muted {
            true => {
                queue.discard_frame();
                Taken::Silence
            }
            false => queue.take_frame(&mut self.frame),
        };
        let zeros_before = self.zeros;
        let is_zero = taken == Taken::Speech && self.frame.iter().all(|sample| *sample == 0);
        self.zeros = if is_zero { zeros_before.saturating_add(1) } else { 0 };
        if is_zero && (!self.in_spurt || self.zeros > ZEROS_ENCODED) {
            self.in_spurt = false;
            return silence(out);
        }
        let encoded = match (taken, self.in_spurt) {
            (Taken::Speech, false) => self.open_spurt(zeros_before, out),
            (Taken::Speech, true) => self.encoder.encode(&self.frame, out),
            (Taken::Silence, true) => return self.close_spurt(out),
            (Taken::Silence, false) => return silence(out),
        };
        self.last_sample = self.frame.last().copied().unwrap_or(0);
        match encoded {
            Ok(()) => Filled { talking: true, ended: None },
            // libopus has no reason to refuse a frame of the right length. If it does, the RTP line must still continue.
            Err(_) => silence(out),
        }
    }

    /// The caller's decoder has just decoded silence packets of another encoder. Starting from a reset has a tenth of the
    /// error in the first 60 ms that continuing from the last spurt has. Audio that follows zeros of the agent's own is
    /// not faded in.
    fn open_spurt(&mut self, zeros_before: u32, out: &mut Vec<u8>) -> Result<(), OpusError> {
        self.in_spurt = true;
        self.encoder.reset()?;
        if zeros_before == 0 {
            let fade = self.encoder.rate().samples_in(FADE);
            fade_in(&mut self.frame[..fade]);
        }
        self.encoder.encode(&self.frame, out)
    }

    /// The encoder looks 6.5 ms ahead; one more frame flushes these last samples. Then the cached packet takes over. An
    /// underrun, a `clear` and a pause all stop in the middle of a wave, which would click.
    fn close_spurt(&mut self, out: &mut Vec<u8>) -> Filled {
        self.in_spurt = false;
        let fade = self.encoder.rate().samples_in(FADE);
        self.frame.fill(0);
        self.frame[..fade].fill(self.last_sample);
        fade_out(&mut self.frame[..fade]);
        match self.encoder.encode(&self.frame, out) {
            Ok(()) => Filled { talking: false, ended: None },
            Err(_) => silence(out),
        }
    }
}

fn relay(queue: &mut AgentQueue, muted: bool, out: &mut Vec<u8>) -> Filled {
    if muted {
        queue.discard_frame();
        return silence(out);
    }
    let Some(packet) = queue.take_packet() else {
        return silence(out);
    };
    out.clear();
    out.extend_from_slice(&packet);
    Filled { talking: true, ended: None }
}
