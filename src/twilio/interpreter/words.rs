//! What the interpreter is told, and what it wants done.

use std::time::Duration;

use url::Url;

use crate::twilio::Method;
use crate::twilio::twiml::{Connect, Dial, RejectReason, Sound};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The app's answer to [`Action::Fetch`], or why there is none.
    Fetched(Result<String, String>),
    /// The sounds of [`Action::Prepare`] are ready to be played, or cannot be.
    Prepared(Result<(), String>),
    /// The caller hears us from now on.
    Accepted,
    /// The sounds were played, or stopped.
    Played,
    /// The keys of [`Action::Gather`].
    Gathered {
        /// Without the key that ended it.
        digits: String,
        /// Whether `finishOnKey` ended it.
        is_finished: bool,
    },
    /// The app's WebSocket is open.
    StreamOpened,
    /// The app closed its WebSocket, or why it was lost.
    StreamEnded(Result<(), String>),
    /// This one of the callees of [`Action::Dial`] talks.
    DialAnswered(usize),
    /// This callee has left, or could not be reached.
    DialEnded(usize, DialStatus),
    /// The caller has pressed a key while a callee has them.
    Key(char),
    /// The call is over, or has another agent.
    Left,
    /// What was to be done cannot be done; the text says why.
    Failed(String),
}

/// One thing to be done. The texts of [`Action::Fail`] are for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the app; reply with [`Input::Fetched`].
    Fetch(Request),
    /// Make these sounds ready, in their order; reply with [`Input::Prepared`].
    Prepare(Vec<Sound>),
    /// The call may be accepted; reply with [`Input::Accepted`].
    Answer,
    /// Play what was prepared; reply with [`Input::Played`].
    Play,
    /// Play what was prepared and collect keys; reply with [`Input::Gathered`].
    Gather(Keys),
    /// Connect the caller to the app's WebSocket; reply with [`Input::StreamOpened`] and [`Input::StreamEnded`].
    OpenStream(Stream),
    /// Call people, one of whom is to talk with the caller; reply with [`Input::DialAnswered`] and [`Input::DialEnded`].
    Dial(Dial),
    /// This callee of the last [`Action::Dial`] is not wanted any more; no reply.
    StopDial(usize),
    /// Tell the app something; no reply.
    Tell(Request),
    /// Decline the call.
    Reject(RejectReason),
    /// End the call.
    HangUp,
    /// The app's document cannot be run to its end.
    Fail(String),
}

/// A request to the app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Absolute.
    pub url: Url,
    /// How it is asked.
    pub method: Method,
    /// The fields that this request has beside those of the call.
    pub fields: Vec<(&'static str, String)>,
    /// The callee of the last [`Action::Dial`] that it is about.
    pub callee: Option<usize>,
}

impl Request {
    pub(super) fn new(url: Url, method: Method, fields: Vec<(&'static str, String)>) -> Self {
        Self { url, method, fields, callee: None }
    }
}

/// When a gather ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// After so many; None for any number.
    pub num_digits: Option<usize>,
    /// For each key.
    pub timeout: Duration,
    /// At this key.
    pub finish_on_key: Option<char>,
}

/// A stream to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The WebSocket, absolute.
    pub url: Url,
    /// The URL of its `statusCallback`, absolute, and how it is asked.
    pub status_callback: Option<(Url, Method)>,
    /// What `<Connect>` says beside that.
    pub connect: Connect,
}

/// How a `<Dial>` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialStatus {
    /// Both talked.
    Completed,
    /// The callee was busy, or declined.
    Busy,
    /// Nobody answered in time.
    NoAnswer,
    /// The callee could not be reached.
    Failed,
    /// Another callee has answered, or the caller has left.
    Canceled,
}

impl DialStatus {
    /// The value of `DialCallStatus`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Busy => "busy",
            Self::NoAnswer => "no-answer",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    /// Of several callees who did not answer the app learns of the one who was nearest to it.
    pub(super) fn nearness(self) -> u8 {
        match self {
            Self::Canceled | Self::Failed => 0,
            Self::NoAnswer => 1,
            Self::Busy => 2,
            Self::Completed => 3,
        }
    }
}
