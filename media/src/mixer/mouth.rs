//! Mouth: a voice on its way into the mix, in frames of 20 ms at the mixer's rate, without an edge at either end.

use std::time::Duration;

use super::sum::{FRAME_SAMPLES, Frame, RATE, SILENT};
use crate::opus::{Decoder, OpusError, SILENCE, SampleRate, fade_in, fade_out};
use crate::resample::Resampler;
use crate::source::{Taken, Voice};

/// A voice that begins or stops in the middle of a wave is led from or to zero.
const FADE: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct Mouth {
    form: Form,
    /// The last 20 ms, at the mixer's rate.
    said: Frame,
    state: State,
}

#[derive(Debug)]
enum Form {
    Pcm { inward: Box<Resampler>, at_rate: Vec<i16>, resampled: Vec<i16>, last_sample: i16 },
    Opus { decoder: Decoder, decoded: Vec<i16> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Shut,
    Open,
    /// The voice is over; this frame leads it to silence.
    Closing,
}

impl Form {
    fn new(rate: Option<SampleRate>) -> Result<Self, OpusError> {
        Ok(match rate {
            Some(rate) => Self::Pcm {
                inward: Box::new(Resampler::new(rate, RATE)),
                at_rate: vec![0; rate.samples_per_frame()],
                resampled: Vec::with_capacity(FRAME_SAMPLES),
                last_sample: 0,
            },
            None => Self::Opus { decoder: Decoder::new(RATE)?, decoded: Vec::with_capacity(FRAME_SAMPLES) },
        })
    }

    /// Of samples; None for Opus.
    fn rate(&self) -> Option<SampleRate> {
        match self {
            Self::Pcm { inward, .. } => Some(inward.from()),
            Self::Opus { .. } => None,
        }
    }
}

impl Mouth {
    /// For a voice of samples at `rate`, or of Opus packets. It follows a voice that changes its form.
    pub(super) fn new(rate: Option<SampleRate>) -> Result<Self, OpusError> {
        Ok(Self { form: Form::new(rate)?, said: SILENT, state: State::Shut })
    }

    /// What was said in this tick, if anything.
    pub(super) fn said(&self) -> Option<&Frame> {
        (self.state != State::Shut).then_some(&self.said)
    }

    /// Takes the next 20 ms of the voice.
    pub(super) fn speak(&mut self, voice: &mut Voice) {
        let before = self.state;
        let taken = match self.follow(voice) {
            true => self.take(voice),
            false => self.take_nothing(),
        };
        self.state = match (taken, before) {
            (Taken::Speech, _) => State::Open,
            (Taken::Silence, State::Open) => State::Closing,
            (Taken::Silence, State::Closing | State::Shut) => State::Shut,
        };
        if self.state != State::Shut {
            self.shape(before);
        }
    }

    /// What is taken now is heard by nobody.
    pub(super) fn shut(&mut self) {
        self.state = State::Shut;
    }

    /// The last it says, if it speaks: led to silence. The next frame begins anew.
    pub(super) fn say_last(&mut self, voice: &mut Voice) -> Option<Frame> {
        self.speak(voice);
        let mut last = *self.said()?;
        fade_out(&mut last);
        self.shut();
        Some(last)
    }

    /// Takes on the form of what the voice says next, once this mouth has ended softly what it said in another one.
    fn follow(&mut self, voice: &mut Voice) -> bool {
        if self.form.rate() == voice.rate() {
            return true;
        }
        if self.state == State::Open {
            return false;
        }
        // libopus refuses a decoder only without memory. What it cannot say goes by.
        let form = Form::new(voice.rate()).inspect_err(|_| voice.let_go());
        form.map(|form| self.form = form).is_ok()
    }

    fn take(&mut self, voice: &mut Voice) -> Taken {
        match &mut self.form {
            Form::Pcm { at_rate, .. } => voice.take_frame(at_rate),
            Form::Opus { decoder, decoded } => hear(voice.take_packet().as_deref(), self.state, decoder, decoded),
        }
    }

    fn take_nothing(&mut self) -> Taken {
        match &mut self.form {
            Form::Pcm { at_rate, .. } => {
                at_rate.fill(0);
                Taken::Silence
            }
            Form::Opus { decoder, decoded } => hear(None, self.state, decoder, decoded),
        }
    }

    fn shape(&mut self, before: State) {
        match &mut self.form {
            Form::Pcm { inward, at_rate, resampled, last_sample } => {
                let fade = inward.from().samples_in(FADE);
                if self.state == State::Closing {
                    at_rate[..fade].fill(*last_sample);
                    fade_out(&mut at_rate[..fade]);
                } else {
                    *last_sample = at_rate.last().copied().unwrap_or(0);
                    if before == State::Shut {
                        inward.reset();
                    }
                    if before != State::Open {
                        fade_in(&mut at_rate[..fade]);
                    }
                }
                resampled.clear();
                inward.process(at_rate, resampled);
                self.said.copy_from_slice(resampled);
            }
            Form::Opus { decoded, .. } => {
                decoded.resize(FRAME_SAMPLES, 0);
                self.said.copy_from_slice(decoded);
                if self.state == State::Closing {
                    fade_out(&mut self.said);
                } else if before != State::Open {
                    fade_in(&mut self.said[..RATE.samples_in(FADE)]);
                }
            }
        }
    }
}

/// When the packets stop the decoder has some milliseconds left, which a packet of silence lets out.
fn hear(packet: Option<&[u8]>, before: State, decoder: &mut Decoder, decoded: &mut Vec<i16>) -> Taken {
    if packet.is_some() && before == State::Shut {
        // A decoder that will not be reset still decodes.
        let _ = decoder.reset();
    }
    decoded.clear();
    // What cannot be decoded is silence, like what is missing.
    let _ = decoder.decode(packet.unwrap_or(&SILENCE), decoded);
    if packet.is_some() { Taken::Speech } else { Taken::Silence }
}
