//! What an app may ask of a live call: the verbs of the control API, and of the agent's `command`.

use std::collections::BTreeMap;
use std::time::Duration;

use patchcord_media::gather::{GatherOptions, MAX_DIGITS};
use serde::Deserialize;
use utoipa::ToSchema;

use super::refusal::{Refusal, RefusalCode};

/// Prompts in one list at most; a longer announcement is one file.
const MAX_PROMPTS: usize = 32;
/// Digits sent at once at most.
const MAX_SENT_DIGITS: usize = 64;
/// The application's words for a rejection, in characters at most.
const MAX_WORDS: usize = 200;
/// What an application may keep with a call, in bytes at most.
pub const MAX_CLIENT_STATE_BYTES: usize = 4096;

/// One verb with what it needs.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum CallCommand {
    /// Accept a call that rings, as soon as sound can flow.
    Accept(Accept),
    /// Decline a call that rings.
    Reject(Reject),
    /// End the call.
    Hangup,
    /// Put the caller through to another agent; the present one leaves at once.
    Connect(Destination),
    /// Leave the caller without an agent, with hold music.
    Disconnect,
    /// Hand the caller over to another agent; if nobody answers, the first one goes on. Ends with `call.transferred`.
    Transfer(Transfer),
    /// The first agent leaves a warm transfer, and the second takes the caller.
    CompleteTransfer,
    /// The second agent leaves, and the first one goes on.
    CancelTransfer,
    /// Music for the caller, while agent and third parties are among themselves.
    Hold(Hold),
    /// End the hold.
    Unhold,
    /// Agent or caller is not heard by the other.
    Mute(Mute),
    /// It is heard again.
    Unmute(Mute),
    /// Play prompts in their order; what is on air waits. Answered with a `playback_id`.
    Play(Play),
    /// Stop the playback within one frame.
    StopPlayback,
    /// Collect keys; ends with `call.gather_finished`. Answered with a `gather_id`.
    Gather(Gather),
    /// End the gather with the keys pressed so far.
    StopGather,
    /// Press keys towards the other side, if it takes them.
    SendDtmf(SendDtmf),
    /// Mask the caller's keys and keep sound out of the recording until `unprotect`.
    Protect,
    /// End the protection.
    Unprotect,
    /// Record from now on. Answered with a `recording_id`.
    StartRecording,
    /// Silence in the recording.
    PauseRecording,
    /// Sound in the recording again.
    ResumeRecording,
    /// Close the recording.
    StopRecording,
    /// Bring a third party in: somebody who listens, whispers or joins.
    Invite(Invite),
    /// Change what a third party may do.
    SetRole(SetRole),
    /// Send a third party away.
    Dismiss(Dismiss),
}

/// Whom to put a caller through to: the agents of a route, or one by its address.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Destination {
    /// A route by its name: its agent, then its fallbacks.
    #[serde(default)]
    pub route: Option<String>,
    /// The WebSocket of an agent that speaks `patchcord.v1`. It must be allowed by the configuration.
    #[serde(default)]
    pub url: Option<String>,
    /// For the agent's `start`, beside the route's own.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
}

/// How to accept.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Accept {
    /// With whom; the call's own route if neither `route` nor `url` is given.
    #[serde(flatten)]
    pub to: Destination,
    /// With nobody: play, gather and connect from there.
    #[serde(default)]
    pub without_agent: bool,
}

/// Why a call is declined.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Reject {
    /// Your own words, told in `call.ended`. The caller does not hear of them.
    #[serde(default)]
    pub reason: String,
}

/// Whom to hand a caller over to, and how.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Transfer {
    /// `route` or `url`.
    #[serde(flatten)]
    pub to: Destination,
    /// Both agents talk first; `complete_transfer` or the first agent's goodbye hands the caller over.
    #[serde(default)]
    pub warm: bool,
}

/// What a caller on hold hears.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Hold {
    /// By name, in their order, again and again; the route's hold music if there are none.
    #[serde(default)]
    pub prompts: Vec<String>,
}

/// Who is not heard.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Mute {
    /// `agent`: the caller does not hear it, and what it says is lost. `caller`: the agent does not hear it.
    pub party: MuteParty,
}

/// One side of a call.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MuteParty {
    /// The one the call was put through to.
    Agent,
    /// The WhatsApp user.
    Caller,
}

/// Prompts to play.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Play {
    /// By name, in their order.
    pub prompts: Vec<String>,
    /// From the beginning again until stopped.
    #[serde(default, rename = "loop")]
    pub repeat: bool,
    /// Under the agent's voice, ducked while somebody speaks, instead of interrupting it.
    #[serde(default)]
    pub under_voice: bool,
}

/// Keys to collect.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Gather {
    /// Played before; the first key stops them.
    #[serde(default)]
    pub prompts: Vec<String>,
    /// So many keys are enough.
    #[serde(default = "usual_max_digits")]
    pub max_digits: usize,
    /// For the first key, from the end of the prompts.
    #[serde(default = "usual_first_digit_timeout_ms")]
    pub first_digit_timeout_ms: u64,
    /// For each further key.
    #[serde(default = "usual_inter_digit_timeout_ms")]
    pub inter_digit_timeout_ms: u64,
    /// A key that ends it, `#` unless said otherwise; null for none.
    #[serde(default = "usual_terminator")]
    pub terminator: Option<char>,
    /// While it goes on only its owner learns the keys, and the recording is silent.
    #[serde(default)]
    pub protected: bool,
}

/// Keys to press.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, ToSchema)]
pub struct SendDtmf {
    /// `0`–`9`, `*`, `#`, `A`–`D`.
    pub digits: String,
}

/// Somebody to bring in.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Invite {
    /// A route whose WebSocket agent it is.
    pub route: String,
    /// What it may do.
    pub role: Role,
}

/// A change of what a third party may do.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, ToSchema)]
pub struct SetRole {
    /// As `invite` answered.
    pub guest_id: u32,
    /// What it may do from now on.
    pub role: Role,
}

/// A third party to send away.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, ToSchema)]
pub struct Dismiss {
    /// As `invite` answered.
    pub guest_id: u32,
}

/// What a third party may do. All of them hear caller and agent.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Nobody hears it.
    Listen,
    /// The agent hears it.
    Whisper,
    /// Everybody hears it.
    Join,
}

/// Who gave a command, and so learns what it gathers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The agent, on its socket.
    Agent,
    /// The application, through the API.
    App,
}

impl CallCommand {
    /// Whether the call's own course is to change. Everything else happens to its sound, on its worker.
    pub fn is_for_the_call(&self) -> bool {
        matches!(
            self,
            Self::Accept(_)
                | Self::Reject(_)
                | Self::Hangup
                | Self::Connect(_)
                | Self::Disconnect
                | Self::Transfer(_)
                | Self::CompleteTransfer
                | Self::CancelTransfer
        )
    }

    /// To whom it leads, where it leads to somebody.
    pub fn destination(&self) -> Option<&Destination> {
        match self {
            Self::Connect(to) | Self::Transfer(Transfer { to, .. }) | Self::Accept(Accept { to, .. }) => {
                to.is_given().then_some(to)
            }
            #[expect(
                clippy::wildcard_enum_match_arm,
                reason = "a command has a destination only where its fields name one"
            )]
            _ => None,
        }
    }

    /// Refuses what no call could do, so that whoever performs a command need not look again.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Connect(to) | Self::Transfer(Transfer { to, .. }) => to.check(),
            Self::Accept(Accept { to, without_agent }) => match (to.is_given(), without_agent) {
                (true, true) => Err(invalid("without_agent: leave it out, or leave out route and url")),
                (true, false) => to.check(),
                (false, _) => Ok(()),
            },
            Self::Reject(Reject { reason }) if reason.chars().count() > MAX_WORDS => {
                Err(invalid(format!("reason: give at most {MAX_WORDS} characters")))
            }
            Self::Play(play) if play.prompts.is_empty() => Err(invalid("prompts: give at least one name")),
            Self::Play(Play { prompts, .. }) | Self::Gather(Gather { prompts, .. }) | Self::Hold(Hold { prompts })
                if prompts.len() > MAX_PROMPTS =>
            {
                Err(invalid(format!("prompts: give at most {MAX_PROMPTS} names")))
            }
            Self::Gather(gather) => gather.check(),
            Self::SendDtmf(SendDtmf { digits }) => {
                let all_keys = !digits.is_empty() && digits.chars().all(is_key);
                match all_keys && digits.len() <= MAX_SENT_DIGITS {
                    true => Ok(()),
                    false => Err(invalid(format!("digits: give 1 to {MAX_SENT_DIGITS} of 0-9, *, #, A-D"))),
                }
            }
            #[expect(clippy::wildcard_enum_match_arm, reason = "the fields of the other commands have no limits")]
            _ => Ok(()),
        }
    }
}

impl Destination {
    /// Whether it says anything.
    pub fn is_given(&self) -> bool {
        self.route.is_some() || self.url.is_some()
    }

    fn check(&self) -> Result<(), Refusal> {
        match (&self.route, &self.url) {
            (Some(_), None) | (None, Some(_)) => Ok(()),
            (None, None) => Err(invalid("route: give the name of a route, or url")),
            (Some(_), Some(_)) => Err(invalid("url: give route or url, not both")),
        }
    }
}

impl Gather {
    fn check(&self) -> Result<(), Refusal> {
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

    /// As the sound takes it.
    pub fn options(&self) -> GatherOptions {
        GatherOptions {
            max_digits: self.max_digits,
            first_digit_timeout: Duration::from_millis(self.first_digit_timeout_ms),
            inter_digit_timeout: Duration::from_millis(self.inter_digit_timeout_ms),
            terminator: self.terminator,
        }
    }
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::InvalidCommand, message)
}

fn is_key(key: char) -> bool {
    matches!(key, '0'..='9' | '*' | '#' | 'A'..='D')
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<CallCommand, String> {
        let command: CallCommand = serde_json::from_str(text).map_err(|error| error.to_string())?;
        command.check().map_err(|refusal| refusal.message)?;
        Ok(command)
    }

    #[test]
    fn commands_are_read_with_their_usual_values() {
        let gather = Gather {
            prompts: Vec::new(),
            max_digits: MAX_DIGITS,
            first_digit_timeout_ms: 10_000,
            inter_digit_timeout_ms: 3_000,
            terminator: Some('#'),
            protected: false,
        };
        assert_eq!(read(r#"{"action":"gather"}"#), Ok(CallCommand::Gather(gather.clone())));
        assert_eq!(
            read(r#"{"action":"gather","terminator":null}"#),
            Ok(CallCommand::Gather(Gather { terminator: None, ..gather }))
        );
        let play = Play { prompts: vec!["hold".to_owned()], repeat: true, under_voice: false };
        assert_eq!(read(r#"{"action":"play","prompts":["hold"],"loop":true}"#), Ok(CallCommand::Play(play)));
        assert_eq!(read(r#"{"action":"stop_playback"}"#), Ok(CallCommand::StopPlayback));
    }

    #[test]
    fn mistakes_name_the_key() {
        for (text, key) in [
            (r#"{"action":"play","prompts":[]}"#, "prompts"),
            (r#"{"action":"gather","max_digits":0}"#, "max_digits"),
            (r#"{"action":"gather","first_digit_timeout_ms":0}"#, "first_digit_timeout_ms"),
            (r#"{"action":"gather","terminator":"x"}"#, "terminator"),
            (r#"{"action":"send_dtmf","digits":"12a"}"#, "digits"),
            (r#"{"action":"send_dtmf","digits":""}"#, "digits"),
            (r#"{"action":"fly"}"#, "fly"),
        ] {
            assert!(read(text).unwrap_err().contains(key), "{text}: {:?}", read(text));
        }
    }
}
