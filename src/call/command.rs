//! Commands to a live call: the actions of the control API, of decisions and of agents.

mod body;
#[cfg(test)]
mod tests;

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::refusal::{Refusal, RefusalCode};
use super::signaling::{MetaAnswer, MetaStep, Terminated};
pub use body::{
    Accept, Destination, Dismiss, Gather, Hold, Invite, Mute, MuteParty, Play, Reject, Role, SendDtmf, SetClientState,
    SetRole, Transfer,
};

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

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::InvalidCommand, message)
}

fn is_key(key: char) -> bool {
    matches!(key, '0'..='9' | '*' | '#' | 'A'..='D')
}
