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

impl AnswerWhen {
    const ALL: [Self; 3] = [Self::AgentReady, Self::AtOnce, Self::OnCommand];

    /// The stable name in the configuration and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::AgentReady => "when_agent_ready",
            Self::AtOnce => "at_once",
            Self::OnCommand => "on_command",
        }
    }

    /// The value of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|answer| answer.name() == name)
    }
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

impl BargeIn {
    const ALL: [Self; 3] = [Self::Off, Self::Events, Self::Clear];

    /// The stable name in the configuration and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Events => "events",
            Self::Clear => "clear",
        }
    }

    /// The value of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|barge_in| barge_in.name() == name)
    }
}
