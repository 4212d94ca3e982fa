//! Commands to a live call: the actions of the control API, of decisions and of agents.

use std::collections::BTreeMap;
use std::time::Duration;

use patchcord_media::gather::{GatherOptions, MAX_DIGITS};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::refusal::{Refusal, RefusalCode};
use super::signaling::{MetaAnswer, MetaStep, Terminated};
use crate::twilio;

/// The most prompts in one list; a longer announcement is one file.
const MAX_PROMPTS: usize = 32;
/// The most digits sent at once.
const MAX_SENT_DIGITS: usize = 64;
/// The longest reason of a rejection, in characters.
const MAX_WORDS: usize = 200;
/// The longest `client_state`, in bytes.
pub const MAX_CLIENT_STATE_BYTES: usize = 4096;

/// A command to a live call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallCommand {
    /// The call decides it.
    Course(CourseCommand),
    /// The call's worker performs it.
    Sound(SoundCommand),
    /// It reports what happened at Meta, for a call that the application signals.
    Signal(SignalCommand),
}

/// Declares commands: each variant with its body, and its name in JSON. The names stand here and nowhere else.
macro_rules! commands {
    (
        $(#[$about:meta])* $enum:ident {
            $( $(#[$doc:meta])* $variant:ident $(($body:ident))? = $name:literal, )*
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
        #[serde(tag = "action")]
        pub enum $enum {
            $( $(#[$doc])* #[serde(rename = $name)] $variant $(($body))?, )*
        }

        impl $enum {
            /// The names of the actions, in the order of the documentation.
            pub const NAMES: &[&str] = &[$($name),*];
            /// The schemas of the actions' fields; a name may repeat.
            pub const BODIES: &[&str] = &[$( $(stringify!($body),)? )*];
        }
    };
}

commands! {
    /// A command that changes the course of the call.
    CourseCommand {
        /// Accept a call that rings, as soon as media can flow.
        Accept(Accept) = "accept",
        /// Decline a call that rings.
        Reject(Reject) = "reject",
        /// End the call.
        Hangup = "hangup",
        /// Put the caller through to another agent; the present one leaves at once.
        Connect(Destination) = "connect",
        /// Leave the caller without an agent, with hold music.
        Disconnect = "disconnect",
        /// Hand the caller over to another agent; if none answers, the first one goes on. Ends with `call.transferred`.
        Transfer(Transfer) = "transfer",
        /// The first agent leaves a warm transfer, and the second gets the caller.
        CompleteTransfer = "complete_transfer",
        /// The second agent leaves, and the first one goes on.
        CancelTransfer = "cancel_transfer",
        /// Keep a text with the call, and do nothing else.
        SetClientState(SetClientState) = "set_client_state",
    }
}

commands! {
    /// A command that changes what the call sounds like.
    SoundCommand {
        /// Play music to the caller; agent and participants hear each other.
        Hold(Hold) = "hold",
        /// End the hold.
        Unhold = "unhold",
        /// Mute agent or caller for the other.
        Mute(Mute) = "mute",
        /// End the mute.
        Unmute(Mute) = "unmute",
        /// Play prompts in their order; other audio waits.
        Play(Play) = "play",
        /// Stop the playback within one frame.
        StopPlayback = "stop_playback",
        /// Collect keys; ends with `call.gather_finished`.
        Gather(Gather) = "gather",
        /// End the gather with the keys pressed so far.
        StopGather = "stop_gather",
        /// Send keys to the caller, if its phone takes them.
        SendDtmf(SendDtmf) = "send_dtmf",
        /// Mask the caller's keys and keep audio out of the recording until `unprotect`.
        Protect = "protect",
        /// End the protection.
        Unprotect = "unprotect",
        /// Record from now on.
        StartRecording = "start_recording",
        /// Silence in the recording.
        PauseRecording = "pause_recording",
        /// Audio in the recording again.
        ResumeRecording = "resume_recording",
        /// Close the recording.
        StopRecording = "stop_recording",
        /// Add a participant, who listens, whispers or joins.
        Invite(Invite) = "invite",
        /// Change what a participant may do.
        SetRole(SetRole) = "set_role",
        /// Remove a participant.
        Dismiss(Dismiss) = "dismiss",
    }
}

commands! {
    /// What an application that signals its call itself reports. Agents and decisions cannot give it.
    SignalCommand {
        /// Meta answered our offer.
        Answer(MetaAnswer) = "answer",
        /// The callee's phone rings.
        Ringing(MetaStep) = "ringing",
        /// Meta confirmed your accept, or the callee accepted: audio starts.
        Accepted(MetaStep) = "accepted",
        /// The call is over at Meta.
        Terminated(Terminated) = "terminated",
    }
}

/// The names of all actions, in the order of the documentation.
pub const ACTIONS: &[&str] = &{
    let kinds = [CourseCommand::NAMES, SoundCommand::NAMES, SignalCommand::NAMES];
    let mut names = [""; CourseCommand::NAMES.len() + SoundCommand::NAMES.len() + SignalCommand::NAMES.len()];
    let (mut kind, mut index, mut filled) = (0, 0, 0);
    while filled < names.len() {
        if index == kinds[kind].len() {
            (kind, index) = (kind + 1, 0);
            continue;
        }
        names[filled] = kinds[kind][index];
        (index, filled) = (index + 1, filled + 1);
    }
    names
};

/// What a command has done or started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandResult {
    /// It is done.
    Done,
    /// The call is on its way; events report the outcome.
    Started,
    /// Music plays under the agent's voice. It has no id.
    MusicStarted,
    /// A playback, by its id.
    Playback(u64),
    /// A gather, by its id.
    Gather(u64),
    /// A recording, by its id.
    Recording(String),
    /// A participant, by its id.
    Participant(u32),
}

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

/// Who gave a command, and gets the keys that it gathers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The agent, on its socket.
    Agent,
    /// The application, through the API.
    App,
}

impl CallCommand {
    /// Refuses what no call could do, so that nothing behind this checks it again.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Course(command) => command.check(),
            Self::Sound(command) => command.check(),
            Self::Signal(_) => Ok(()),
        }
    }

    /// The destination that the command names.
    pub fn destination(&self) -> Option<&Destination> {
        match self {
            Self::Course(command) => command.destination(),
            Self::Sound(_) | Self::Signal(_) => None,
        }
    }
}

impl From<CourseCommand> for CallCommand {
    fn from(command: CourseCommand) -> Self {
        Self::Course(command)
    }
}

impl From<SoundCommand> for CallCommand {
    fn from(command: SoundCommand) -> Self {
        Self::Sound(command)
    }
}

/// From a JSON object with the name as `action` and the command's fields beside it.
impl<'de> Deserialize<'de> for CallCommand {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Map::deserialize(deserializer)?;
        let name = match fields.get("action") {
            Some(Value::String(name)) => name.clone(),
            Some(_) => return Err(D::Error::custom("action: give a name")),
            None => return Err(D::Error::missing_field("action")),
        };
        let fields = Value::Object(fields);
        let command = if CourseCommand::NAMES.contains(&name.as_str()) {
            CourseCommand::deserialize(fields).map(Self::Course)
        } else if SoundCommand::NAMES.contains(&name.as_str()) {
            SoundCommand::deserialize(fields).map(Self::Sound)
        } else if SignalCommand::NAMES.contains(&name.as_str()) {
            SignalCommand::deserialize(fields).map(Self::Signal)
        } else {
            return Err(D::Error::unknown_variant(&name, ACTIONS));
        };
        command.map_err(D::Error::custom)
    }
}

impl CourseCommand {
    /// The destination that the command names.
    pub fn destination(&self) -> Option<&Destination> {
        match self {
            Self::Connect(to) | Self::Transfer(Transfer { to, .. }) | Self::Accept(Accept { to, .. }) => {
                to.is_given().then_some(to)
            }
            Self::Reject(_)
            | Self::Hangup
            | Self::Disconnect
            | Self::CompleteTransfer
            | Self::CancelTransfer
            | Self::SetClientState(_) => None,
        }
    }

    fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Connect(to) | Self::Transfer(Transfer { to, .. }) => to.check(),
            Self::Accept(Accept { to, without_agent }) => match (to.is_given(), without_agent) {
                (true, true) => Err(invalid("without_agent: leave it out, or leave out route, queue, agent and url")),
                (true, false) => to.check(),
                (false, _) => Ok(()),
            },
            Self::Reject(Reject { reason }) if reason.chars().count() > MAX_WORDS => {
                Err(invalid(format!("reason: give at most {MAX_WORDS} characters")))
            }
            Self::SetClientState(SetClientState { client_state }) if client_state.len() > MAX_CLIENT_STATE_BYTES => {
                Err(invalid(format!("client_state: give a text of at most {MAX_CLIENT_STATE_BYTES} bytes")))
            }
            Self::Reject(_)
            | Self::Hangup
            | Self::Disconnect
            | Self::CompleteTransfer
            | Self::CancelTransfer
            | Self::SetClientState(_) => Ok(()),
        }
    }
}

impl SoundCommand {
    fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Play(play) if play.prompts.is_empty() => Err(invalid("prompts: give at least one name")),
            Self::Play(Play { prompts, .. }) | Self::Hold(Hold { prompts }) => check_prompts(prompts),
            Self::Gather(gather) => {
                check_prompts(&gather.prompts)?;
                gather.check()
            }
            Self::SendDtmf(SendDtmf { digits }) => {
                let all_keys = !digits.is_empty() && digits.chars().all(is_key);
                match all_keys && digits.len() <= MAX_SENT_DIGITS {
                    true => Ok(()),
                    false => Err(invalid(format!("digits: give 1 to {MAX_SENT_DIGITS} of 0-9, *, #, A-D"))),
                }
            }
            Self::Unhold
            | Self::Mute(_)
            | Self::Unmute(_)
            | Self::StopPlayback
            | Self::StopGather
            | Self::Protect
            | Self::Unprotect
            | Self::StartRecording
            | Self::PauseRecording
            | Self::ResumeRecording
            | Self::StopRecording
            | Self::Invite(_)
            | Self::SetRole(_)
            | Self::Dismiss(_) => Ok(()),
        }
    }
}

fn check_prompts(prompts: &[String]) -> Result<(), Refusal> {
    match prompts.len() <= MAX_PROMPTS {
        true => Ok(()),
        false => Err(invalid(format!("prompts: give at most {MAX_PROMPTS} names"))),
    }
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
        assert_eq!(read(r#"{"action":"gather"}"#), Ok(SoundCommand::Gather(gather.clone()).into()));
        assert_eq!(
            read(r#"{"action":"gather","terminator":null}"#),
            Ok(SoundCommand::Gather(Gather { terminator: None, ..gather }).into())
        );
        let play = Play { prompts: vec!["hold".to_owned()], repeat: true, under_voice: false };
        assert_eq!(read(r#"{"action":"play","prompts":["hold"],"loop":true}"#), Ok(SoundCommand::Play(play).into()));
        assert_eq!(read(r#"{"action":"stop_playback"}"#), Ok(SoundCommand::StopPlayback.into()));
    }

    #[test]
    fn every_action_is_read_by_its_name_and_documented() {
        let page = include_str!("../../docs/agents.md");
        for action in ACTIONS {
            let fields = r#""route":"r","party":"agent","prompts":["p"],"digits":"1","role":"join","guest_id":1,"client_state":"s","answer":"v=0""#;
            let command = read(&format!(r#"{{"action":"{action}",{fields}}}"#));
            let is_course = CourseCommand::NAMES.contains(action);
            assert_eq!(command.map(|command| matches!(command, CallCommand::Course(_))), Ok(is_course), "{action}");
            assert!(page.contains(&format!("`{action}`")), "docs/agents.md lacks {action}");
        }
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
            (r#"{"action":"fly"}"#, "unknown variant `fly`, expected one of `accept`, `reject`"),
            (r#"{"action":"invite","role":"join"}"#, "missing field `route`"),
            (r#"{"digits":"1"}"#, "missing field `action`"),
        ] {
            assert!(read(text).unwrap_err().contains(key), "{text}: {:?}", read(text));
        }
    }
}
