//! Music: prompts played in a loop under the speech, ducked while somebody speaks.

use super::sum::{FRAME_SAMPLES, Frame, RATE, SILENT};
use crate::opus::{Decoder, OpusError};
use crate::prompt::Prompt;

/// How far the music is ducked. At 12 dB it stays audible and every word intelligible.
const DUCK_DB: f32 = 12.0;
/// Ducking in 100 ms: fast enough for the first word, slow enough to be unnoticed.
const ATTACK_FRAMES: f32 = 5.0;
/// Between two words the music stays ducked.
const HOLD_FRAMES: u32 = 10;
/// Release in 600 ms, to be unnoticed.
const RELEASE_FRAMES: f32 = 30.0;
/// The music fades in and out in 200 ms.
const FADE_FRAMES: f32 = 10.0;

/// The music under one call.
#[derive(Debug)]
pub(super) struct Music {
    prompts: Vec<Prompt>,
    prompt: usize,
    next_frame: usize,
    wish: Wish,
    decoder: Decoder,
    pcm: Vec<i16>,
    /// Fade-in and fade-out, 0 (inaudible) to 1.
    level: f32,
    /// Ducking, 0 (nobody speaks) to 1.
    ducked: f32,
    hold: u32,
    /// Gain of the last sample.
    gain: f32,
}

#[derive(Debug)]
enum Wish {
    PlayOn,
    ChangeTo(Vec<Prompt>),
    End,
}

impl Music {
    pub(super) fn new(prompts: Vec<Prompt>) -> Result<Self, OpusError> {
        Ok(Self {
            prompts,
            prompt: 0,
            next_frame: 0,
            wish: Wish::PlayOn,
            decoder: Decoder::new(RATE)?,
            pcm: Vec::with_capacity(FRAME_SAMPLES),
            level: 0.0,
            ducked: 0.0,
            hold: 0,
            gain: 0.0,
        })
    }

    /// Changes to other music once this one has faded out.
    pub(super) fn change_to(&mut self, prompts: Vec<Prompt>) {
        self.wish = Wish::ChangeTo(prompts);
    }

    pub(super) fn end(&mut self) {
        self.wish = Wish::End;
    }

    /// It was asked to end, and has faded out.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.wish, Wish::End) && self.gain == 0.0
    }

    /// It was not asked to end.
    pub(super) fn is_wanted(&self) -> bool {
        !matches!(self.wish, Wish::End)
    }

    /// The next 20 ms.
    pub(super) fn play(&mut self, somebody_speaks: bool) -> Frame {
        self.move_levels(somebody_speaks);
        let mut frame = self.decode_next();
        let gain = self.level * 10_f32.powf(-DUCK_DB * self.ducked / 20.0);
        let step = (gain - self.gain) / FRAME_SAMPLES as f32;
        for (index, sample) in frame.iter_mut().enumerate() {
            *sample = (f32::from(*sample) * (self.gain + step * (index + 1) as f32)) as i16;
        }
        self.gain = gain;
        frame
    }

    fn move_levels(&mut self, somebody_speaks: bool) {
        if somebody_speaks {
            self.hold = HOLD_FRAMES;
            self.ducked = (self.ducked + 1.0 / ATTACK_FRAMES).min(1.0);
        } else if self.hold > 0 {
            self.hold -= 1;
        } else {
            self.ducked = (self.ducked - 1.0 / RELEASE_FRAMES).max(0.0);
        }
        if let Wish::ChangeTo(prompts) = &mut self.wish
            && self.gain == 0.0
        {
            self.prompts = std::mem::take(prompts);
            (self.prompt, self.next_frame) = (0, 0);
            self.wish = Wish::PlayOn;
        }
        self.level = match self.wish {
            Wish::PlayOn => (self.level + 1.0 / FADE_FRAMES).min(1.0),
            Wish::ChangeTo(_) | Wish::End => (self.level - 1.0 / FADE_FRAMES).max(0.0),
        };
    }

    /// Prompts start and end in silence, so one decoder decodes them all.
    fn decode_next(&mut self) -> Frame {
        let Some(prompt) = self.prompts.get(self.prompt) else { return SILENT };
        let frames = prompt.frames();
        self.pcm.clear();
        if let Some(payload) = frames.get(self.next_frame) {
            // A frame that cannot be decoded is silence.
            let _ = self.decoder.decode(payload, &mut self.pcm);
        }
        self.next_frame += 1;
        if self.next_frame >= frames.len() {
            self.next_frame = 0;
            self.prompt = (self.prompt + 1) % self.prompts.len();
        }
        self.pcm.resize(FRAME_SAMPLES, 0);
        let mut frame = SILENT;
        frame.copy_from_slice(&self.pcm);
        frame
    }
}

#[cfg(test)]
mod tests;
