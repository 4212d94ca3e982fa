//! Gather: collects the keys a caller presses until there are enough, a terminator is pressed, or time is up.

use std::time::{Duration, Instant};

/// Nobody types more digits than this.
pub const MAX_DIGITS: usize = 128;

/// When a gather ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatherOptions {
    /// Ends after this many digits, 1 to [`MAX_DIGITS`].
    pub max_digits: usize,
    /// Time for the first key, from the end of the prompt.
    pub first_digit_timeout: Duration,
    /// Time for each further key.
    pub inter_digit_timeout: Duration,
    /// A key that ends the gather and is not part of the digits, such as `#`.
    pub terminator: Option<char>,
}

/// The result of a gather.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gathered {
    /// The keys in their order, without the terminator.
    pub digits: String,
    /// Why it ended.
    pub end: GatherEnd,
}

/// Why a gather ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatherEnd {
    /// All digits were pressed.
    MaxDigits,
    /// The terminator was pressed.
    Terminator,
    /// No key in time.
    FirstDigitTimeout,
    /// No further key in time.
    InterDigitTimeout,
    /// It was stopped, or replaced by another gather.
    Stopped,
}

/// A gather in progress.
#[derive(Debug)]
pub struct Gather {
    options: GatherOptions,
    digits: String,
    /// None while the prompt before the first key plays.
    give_up_at: Option<Instant>,
}

impl Gather {
    /// Waits for the first key from [`prompt_ended`](Self::prompt_ended) on.
    pub fn new(options: GatherOptions) -> Self {
        Self { digits: String::new(), give_up_at: None, options }
    }

    /// The prompt ended, was stopped, or there is none: the time for the first key starts.
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

    /// Keys of the last `gap` are still unread: extends the time for the next one, at most as if it started now.
    pub fn shift_deadlines(&mut self, gap: Duration, now: Instant) {
        let within = match self.digits.is_empty() {
            true => self.options.first_digit_timeout,
            false => self.options.inter_digit_timeout,
        };
        self.give_up_at = self.give_up_at.map(|at| (at + gap).min(now + within));
    }

    /// Ends it with the keys so far.
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
