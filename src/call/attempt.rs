//! Attempts: which try at putting the caller through an agent, a prompt or a report belongs to.

use serde::Serialize;

/// One try at putting the caller through. Counts from 0 over the whole call: the route's targets first, then those of
/// commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Attempt(usize);

impl Attempt {
    /// The attempt of this number.
    pub const fn new(number: usize) -> Self {
        Self(number)
    }

    /// Its number, as events and the API show it.
    pub const fn number(self) -> usize {
        self.0
    }
}
