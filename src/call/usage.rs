//! ModelUsage: what the speech models of a call have used, as their vendors count it.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Attempt;

/// Tokens, as a vendor reports them for one response of its model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// All that the model read, the conversation so far included.
    pub input: u64,
    /// Those of `input` that the vendor had cached.
    pub cached_input: u64,
    /// Those of `input` that were sound.
    pub input_audio: u64,
    /// All that the model wrote and said.
    pub output: u64,
    /// Those of `output` that were sound.
    pub output_audio: u64,
}

/// What one speech model has used during a call. Token counts are the sums of the vendor's reports, and null for a vendor that
/// reports none, such as one that charges by time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelUsage {
    /// The model, as the route's `agent` names it.
    #[schema(example = "openai-realtime:gpt-realtime")]
    pub model: String,
    /// Milliseconds for which the model was connected to the call.
    pub connected_ms: u64,
    /// Tokens that the model read. Each response reads the conversation so far anew.
    pub input_tokens: Option<u64>,
    /// Those of `input_tokens` that the vendor had cached.
    pub cached_input_tokens: Option<u64>,
    /// Those of `input_tokens` that were sound.
    pub input_audio_tokens: Option<u64>,
    /// Tokens that the model wrote and said.
    pub output_tokens: Option<u64>,
    /// Those of `output_tokens` that were sound.
    pub output_audio_tokens: Option<u64>,
}

/// The usage of one call's models while it lives.
#[derive(Clone, Debug, Default)]
pub struct UsageMeter(Vec<Session>);

/// One attempt that reached a model.
#[derive(Clone, Debug)]
struct Session {
    attempt: Attempt,
    model: String,
    joined_at: Instant,
    left_at: Option<Instant>,
    tokens: Option<Tokens>,
}

impl Tokens {
    /// The sum. A vendor's nonsense does not wrap around.
    fn plus(self, other: Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            cached_input: self.cached_input.saturating_add(other.cached_input),
            input_audio: self.input_audio.saturating_add(other.input_audio),
            output: self.output.saturating_add(other.output),
            output_audio: self.output_audio.saturating_add(other.output_audio),
        }
    }
}

impl UsageMeter {
    /// A model has joined.
    pub fn joined(&mut self, attempt: Attempt, model: String, now: Instant) {
        if !self.0.iter().any(|session| session.attempt == attempt) {
            self.0.push(Session { attempt, model, joined_at: now, left_at: None, tokens: None });
        }
    }

    /// The agent of this attempt has left; it need not be a model.
    pub fn left(&mut self, attempt: Attempt, now: Instant) {
        if let Some(session) = self.of(attempt) {
            session.left_at.get_or_insert(now);
        }
    }

    /// The vendor has reported this of a model that has joined. Says whether it is of one.
    pub fn used(&mut self, attempt: Attempt, tokens: Tokens) -> bool {
        let session = self.of(attempt);
        session.map(|session| session.tokens = Some(session.tokens.unwrap_or_default().plus(tokens))).is_some()
    }

    /// The sums of each model, the first one first.
    pub fn sums(&self, now: Instant) -> Vec<ModelUsage> {
        let mut sums: Vec<(&str, Duration, Option<Tokens>)> = Vec::new();
        for session in &self.0 {
            let connected = session.left_at.unwrap_or(now).saturating_duration_since(session.joined_at);
            match sums.iter_mut().find(|(model, ..)| *model == session.model) {
                Some((_, sum, tokens)) => {
                    *sum += connected;
                    *tokens = match (*tokens, session.tokens) {
                        (Some(one), Some(other)) => Some(one.plus(other)),
                        (one, other) => one.or(other),
                    };
                }
                None => sums.push((&session.model, connected, session.tokens)),
            }
        }
        sums.into_iter().map(|(model, connected, tokens)| ModelUsage::new(model, connected, tokens)).collect()
    }

    fn of(&mut self, attempt: Attempt) -> Option<&mut Session> {
        self.0.iter_mut().find(|session| session.attempt == attempt)
    }
}

impl ModelUsage {
    fn new(model: &str, connected: Duration, tokens: Option<Tokens>) -> Self {
        Self {
            model: model.to_owned(),
            connected_ms: connected.as_millis() as u64,
            input_tokens: tokens.map(|tokens| tokens.input),
            cached_input_tokens: tokens.map(|tokens| tokens.cached_input),
            input_audio_tokens: tokens.map(|tokens| tokens.input_audio),
            output_tokens: tokens.map(|tokens| tokens.output),
            output_audio_tokens: tokens.map(|tokens| tokens.output_audio),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn tokens(input: u64, output: u64) -> Tokens {
        Tokens { input, output, ..Tokens::default() }
    }

    #[test]
    fn each_model_has_the_sum_of_its_sessions() {
        let (mut meter, began) = (UsageMeter::default(), Instant::now());
        let [first, second, third] = [0, 1, 2].map(Attempt::new);
        meter.joined(first, "one".into(), began);
        assert!(meter.used(first, tokens(10, 1)));
        assert!(meter.used(first, tokens(20, 2)));
        meter.left(first, began + 2 * SECOND);
        meter.left(first, began + 9 * SECOND);
        meter.joined(second, "two".into(), began + 2 * SECOND);
        meter.left(second, began + 3 * SECOND);
        meter.joined(third, "one".into(), began + 3 * SECOND);
        assert!(meter.used(third, tokens(u64::MAX, 4)));
        let sums = meter.sums(began + 7 * SECOND);
        let shown =
            |usage: &ModelUsage| (usage.model.clone(), usage.connected_ms, usage.input_tokens, usage.output_tokens);
        assert_eq!(
            sums.iter().map(shown).collect::<Vec<_>>(),
            [("one".into(), 6000, Some(u64::MAX), Some(7)), ("two".into(), 1000, None, None)]
        );
    }

    #[test]
    fn an_agent_that_is_no_model_uses_nothing() {
        let (mut meter, now) = (UsageMeter::default(), Instant::now());
        meter.left(Attempt::new(0), now);
        assert!(!meter.used(Attempt::new(0), tokens(1, 1)));
        assert_eq!(meter.sums(now), []);
    }
}
