//! Warnings: what is unusual about a file that is accepted as a prompt.

use std::fmt;

/// A caller may hear something other than what the prompt's author expects. The text says what is unusual and what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PromptWarning {
    /// Nothing in it is audible.
    Silent,
    /// The channels cancel each other when mixed, so one of them is used.
    OppositePhase,
    /// Its end seems to be missing, but most of it is there.
    BreaksOff,
    /// Some packets do not decode, but most of them do.
    Damaged,
    /// Of several streams in the file, one does not decode.
    SoundLeftOut,
}

impl PromptWarning {
    /// A stable code for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::OppositePhase => "opposite_phase",
            Self::BreaksOff => "breaks_off",
            Self::Damaged => "damaged",
            Self::SoundLeftOut => "sound_left_out",
        }
    }
}

impl fmt::Display for PromptWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "nothing can be heard in it; record it again unless it should be silent",
            Self::OppositePhase => {
                "its channels cancel each other when they are mixed, so only the loudest is used; export it in mono"
            }
            Self::BreaksOff => "the file seems to break off before its end; listen to it, or copy it again",
            Self::Damaged => "parts of the file are damaged and left out; copy or convert it again",
            Self::SoundLeftOut => {
                "one of several sounds in the file cannot be decoded and is left out; convert it again"
            }
        })
    }
}
