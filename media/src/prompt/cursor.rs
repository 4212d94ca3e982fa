//! Cursor: the position of one call in the prompts it hears.

use super::{Prompt, Repeat};
use crate::opus::SILENCE;

/// Plays a list of prompts in order. Nothing is encoded here: all frames were encoded with their prompt.
#[derive(Debug)]
pub(crate) struct Cursor {
    prompts: Vec<Prompt>,
    repeat: Repeat,
    /// Index of the current prompt; the length of the list after the last.
    playing: usize,
    place: Place,
}

/// The next frame of the current prompt.
#[derive(Debug, Clone, Copy)]
enum Place {
    Frame(usize),
    /// A frame of the seam from the end back to the start.
    Seam(usize),
}

/// The content of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Played {
    /// False when it was silence after the end.
    pub talking: bool,
    /// This was the last frame.
    pub ended: bool,
}

impl Cursor {
    /// A repeated list restarts after its last prompt; a single prompt repeats through its seam, if it has one. An empty
    /// list ends at once, whatever `repeat` is.
    pub(crate) fn new(prompts: Vec<Prompt>, repeat: Repeat) -> Self {
        Self { prompts, repeat, playing: 0, place: Place::Frame(0) }
    }

    /// Replaces `out` with the next frame. After the end it is silence, marked as ended.
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
