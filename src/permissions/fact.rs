//! Facts of a ledger: what happened between one person and one business number.

use serde::{Deserialize, Serialize};

use super::Moment;
use crate::whatsapp::permission::CallPermissions;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// When it happened: by Meta's clock for a reply, by ours for everything else.
    pub at: Moment,
    /// What tells it from others of its kind: Meta's id of a message, or our id of a call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum What {
    /// We asked the person, and Meta took the message.
    Requested,
    /// The person, or a rule of Meta's, permits calls.
    Granted {
        /// None for good.
        until: Option<Moment>,
        /// How it came about.
        source: Source,
        /// Meta's id of the request that the person answered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answers: Option<String>,
    },
    /// The person refused a request.
    Denied {
        /// Meta's id of the request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answers: Option<String>,
    },
    /// The permission was withdrawn.
    Revoked {
        /// By the person, or automatically after unanswered calls.
        source: Source,
    },
    /// A call was connected.
    CallAnswered {
        /// Whether we placed it; the limit of calls counts these alone.
        placed: bool,
    },
    /// A call that we placed rang in vain, or was declined.
    CallUnanswered,
    /// Graph was asked.
    LookedUp(Box<CallPermissions>),
    /// Meta refused a call or a request.
    Refused {
        /// Meta's error code.
        code: i64,
        /// When it may be tried again, where Meta says it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Moment>,
    },
}

/// How a permission came about, or was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The person said so, in a reply or in the profile of the business.
    Reply,
    /// A rule of Meta's: the person called us, or left too many calls unanswered.
    Automatic,
    /// Graph's answer to a look-up, or its refusal of a call.
    Graph,
}

impl Source {
    /// As events and the API have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reply => "reply",
            Self::Automatic => "automatic",
            Self::Graph => "graph",
        }
    }
}

impl Fact {
    /// Something that happened now.
    pub fn new(at: Moment, id: Option<String>, what: What) -> Self {
        Self { at, id, what }
    }

    /// Whether both are reports of one thing.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (&self.id, &other.id) {
            (Some(one), Some(another)) => one == another && self.what.rank() == other.what.rank(),
            (None, None) => self == other,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// The order of facts. Of two at one time the one that takes a permission away is the later one.
    pub(super) fn order(&self) -> (Moment, u8, Option<&str>) {
        (self.at, self.what.rank(), self.id.as_deref())
    }
}

impl What {
    /// Whether it says how the permission stands.
    pub(super) fn is_word(&self) -> bool {
        match self {
            Self::Granted { .. } | Self::Denied { .. } | Self::Revoked { .. } => true,
            Self::LookedUp(_) | Self::Refused { .. } => true,
            Self::Requested | Self::CallAnswered { .. } | Self::CallUnanswered => false,
        }
    }

    /// Whether Meta sent it to us, unasked.
    pub(super) fn is_reply(&self) -> bool {
        match self {
            Self::Granted { .. } | Self::Denied { .. } | Self::Revoked { .. } => true,
            Self::LookedUp(_) | Self::Refused { .. } => false,
            Self::Requested | Self::CallAnswered { .. } | Self::CallUnanswered => false,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Requested => 0,
            Self::CallAnswered { .. } => 1,
            Self::CallUnanswered => 2,
            Self::LookedUp(_) => 3,
            Self::Refused { .. } => 4,
            Self::Granted { .. } => 5,
            Self::Denied { .. } => 6,
            Self::Revoked { .. } => 7,
        }
    }
}
