//! The stages of a call, and the status callbacks that are told of them.

use serde::{Deserialize, Serialize};

use super::Method;

/// A stage, by Twilio's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It was begun.
    Initiated,
    /// The phone rings.
    Ringing,
    /// Somebody has answered.
    Answered,
    /// It is over, answered or not.
    Completed,
}

/// The events that one status callback subscribes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stages(Vec<Stage>);

/// The status callback of one call, which the REST API names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusCallback {
    /// `http://…` or `https://…`.
    pub url: String,
    /// How it is asked.
    pub method: Method,
    /// The subscribed events.
    pub stages: Stages,
}

impl StatusCallback {
    /// As the store keeps it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and names always serialise")
    }

    /// What [`to_json`](Self::to_json) gave.
    pub fn of_json(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

impl Stage {
    const ALL: [Self; 4] = [Self::Initiated, Self::Ringing, Self::Answered, Self::Completed];

    /// Twilio's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Initiated => "initiated",
            Self::Ringing => "ringing",
            Self::Answered => "answered",
            Self::Completed => "completed",
        }
    }
}

impl Stages {
    /// What an app has named, each word separately or several between spaces; without a word it is the end. None if a word
    /// is no stage.
    pub fn read<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let words = texts.into_iter().flat_map(str::split_whitespace);
        let stage = |word: &str| Stage::ALL.into_iter().find(|stage| stage.name() == word);
        let stages: Vec<Stage> = words.map(stage).collect::<Option<_>>()?;
        Some(if stages.is_empty() { Self(vec![Stage::Completed]) } else { Self(stages) })
    }

    /// Whether it subscribes to this event.
    pub fn has(&self, stage: Stage) -> bool {
        self.0.contains(&stage)
    }
}
