//! MixInput: a speaker's audio as 20 ms frames at the mixer's rate, faded in and out at the ends of each talk-spurt.

use std::time::Duration;

use super::sum::{FRAME_SAMPLES, Frame, RATE, SILENT};
use crate::opus::{Decoder, OpusError, SILENCE, SampleRate, fade_in, fade_out};
use crate::resample::Resampler;
use crate::source::{AgentQueue, Taken};

/// Length of the fades: audio that starts or stops in the middle of a wave clicks.
const FADE: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct MixInput {
    format: Format,
    /// The latest 20 ms, at the mixer's rate.
    frame: Frame,
    state: State,
}

#[derive(Debug)]
enum Format {
    Pcm { inward: Box<Resampler>, at_rate: Vec<i16>, resampled: Vec<i16>, last_sample: i16 },
    Opus { decoder: Decoder, decoded: Vec<i16> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Active,
    /// The talk-spurt is over; this frame fades it out.
    Ending,
}

impl Format {
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

    /// Sample rate of PCM; None for Opus.
    fn rate(&self) -> Option<SampleRate> {
        match self {
            Self::Pcm { inward, .. } => SampleRate::from_hz(inward.from_hz()),
            Self::Opus { .. } => None,
        }
    }
}

impl MixInput {
    /// For PCM at `rate`, or Opus packets for None. Follows a queue whose format changes.
    pub(super) fn new(rate: Option<SampleRate>) -> Result<Self, OpusError> {
        Ok(Self { format: Format::new(rate)?, frame: SILENT, state: State::Idle })
    }

    /// The audio of this tick, or None while the speaker is silent.
    pub(super) fn frame(&self) -> Option<&Frame> {
        (self.state != State::Idle).then_some(&self.frame)
    }

    /// Takes the next 20 ms from the queue.
    pub(super) fn pull(&mut self, queue: &mut AgentQueue) {
        let before = self.state;
        let taken = match self.follow(queue) {
            true => self.take(queue),
            false => self.take_nothing(),
        };
        self.state = match (taken, before) {
            (Taken::Speech, _) => State::Active,
            (Taken::Silence, State::Active) => State::Ending,
            (Taken::Silence, State::Ending | State::Idle) => State::Idle,
        };
        if self.state != State::Idle {
            self.shape(before);
        }
    }

    /// Discards the frame just taken.
    pub(super) fn silence(&mut self) {
        self.state = State::Idle;
    }

    /// One last frame, faded out; None while the speaker is silent. The next frame starts a new talk-spurt.
    pub(super) fn pull_last(&mut self, queue: &mut AgentQueue) -> Option<Frame> {
        self.pull(queue);
        let mut last = *self.frame()?;
        fade_out(&mut last);
        self.silence();
        Some(last)
    }

    /// Switches to the format of the queue's next audio, once the talk-spurt in the old format has been faded out. Returns
    /// false until then.
    fn follow(&mut self, queue: &mut AgentQueue) -> bool {
        if self.format.rate() == queue.rate() {
            return true;
        }
        if self.state == State::Active {
            return false;
        }
        // libopus refuses a decoder only when out of memory. The audio is discarded then.
        let format = Format::new(queue.rate()).inspect_err(|_| queue.discard_frame());
        format.map(|format| self.format = format).is_ok()
    }

    fn take(&mut self, queue: &mut AgentQueue) -> Taken {
        match &mut self.format {
            Format::Pcm { at_rate, .. } => queue.take_frame(at_rate),
            Format::Opus { decoder, decoded } => decode(queue.take_packet().as_deref(), self.state, decoder, decoded),
        }
    }

    fn take_nothing(&mut self) -> Taken {
        match &mut self.format {
            Format::Pcm { at_rate, .. } => {
                at_rate.fill(0);
                Taken::Silence
            }
            Format::Opus { decoder, decoded } => decode(None, self.state, decoder, decoded),
        }
    }

    fn shape(&mut self, before: State) {
        match &mut self.format {
            Format::Pcm { inward, at_rate, resampled, last_sample } => {
                let fade = inward.from_hz() as usize * FADE.as_millis() as usize / 1000;
                if self.state == State::Ending {
                    at_rate[..fade].fill(*last_sample);
                    fade_out(&mut at_rate[..fade]);
                } else {
                    *last_sample = at_rate.last().copied().unwrap_or(0);
                    if before == State::Idle {
                        inward.reset();
                    }
                    if before != State::Active {
                        fade_in(&mut at_rate[..fade]);
                    }
                }
                resampled.clear();
                inward.process(at_rate, resampled);
                self.frame.copy_from_slice(resampled);
            }
            Format::Opus { decoded, .. } => {
                decoded.resize(FRAME_SAMPLES, 0);
                self.frame.copy_from_slice(decoded);
                if self.state == State::Ending {
                    fade_out(&mut self.frame);
                } else if before != State::Active {
                    fade_in(&mut self.frame[..RATE.samples_in(FADE)]);
                }
            }
        }
    }
}

/// When packets stop the decoder still holds some milliseconds, which a silence packet flushes.
fn decode(packet: Option<&[u8]>, before: State, decoder: &mut Decoder, decoded: &mut Vec<i16>) -> Taken {
    if packet.is_some() && before == State::Idle {
        // A decoder that will not be reset still decodes.
        let _ = decoder.reset();
    }
    decoded.clear();
    // A packet that cannot be decoded is silence, like a missing one.
    let _ = decoder.decode(packet.unwrap_or(&SILENCE), decoded);
    if packet.is_some() { Taken::Speech } else { Taken::Silence }
}
