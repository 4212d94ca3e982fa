//! Gather: collects the keys a caller presses until there are enough, a terminator came, or time is up.

use std::time::{Duration, Instant};

/// More digits than this are no input a person types.
pub const MAX_DIGITS: usize = 128;

/// What to wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatherOptions {
    /// It is over after so many, 1 to [`MAX_DIGITS`].
    pub max_digits: usize,
    /// For the first key, counted from the end of the prompt.
    pub first_digit_timeout: Duration,
    /// For each further key.
    pub inter_digit_timeout: Duration,
    /// A key that ends it and is not among the digits, such as `#`.
    pub terminator: Option<char>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gathered {
    /// The keys in their order, without the terminator.
    pub digits: String,
    /// Why it is over.
    pub end: GatherEnd,
}

/// Why a gather is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatherEnd {
    /// All the digits that were asked for.
    MaxDigits,
    /// The terminator was pressed.
    Terminator,
    /// No key came in time.
    FirstDigitTimeout,
    /// No further key came in time.
    InterDigitTimeout,
    /// Somebody stopped it, or another gather took its place.
    Stopped,
}

/// A gather that goes on.
#[derive(Debug)]
pub struct Gather {
    options: GatherOptions,
    digits: String,
    /// None while the prompt before the first key plays.
    give_up_at: Option<Instant>,
}

impl Gather {
    /// Waits for the first key as soon as [`prompt_ended`](Self::prompt_ended) says so.
    pub fn new(options: GatherOptions) -> Self {
        Self { digits: String::new(), give_up_at: None, options }
    }

    /// The prompt is over, was stopped, or there is none: the time for the first key begins.
    pub fn prompt_ended(&mut self, now: Instant) {
        if self.give_up_at.is_none() {
            self.give_up_at = Some(now + self.options.first_digit_timeout);
        }
    }

    /// Takes one key.
    pub fn press(&mut self, digit: char, now: Instant) -> Option<Gathered> {
        if Some(digit) == self.options.terminator {
            return Some(self.end(GatherEnd::Terminator));
        }
        self.digits.push(digit);
        self.give_up_at = Some(now + self.options.inter_digit_timeout);
        (self.digits.len() >= self.options.max_digits.min(MAX_DIGITS)).then(|| self.end(GatherEnd::MaxDigits))
    }

    /// To be called every 20 ms.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Gathered> {
        let is_late = self.give_up_at.is_some_and(|at| at <= now);
        is_late.then(|| match self.digits.is_empty() {
            true => self.end(GatherEnd::FirstDigitTimeout),
            false => self.end(GatherEnd::InterDigitTimeout),
        })
    }

    /// Keys of the last `gap` are still to be read: the time for the next one is that much longer, at most as if it
    /// began now.
    pub fn shift_deadlines(&mut self, gap: Duration, now: Instant) {
        let within = match self.digits.is_empty() {
            true => self.options.first_digit_timeout,
            false => self.options.inter_digit_timeout,
        };
        self.give_up_at = self.give_up_at.map(|at| (at + gap).min(now + within));
    }

    /// Ends it with what there is.
    pub fn stop(mut self) -> Gathered {
        self.end(GatherEnd::Stopped)
    }

    fn end(&mut self, end: GatherEnd) -> Gathered {
        Gathered { digits: std::mem::take(&mut self.digits), end }
    }
}

impl GatherEnd {
    /// The stable name in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxDigits => "max_digits",
            Self::Terminator => "terminator",
            Self::FirstDigitTimeout => "first_digit_timeout",
            Self::InterDigitTimeout => "inter_digit_timeout",
            Self::Stopped => "stopped",
        }
    }
}

#[cfg(test)]
mod tests;
