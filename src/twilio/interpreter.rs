//! Interpreter: runs a call's TwiML, verb by verb and document by document. Pure: what happened and the time go in, what is
//! to be done comes out.

mod words;
mod dialling;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Instant;

use url::Url;

use super::status::Stage;
use super::twiml::{Callback, Connect, Dial, Gather, Sound, Verb};
use super::{Method, Notation, Source};
use dialling::nearest;
pub use words::{Action, DialStatus, Input, Keys, Request, Stream};

/// Documents in a row that only lead to another one: more is a circle.
const MAX_DETOURS: u32 = 10;
/// Documents of one call: a menu of a long call has a hundred, and a circle that plays something ends at last.
const MAX_DOCUMENTS: u32 = 1000;

/// One call's TwiML.
#[derive(Debug)]
pub struct Interpreter {
    notation: Notation,
    /// The URL of the document, to which others are relative.
    base: Option<Url>,
    /// Asked once, when the app fails.
    fallback: Option<Url>,
    /// Of the document, from the next one on.
    verbs: VecDeque<Verb>,
    state: State,
    /// The call may be accepted.
    is_answered: bool,
    /// The caller hears us.
    is_accepted: bool,
    documents: u32,
    /// Documents since the last one that did something.
    detours: u32,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
enum State {
    Fetching {
        url: Url,
    },
    Preparing {
        then: AfterAccept,
    },
    /// The sounds are ready, and the caller does not hear us yet.
    Answering {
        then: AfterAccept,
    },
    Playing,
    Pausing {
        until: Instant,
    },
    Gathering {
        gather: Gather,
    },
    Streaming {
        action: Option<Callback>,
    },
    Dialling {
        dial: Dial,
        /// Callees who still ring.
        ringing: Vec<usize>,
        /// The callee who was nearest to answering, of those who do not ring any more.
        best: Option<(usize, DialStatus)>,
        give_up_at: Instant,
    },
    Dialled {
        dial: Dial,
        callee: usize,
        since: Instant,
        end_at: Instant,
    },
    Over,
}

/// What needs a caller who hears us.
#[derive(Debug)]
enum AfterAccept {
    Play,
    Gather(Gather),
    Dial(Dial),
}

impl Interpreter {
    /// Begins with the document of `source`. `is_accepted` is whether the caller hears us already.
    pub fn new(source: Source, fallback: Option<Url>, is_accepted: bool, now: Instant) -> Self {
        let mut interpreter = Self {
            notation: Notation::Twiml,
            base: None,
            fallback,
            verbs: VecDeque::new(),
            state: State::Over,
            is_answered: false,
            is_accepted,
            documents: 0,
            detours: 0,
            actions: VecDeque::new(),
        };
        match source {
            Source::Url(url, method) => interpreter.fetch(Request::new(url, method, Vec::new())),
            Source::Document(document) => interpreter.run(&document, now),
        }
        interpreter
    }

    /// Reads the documents of the app in this notation.
    pub fn reading(mut self, notation: Notation) -> Self {
        self.notation = notation;
        self
    }

    /// Takes one input; what does not fit the state is late and ignored.
    pub fn handle(&mut self, input: Input, now: Instant) {
        match (std::mem::replace(&mut self.state, State::Over), input) {
            (State::Over, _) => {}
            (_, Input::Failed(why)) => self.fail(why),
            (State::Fetching { url }, Input::Fetched(Ok(document))) => {
                self.base = Some(url);
                self.run(&document, now);
            }
            (State::Fetching { url }, Input::Fetched(Err(why))) => self.fetch_failed(&url, why),
            (State::Preparing { then }, Input::Prepared(Ok(()))) => self.once_accepted(then, now),
            (State::Preparing { .. }, Input::Prepared(Err(why))) => self.fail(why),
            (State::Answering { then }, Input::Accepted) => {
                self.is_accepted = true;
                self.begin(then, now);
            }
            (state, Input::Accepted) => {
                self.is_accepted = true;
                self.state = state;
            }
            (State::Playing, Input::Played) => self.proceed(now),
            (State::Gathering { gather }, Input::Gathered { digits, is_finished }) => {
                self.gathered(&gather, digits, is_finished, now);
            }
            (State::Streaming { action }, Input::StreamOpened) => {
                self.detours = 0;
                self.answer();
                self.state = State::Streaming { action };
            }
            (State::Streaming { action }, Input::StreamEnded(ended)) => self.stream_ended(action, ended, now),
            (State::Dialling { dial, ringing, .. }, Input::DialAnswered(callee)) if ringing.contains(&callee) => {
                self.dial_answered(dial, ringing, callee, now);
            }
            (State::Dialling { dial, ringing, best, give_up_at }, Input::DialEnded(callee, status))
                if ringing.contains(&callee) =>
            {
                self.callee_lost(dial, (ringing, best, give_up_at), (callee, status), now);
            }
            (State::Dialled { dial, callee, since, .. }, Input::DialEnded(ended, _)) if ended == callee => {
                self.parted(dial, callee, since, now);
            }
            (State::Dialled { dial, callee, since, .. }, Input::Key('*')) if dial.hangup_on_star => {
                self.actions.push_back(Action::StopDial(callee));
                self.parted(dial, callee, since, now);
            }
            (state, Input::Left) => self.left(state, now),
            (state, _) => self.state = state,
        }
    }

    /// Call this when the time of [`poll_timeout`](Self::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Pausing { until } if until <= now => self.proceed(now),
            State::Dialling { dial, ringing, best, give_up_at } if give_up_at <= now => {
                self.stop_ringing(&dial, &ringing, DialStatus::NoAnswer);
                let late = ringing.first().map(|callee| (*callee, DialStatus::NoAnswer));
                self.dial_ended(dial, nearest(best, late), None, now);
            }
            State::Dialled { dial, callee, since, end_at } if end_at <= now => {
                self.actions.push_back(Action::StopDial(callee));
                self.parted(dial, callee, since, now);
            }
            state @ (State::Fetching { .. }
            | State::Preparing { .. }
            | State::Answering { .. }
            | State::Playing
            | State::Pausing { .. }
            | State::Gathering { .. }
            | State::Streaming { .. }
            | State::Dialling { .. }
            | State::Dialled { .. }
            | State::Over) => self.state = state,
        }
    }

    /// When something is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Pausing { until } => Some(*until),
            State::Dialling { give_up_at, .. } => Some(*give_up_at),
            State::Dialled { end_at, .. } => Some(*end_at),
            State::Fetching { .. }
            | State::Preparing { .. }
            | State::Answering { .. }
            | State::Playing
            | State::Gathering { .. }
            | State::Streaming { .. }
            | State::Over => None,
        }
    }

    /// The next thing to be done.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The URL to which those in the document are relative; None for a document that came without one.
    pub fn base(&self) -> Option<&Url> {
        self.base.as_ref()
    }

    /// Whether nothing follows.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over) && self.actions.is_empty()
    }
}

/// Documents.
impl Interpreter {
    fn fetch(&mut self, request: Request) {
        self.documents += 1;
        self.detours += 1;
        if self.detours > MAX_DETOURS {
            return self
                .fail(format!("{MAX_DETOURS} documents in a row only led to another one: a circle of <Redirect>"));
        }
        if self.documents > MAX_DOCUMENTS {
            return self.fail(format!("the call had {MAX_DOCUMENTS} documents, which is the most"));
        }
        self.verbs.clear();
        self.state = State::Fetching { url: request.url.clone() };
        self.actions.push_back(Action::Fetch(request));
    }

    /// The app failed: its fallback is asked once.
    fn fetch_failed(&mut self, url: &Url, why: String) {
        let Some(fallback) = self.fallback.take() else { return self.fail(why) };
        // Twilio's "retrieval failure", which fits all that can happen here.
        let fields = vec![("ErrorCode", "11200".to_owned()), ("ErrorUrl", url.to_string())];
        self.fetch(Request::new(fallback, Method::Post, fields));
    }

    fn run(&mut self, document: &str, now: Instant) {
        match self.notation.parse(document) {
            Ok(verbs) => {
                self.verbs = verbs.into();
                self.proceed(now);
            }
            Err(error) => match self.base.clone() {
                Some(url) => self.fetch_failed(&url, error.to_string()),
                None => self.fail(error.to_string()),
            },
        }
    }

    fn go_on_at(&mut self, callback: &Callback, fields: Vec<(&'static str, String)>) {
        self.go_on_about(None, callback, fields);
    }

    fn go_on_about(&mut self, callee: Option<usize>, callback: &Callback, fields: Vec<(&'static str, String)>) {
        match self.absolute(&callback.url) {
            Ok(url) => self.fetch(Request { callee, ..Request::new(url, callback.method, fields) }),
            Err(why) => self.fail(why),
        }
    }

    fn absolute(&self, text: &str) -> Result<Url, String> {
        let url = match &self.base {
            Some(base) => base.join(text),
            None => Url::parse(text),
        };
        url.map_err(|_| "the document leads to a URL that is none".to_owned())
    }
}

/// Verbs.
impl Interpreter {
    /// Begins the next verb. Behind the last one the call ends.
    fn proceed(&mut self, now: Instant) {
        let Some(verb) = self.verbs.pop_front() else {
            self.state = State::Over;
            return self.actions.push_back(Action::HangUp);
        };
        match verb {
            Verb::Pause(length) => {
                self.detours = if length.is_zero() { self.detours } else { 0 };
                self.state = State::Pausing { until: now + length };
            }
            Verb::Sound(sound) => self.prepare(vec![sound], AfterAccept::Play),
            Verb::Gather(gather) => match gather.sounds.clone() {
                sounds if sounds.is_empty() => self.once_accepted(AfterAccept::Gather(gather), now),
                sounds => self.prepare(sounds, AfterAccept::Gather(gather)),
            },
            Verb::Connect(connect) => self.connect(connect),
            Verb::Dial(dial) => match self.check_callbacks(&dial) {
                Ok(()) => self.once_accepted(AfterAccept::Dial(dial), now),
                Err(why) => self.fail(why),
            },
            Verb::Redirect(callback) => self.go_on_at(&callback, Vec::new()),
            Verb::Reject(reason) if !self.is_answered && !self.is_accepted => {
                self.actions.push_back(Action::Reject(reason));
            }
            // Too late to decline it.
            Verb::Reject(_) | Verb::Hangup => self.actions.push_back(Action::HangUp),
        }
    }

    fn prepare(&mut self, sounds: Vec<Sound>, then: AfterAccept) {
        self.actions.push_back(Action::Prepare(sounds));
        self.state = State::Preparing { then };
    }

    fn connect(&mut self, connect: Connect) {
        let status_callback = connect.status_callback.as_ref();
        let status_callback = status_callback.map(|told| Ok((self.absolute(&told.url)?, told.method))).transpose();
        match (self.absolute(&connect.url), status_callback) {
            (Ok(url), Ok(status_callback)) => {
                self.state = State::Streaming { action: connect.action.clone() };
                // While the phone rings: the call is accepted once the app can hear it.
                self.actions.push_back(Action::OpenStream(Stream { url, status_callback, connect }));
            }
            (Err(why), _) | (_, Err(why)) => self.fail(why),
        }
    }

    /// What needs a caller who hears us.
    fn once_accepted(&mut self, then: AfterAccept, now: Instant) {
        if self.is_accepted {
            return self.begin(then, now);
        }
        self.answer();
        self.state = State::Answering { then };
    }

    fn answer(&mut self) {
        if !self.is_answered {
            self.is_answered = true;
            self.actions.push_back(Action::Answer);
        }
    }

    fn begin(&mut self, then: AfterAccept, now: Instant) {
        // A call that was accepted before we had it needs no less to be told that we are there.
        self.answer();
        self.detours = 0;
        match then {
            AfterAccept::Play => {
                self.state = State::Playing;
                self.actions.push_back(Action::Play);
            }
            AfterAccept::Gather(gather) => {
                let Gather { num_digits, timeout, finish_on_key, .. } = gather;
                self.state = State::Gathering { gather };
                self.actions.push_back(Action::Gather(Keys { num_digits, timeout, finish_on_key }));
            }
            AfterAccept::Dial(dial) => {
                self.actions.push_back(Action::Dial(dial.clone()));
                let ringing: Vec<usize> = (0..dial.nouns.len()).collect();
                for callee in &ringing {
                    self.tell(&dial, *callee, Stage::Initiated, "initiated", None);
                }
                self.state = State::Dialling { ringing, best: None, give_up_at: now + dial.timeout, dial };
            }
        }
    }

    fn gathered(&mut self, gather: &Gather, digits: String, is_finished: bool, now: Instant) {
        if digits.is_empty() && !gather.action_on_empty_result {
            return self.proceed(now);
        }
        let key = if is_finished { gather.finish_on_key.map(String::from) } else { None };
        let fields = vec![("Digits", digits), ("FinishedOnKey", key.unwrap_or_default())];
        self.go_on_at(&gather.action, fields);
    }

    /// A stream that is lost is the end, unless the document says how to go on.
    fn stream_ended(&mut self, action: Option<Callback>, ended: Result<(), String>, now: Instant) {
        match (action, ended) {
            (Some(action), _) => self.go_on_at(&action, Vec::new()),
            (None, Err(why)) if self.verbs.is_empty() => self.fail(why),
            (None, _) => self.proceed(now),
        }
    }

    fn fail(&mut self, why: String) {
        self.state = State::Over;
        self.actions.push_back(Action::Fail(why));
    }
}
