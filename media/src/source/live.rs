//! Live: the agent's voice on its way to the caller, one 20 ms payload at a time.

use std::time::Duration;

use super::voice::{Taken, Voice};
use super::{Filled, silence};
use crate::opus::{Encoder, OpusError, Profile, SampleRate, fade_in, fade_out};

/// A wave that stops short is led to zero in this time, and one that begins in its middle is led up.
const FADE: Duration = Duration::from_millis(5);

/// Frames of exact zeros that are encoded before the cached packet stands in for them. The codec is 6.5 ms late and its
/// filters ring: after 100 ms both encoder and decoder are as silent as the packet.
const ZEROS_ENCODED: u32 = 5;

/// The agent's voice and how it becomes Opus.
#[derive(Debug)]
pub(super) struct Live {
    voice: Voice,
    profile: Profile,
    form: Form,
}

/// Of the sound that the voice gives.
#[derive(Debug)]
enum Form {
    Encoded(Encoded),
    Relayed {
        /// The last frame was the agent's.
        in_spurt: bool,
    },
}

#[derive(Debug)]
struct Encoded {
    encoder: Encoder,
    frame: Box<[i16]>,
    /// Where the wave stood at the end of the last frame.
    last_sample: i16,
    in_spurt: bool,
    /// Frames of exact zeros that the agent has just said in a row.
    zeros: u32,
}

impl Live {
    /// `profile` matters for PCM only.
    pub fn new(voice: Voice, profile: Profile) -> Result<Self, OpusError> {
        Ok(Self { form: Form::new(voice.rate(), profile)?, voice, profile })
    }

    pub fn voice(&self) -> &Voice {
        &self.voice
    }

    pub fn voice_mut(&mut self) -> &mut Voice {
        &mut self.voice
    }

    pub fn into_voice(self) -> Voice {
        self.voice
    }

    /// The next 20 ms. Encodes just in time, so that nothing encoded is ever thrown away by a `clear`.
    pub fn fill(&mut self, muted: bool, out: &mut Vec<u8>) -> Filled {
        if self.form.rate() != self.voice.rate() {
            if let Some(end) = self.form.end_spurt(out) {
                return end;
            }
            match Form::new(self.voice.rate(), self.profile) {
                Ok(form) => self.form = form,
                // libopus refuses a rate of ours only without memory. The line must still go on.
                Err(_) => {
                    self.voice.let_go();
                    return silence(out);
                }
            }
        }
        match &mut self.form {
            Form::Encoded(encoded) => encoded.fill(&mut self.voice, muted, out),
            Form::Relayed { in_spurt } => {
                let filled = relay(&mut self.voice, muted, out);
                *in_spurt = filled.talking;
                filled
            }
        }
    }

    /// Something else goes out next: the voice begins anew after it.
    pub fn break_off(&mut self) {
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

    /// Of samples; None for Opus.
    fn rate(&self) -> Option<SampleRate> {
        match self {
            Self::Encoded(encoded) => Some(encoded.encoder.rate()),
            Self::Relayed { .. } => None,
        }
    }

    /// The frame between this sound and another one, if this is in the middle of it.
    fn end_spurt(&mut self, out: &mut Vec<u8>) -> Option<Filled> {
        match self {
            Self::Encoded(encoded) => encoded.in_spurt.then(|| encoded.close_spurt(out)),
            Self::Relayed { in_spurt } => std::mem::take(in_spurt).then(|| silence(out)),
        }
    }
}

impl Encoded {
    fn fill(&mut self, voice: &mut Voice, muted: bool, out: &mut Vec<u8>) -> Filled {
        let taken = match muted {
            true => {
                voice.let_go();
                Taken::Silence
            }
            false => voice.take_frame(&mut self.frame),
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
            // libopus has no reason to refuse a frame of the right length. If it does, the line must still go on.
            Err(_) => silence(out),
        }
    }

    /// The caller's decoder has just heard silence packets that this encoder did not make. A fresh start errs ten
    /// times less in the first 60 ms than going on from the last spurt. What follows zeros of the agent's own begins
    /// as the agent made it begin.
    fn open_spurt(&mut self, zeros_before: u32, out: &mut Vec<u8>) -> Result<(), OpusError> {
        self.in_spurt = true;
        self.encoder.reset()?;
        if zeros_before == 0 {
            let fade = self.encoder.rate().samples_in(FADE);
            fade_in(&mut self.frame[..fade]);
        }
        self.encoder.encode(&self.frame, out)
    }

    /// The encoder looks 6.5 ms ahead; one more frame lets these last samples out. Then the cached packet takes over.
    /// A queue that ran dry, a `clear` and a pause all stop in the middle of a wave, which would click.
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

fn relay(voice: &mut Voice, muted: bool, out: &mut Vec<u8>) -> Filled {
    if muted {
        voice.let_go();
        return silence(out);
    }
    let Some(packet) = voice.take_packet() else {
        return silence(out);
    };
    out.clear();
    out.extend_from_slice(&packet);
    Filled { talking: true, ended: None }
}
