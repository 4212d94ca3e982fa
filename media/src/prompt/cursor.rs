//! Cursor: where one call stands in the prompts it hears.

use super::{Prompt, Repeat};
use crate::opus::SILENCE;

/// Plays a list of prompts in its order. Nothing is encoded here: every frame was baked when its prompt was made.
#[derive(Debug)]
pub(crate) struct Cursor {
    prompts: Vec<Prompt>,
    repeat: Repeat,
    /// Which prompt is heard; the length of the list when all have been.
    playing: usize,
    place: Place,
}

/// The next frame of the prompt that is heard.
#[derive(Debug, Clone, Copy)]
enum Place {
    Frame(usize),
    /// A frame of the seam that leads from the end back into the beginning.
    Seam(usize),
}

/// What a cursor gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Played {
    /// False when it was silence after the end.
    pub talking: bool,
    /// This was the last frame.
    pub ended: bool,
}

impl Cursor {
    /// A list that repeats begins anew after its last prompt; a single prompt repeats through its seam, if it has one.
    /// An empty list ends at once, whatever `repeat` says.
    pub(crate) fn new(prompts: Vec<Prompt>, repeat: Repeat) -> Self {
        Self { prompts, repeat, playing: 0, place: Place::Frame(0) }
    }

    /// Copies the next frame to `out`, replacing what was there. After the end it is silence, which has ended too.
    pub(crate) fn fill(&mut self, out: &mut Vec<u8>) -> Played {
        out.clear();
        let Some(prompt) = self.prompts.get(self.playing) else {
            out.extend_from_slice(&SILENCE);
            return Played { talking: false, ended: true };
        };
        let seam = prompt.seam().filter(|_| self.repeat == Repeat::Loop && self.prompts.len() == 1);
        let (frame, next) = match (self.place, seam) {
            (Place::Seam(index), Some(seam)) if index + 1 < seam.frames.len() => {
                (&seam.frames[index], Some(Place::Seam(index + 1)))
            }
            (Place::Seam(index), Some(seam)) => (&seam.frames[index], Some(Place::Frame(seam.back_to))),
            (Place::Frame(index) | Place::Seam(index), seam) => {
                let next = match seam {
                    Some(seam) if index + 1 == seam.leave_before => Some(Place::Seam(0)),
                    _ => (index + 1 < prompt.frames().len()).then_some(Place::Frame(index + 1)),
                };
                (&prompt.frames()[index], next)
            }
        };
        out.extend_from_slice(frame);
        match next {
            Some(place) => self.place = place,
            None => self.next_prompt(),
        }
        Played { talking: true, ended: self.playing == self.prompts.len() }
    }

    fn next_prompt(&mut self) {
        self.place = Place::Frame(0);
        self.playing += 1;
        if self.playing == self.prompts.len() && self.repeat == Repeat::Loop {
            self.playing = 0;
        }
    }
}

#[cfg(test)]
mod tests;
