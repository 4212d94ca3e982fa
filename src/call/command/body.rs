//! The fields of commands, as JSON has them.

use std::collections::BTreeMap;
use std::time::Duration;

use patchcord_media::gather::{GatherOptions, MAX_DIGITS};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{invalid, is_key};
use crate::call::refusal::Refusal;
use crate::twilio;

/// Where to put a caller through to: the agents of a route, a queue, a person, or one agent by its URL.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Destination {
    /// A route by its name: its agent, then its fallbacks.
    #[serde(default)]
    pub route: Option<String>,
    /// A queue by its name.
    #[serde(default)]
    pub queue: Option<String>,
    /// A person by the id of its API key, who is signed in and idle.
    #[serde(default)]
    pub agent: Option<String>,
    /// The WebSocket of an agent that speaks `patchcord.v1`, or `offer:` and the URL of an endpoint that answers WebRTC
    /// offers as JSON. It must be allowed by the configuration.
    #[serde(default)]
    pub url: Option<String>,
    /// A SIP phone, to which another one hands its caller over. The API cannot name it.
    #[serde(skip)]
    #[schema(ignore)]
    pub phone: Option<String>,
    /// TwiML, or the app that answers it. Twilio's REST API alone names it.
    #[serde(skip)]
    #[schema(ignore)]
    pub twiml: Option<Box<twilio::Source>>,
    /// For the agent's `start`, beside those of the route.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
}

/// How to accept.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Accept {
    /// The agents; those of the call's route if none of `route`, `queue`, `agent` and `url` is given.
    #[serde(flatten)]
    pub to: Destination,
    /// Without an agent: play, gather and connect from there.
    #[serde(default)]
    pub without_agent: bool,
}

/// Why a call is declined.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Reject {
    /// Your own words, repeated in `call.ended`. The caller does not get them.
    #[serde(default)]
    pub reason: String,
}

/// Where to hand a caller over to, and how.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Transfer {
    /// `route`, `queue`, `agent` or `url`.
    #[serde(flatten)]
    pub to: Destination,
    /// Both agents talk first; `complete_transfer` or the first agent's hang-up hands the caller over.
    #[serde(default)]
    pub warm: bool,
}

/// What to keep with the call.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, ToSchema)]
pub struct SetClientState {
    /// Your text of at most 4096 bytes; it is repeated in the call's events.
    pub client_state: String,
}

/// What a caller on hold hears.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Hold {
    /// By name, in their order, repeated; the route's hold music if there are none.
    #[serde(default)]
    pub prompts: Vec<String>,
}

/// Whom to mute.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Mute {
    /// `agent`: the caller does not hear it, and its audio is dropped. `caller`: the agent does not hear it.
    pub party: MuteParty,
}

/// One side of a call.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MuteParty {
    /// The agent that has the caller.
    Agent,
    /// The WhatsApp user.
    Caller,
}

/// Prompts to play.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Play {
    /// By name, in their order.
    pub prompts: Vec<String>,
    /// Repeated until stopped.
    #[serde(default, rename = "loop")]
    pub repeat: bool,
    /// Under the agent's voice and ducked during speech, instead of interrupting it.
    #[serde(default)]
    pub under_voice: bool,
}

/// Keys to collect.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Gather {
    /// Played before; the first key stops them.
    #[serde(default)]
    pub prompts: Vec<String>,
    /// The gather ends after this many keys.
    #[serde(default = "usual_max_digits")]
    pub max_digits: usize,
    /// For the first key, from the end of the prompts.
    #[serde(default = "usual_first_digit_timeout_ms")]
    pub first_digit_timeout_ms: u64,
    /// For each further key.
    #[serde(default = "usual_inter_digit_timeout_ms")]
    pub inter_digit_timeout_ms: u64,
    /// The key that ends it; `#` by default, null for none.
    #[serde(default = "usual_terminator")]
    pub terminator: Option<char>,
    /// Until it ends, only its owner gets the keys, and the recording is silent.
    #[serde(default)]
    pub protected: bool,
}

/// Keys to send.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, ToSchema)]
pub struct SendDtmf {
    /// `0`–`9`, `*`, `#`, `A`–`D`.
    pub digits: String,
}

/// A participant to add.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Invite {
    /// The route whose first agent is added.
    pub route: String,
    /// What it may do.
    pub role: Role,
}

/// A change of what a participant may do.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, ToSchema)]
pub struct SetRole {
    /// As `invite` answered.
    pub guest_id: u32,
    /// The new role.
    pub role: Role,
}

/// A participant to remove.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Dismiss {
    /// As `invite` answered.
    pub guest_id: u32,
}

/// What a participant may do. All of them hear caller and agent.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It is not heard.
    Listen,
    /// The agent hears it.
    Whisper,
    /// Everybody hears it.
    Join,
}

impl Destination {
    /// Whether it names anything.
    pub fn is_given(&self) -> bool {
        self.phone.is_some() || self.twiml.is_some() || self.given().next().is_some()
    }

    /// Refuses none of them, and more than one.
    pub fn check(&self) -> Result<(), Refusal> {
        match self.given().count() + usize::from(self.twiml.is_some()) {
            1 => Ok(()),
            0 => Err(invalid("route: give the name of a route, or queue, agent or url")),
            _ => Err(invalid("route: give one of route, queue, agent and url")),
        }
    }

    fn given(&self) -> impl Iterator<Item = &String> {
        [&self.route, &self.queue, &self.agent, &self.url].into_iter().flatten()
    }
}

impl Gather {
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if !(1..=MAX_DIGITS).contains(&self.max_digits) {
            return Err(invalid(format!("max_digits: give 1 to {MAX_DIGITS}")));
        }
        const MINUTES_10: u64 = 600_000;
        for (key, value) in [
            ("first_digit_timeout_ms", self.first_digit_timeout_ms),
            ("inter_digit_timeout_ms", self.inter_digit_timeout_ms),
        ] {
            if !(1..=MINUTES_10).contains(&value) {
                return Err(invalid(format!("{key}: give 1 to {MINUTES_10}")));
            }
        }
        match self.terminator {
            Some(key) if !is_key(key) => Err(invalid("terminator: give one of 0-9, *, #, A-D, or null")),
            _ => Ok(()),
        }
    }

    /// The options of the media package.
    pub fn options(&self) -> GatherOptions {
        GatherOptions {
            max_digits: self.max_digits,
            first_digit_timeout: Duration::from_millis(self.first_digit_timeout_ms),
            inter_digit_timeout: Duration::from_millis(self.inter_digit_timeout_ms),
            terminator: self.terminator,
        }
    }
}

fn usual_max_digits() -> usize {
    MAX_DIGITS
}

fn usual_first_digit_timeout_ms() -> u64 {
    10_000
}

fn usual_inter_digit_timeout_ms() -> u64 {
    3_000
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of the field it fills")]
fn usual_terminator() -> Option<char> {
    Some('#')
}
