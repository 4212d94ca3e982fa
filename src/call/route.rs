//! What a route decides of its calls: when they are accepted, and what the caller's speech does.

/// When a call is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerWhen {
    /// Media and agent are ready; the caller hears the phone's own ringing until then.
    #[default]
    AgentReady,
    /// Media is ready; the caller hears our ringback until the agent joins.
    AtOnce,
    /// The application commands it; no agent is dialled before.
    OnCommand,
}

/// What the caller's speech does by itself. Most agents decide themselves when to be silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BargeIn {
    /// Nothing; speech is not detected.
    #[default]
    Off,
    /// `call.speech_started` and `call.speech_stopped`.
    Events,
    /// The events, and the agent's queued audio is cleared.
    Clear,
}
