//! An app that says in TwiML what happens to a call: its task asks the app for documents and carries them out.
//!
//! The [`Interpreter`] decides; here are the requests, the sounds, the app's media stream and the people it dials. Somebody
//! dialled is a participant, so that the app has the caller back when they part.

mod options;
mod webhook;
mod sounds;
mod speech;
mod dial;

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use patchcord_media::gather::{GatherOptions, MAX_DIGITS};
use patchcord_media::prompt::Prompt;
use serde_json::{Value, json};
use tokio::time::sleep_until;

use super::SocketOptions;
use super::dialect::{DialectName, twilio_of};
use super::notice::Notice;
use super::port::{AgentPort, PortReport, PortUser};
use super::websocket::{self, UpgradeSignature, WebSocketOptions};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::call::command::{CourseCommand, Reject};
use crate::call::event::CallEvent;
use crate::clock;
use crate::egress::Use;
use crate::twilio::Account;
use crate::twilio::interpreter::{Action, DialStatus, Input, Interpreter, Keys, Stream};
use crate::twilio::twiml::{Callee, RejectReason};
pub use options::{Home, TwimlOptions};
use sounds::Sounds;

/// What a caller hears while somebody is dialled.
const RINGBACK: &str = "ringback";

/// Carries out the app's documents until the call or the app has enough.
pub(super) async fn run(agent: TwimlOptions, port: Rc<AgentPort>, options: SocketOptions) {
    let Some(account) = options.settings.get().twilio.clone() else {
        return port.failed(AgentFailureKind::NotConfigured.because("the configuration has no [twilio] section"));
    };
    if matches!(port.user(), PortUser::Participant(_)) {
        let cause = "an app that answers TwiML has a caller to itself, and cannot be a participant";
        return port.failed(AgentFailureKind::NotConfigured.because(cause));
    }
    // Of those who are dialled.
    port.want_events();
    let (source, fallback) = (agent.source.clone(), agent.fallback.clone());
    let interpreter = Interpreter::new(source, fallback, port.has_accepted_caller(), clock::now());
    let context = Rc::new(Context { agent, account, port, options, dialled: Cell::new(None) });
    let run = Run {
        context,
        interpreter,
        sounds: Rc::default(),
        job: None,
        stream: None,
        prepared: Vec::new(),
        playback: None,
        gather: None,
        ringback: None,
        failure: None,
        has_answered: false,
    };
    run.drive().await;
}

/// What the parts of the task share.
struct Context {
    agent: TwimlOptions,
    account: Arc<Account>,
    port: Rc<AgentPort>,
    options: SocketOptions,
    /// The participant that a `<Dial>` has called.
    dialled: Cell<Option<u32>>,
}

/// What a request or preparation has come to.
enum Done {
    Fetched(Result<String, AgentFailure>),
    Prepared(Result<Vec<Prompt>, String>),
    Dialled(Result<(), String>),
}

/// One call's documents at work.
struct Run {
    context: Rc<Context>,
    interpreter: Interpreter,
    sounds: Rc<RefCell<Sounds>>,
    /// One at a time.
    job: Option<LocalBoxFuture<'static, Done>>,
    /// While the app has the caller on its WebSocket.
    stream: Option<OpenStream>,
    prepared: Vec<Prompt>,
    playback: Option<u64>,
    gather: Option<u64>,
    ringback: Option<u64>,
    /// The last failure of the app, which knows more than its text.
    failure: Option<AgentFailure>,
    /// The call may be accepted.
    has_answered: bool,
}

/// A media stream: the conversation, and what it reports.
struct OpenStream {
    talk: LocalBoxFuture<'static, Result<(), AgentFailure>>,
    opened: Rc<Cell<bool>>,
    is_told: bool,
}

/// What a stream has come to.
enum StreamStep {
    Opened,
    Over(Result<(), AgentFailure>),
}

/// What comes next.
enum Step {
    Leave,
    Input(Input),
    Done(Done),
    Notices,
    Timeout,
}

impl Run {
    async fn drive(mut self) {
        loop {
            while let Some(action) = self.interpreter.poll_action() {
                if self.perform(action).is_leaving() {
                    return;
                }
            }
            match self.next().await {
                Step::Leave => return self.stop_dial(),
                Step::Input(input) => self.interpreter.handle(input, clock::now()),
                Step::Done(done) => self.take(done),
                Step::Notices => {
                    if self.read_notices().is_leaving() {
                        return self.stop_dial();
                    }
                }
                Step::Timeout => self.interpreter.handle_timeout(clock::now()),
            }
        }
    }

    /// Waits for what comes next. The stream's conversation reads the notices and obeys the call by itself.
    async fn next(&mut self) -> Step {
        let port = self.context.port.clone();
        if let Some(stream) = &mut self.stream {
            return Step::Input(match stream.step().await {
                StreamStep::Opened => Input::StreamOpened,
                // Another agent has the caller, or the call is over.
                StreamStep::Over(_) if port.is_dismissed() => return Step::Leave,
                StreamStep::Over(ended) => {
                    self.stream_over();
                    Input::StreamEnded(ended.map_err(|failure| self.told(failure)))
                }
            });
        }
        let deadline = self.interpreter.poll_timeout();
        tokio::select! {
            biased;
            _ = port.dismissed() => Step::Leave,
            done = finished(&mut self.job) => Step::Done(done),
            () = port.output() => Step::Notices,
            () = until(deadline) => Step::Timeout,
        }
    }

    fn perform(&mut self, action: Action) -> Leaving {
        match action {
            Action::Fetch(request) => {
                let context = self.context.clone();
                self.start(async move { Done::Fetched(webhook::ask(&context, &request).await) });
            }
            Action::Prepare(sounds) => {
                let (context, kept) = (self.context.clone(), self.sounds.clone());
                let base = self.interpreter.base().cloned();
                self.start(async move {
                    let mut own = kept.take();
                    let prepared = own.prepare(&context, base.as_ref(), &sounds).await;
                    kept.replace(own);
                    Done::Prepared(prepared)
                });
            }
            Action::Answer => {
                self.has_answered = true;
                // An open stream has it.
                if self.stream.is_none() {
                    self.context.port.take_the_line();
                }
                self.context.port.joined();
            }
            Action::Play => self.play(),
            Action::Gather(keys) => self.collect(&keys),
            Action::OpenStream(stream) => self.stream = Some(self.open(stream)),
            Action::Dial(callee) => self.dial(callee),
            Action::StopDial => self.stop_dial(),
            Action::Reject(reason) => self.reject(reason),
            Action::HangUp => {
                self.context.port.hung_up();
                return Leaving::Yes;
            }
            Action::Fail(why) => {
                let known = self.failure.take().filter(|failure| failure.detail.as_deref() == Some(why.as_str()));
                self.context.port.failed(known.unwrap_or_else(|| AgentFailureKind::ProtocolError.because(why)));
                return Leaving::Yes;
            }
        }
        Leaving::No
    }

    fn start(&mut self, job: impl Future<Output = Done> + 'static) {
        self.job = Some(job.boxed_local());
    }

    fn take(&mut self, done: Done) {
        let input = match done {
            Done::Fetched(Ok(document)) => Input::Fetched(Ok(document)),
            Done::Fetched(Err(failure)) => Input::Fetched(Err(self.told(failure))),
            Done::Prepared(Ok(prompts)) => {
                self.prepared = prompts;
                Input::Prepared(Ok(()))
            }
            Done::Prepared(Err(why)) => Input::Prepared(Err(why)),
            Done::Dialled(Ok(())) => return self.ring(),
            Done::Dialled(Err(why)) => Input::Failed(why),
        };
        self.interpreter.handle(input, clock::now());
    }

    /// The text of a failure, which is kept for its kind.
    fn told(&mut self, failure: AgentFailure) -> String {
        let why = failure.detail.as_deref().unwrap_or(failure.kind.name()).to_owned();
        self.failure = Some(failure);
        why
    }

    /// Declines the call. The call dismisses us then, or refuses it because it was accepted meanwhile.
    fn reject(&self, reason: RejectReason) {
        let reason = match reason {
            RejectReason::Rejected => "rejected",
            RejectReason::Busy => "busy",
        };
        let command = CourseCommand::Reject(Reject { reason: reason.to_owned() });
        self.context.port.command(json!("reject"), Ok(command.into()));
    }
}

/// Sounds and keys.
impl Run {
    fn play(&mut self) {
        let prompts = std::mem::take(&mut self.prepared);
        // Texts may be passed over.
        if prompts.is_empty() {
            return self.interpreter.handle(Input::Played, clock::now());
        }
        match self.context.port.play(prompts, false) {
            Ok(id) => self.playback = Some(id),
            Err(refusal) => self.interpreter.handle(Input::Failed(refusal.message), clock::now()),
        }
    }

    fn collect(&mut self, keys: &Keys) {
        let options = GatherOptions {
            max_digits: keys.num_digits.unwrap_or(MAX_DIGITS),
            first_digit_timeout: keys.timeout,
            inter_digit_timeout: keys.timeout,
            terminator: keys.finish_on_key,
        };
        match self.context.port.gather(options, std::mem::take(&mut self.prepared)) {
            Ok(id) => self.gather = Some(id),
            Err(refusal) => self.interpreter.handle(Input::Failed(refusal.message), clock::now()),
        }
    }

    fn read_notices(&mut self) -> Leaving {
        // Nobody hears the caller while no stream is open.
        while self.context.port.next_sound().is_some() {}
        while let Some(notice) = self.context.port.next_notice() {
            let input = match notice {
                Notice::Accepted => {
                    // A caller who was handed over to us hears no music any more.
                    if self.has_answered {
                        self.context.port.take_the_line();
                    }
                    Some(Input::Accepted)
                }
                Notice::Event(event) => self.read_event(&event),
                // It was accepted before it could be declined.
                Notice::CommandResult { outcome: Err(_), .. } => {
                    self.context.port.hung_up();
                    return Leaving::Yes;
                }
                Notice::Start(_)
                | Notice::Dtmf { .. }
                | Notice::Mark { .. }
                | Notice::Cleared(_)
                | Notice::Xoff { .. }
                | Notice::Xon { .. }
                | Notice::CommandResult { .. }
                | Notice::Error { .. }
                | Notice::Stop { .. } => None,
            };
            if let Some(input) = input {
                self.interpreter.handle(input, clock::now());
            }
        }
        Leaving::No
    }

    /// What an event of the call means for the document.
    fn read_event(&mut self, event: &CallEvent) -> Option<Input> {
        let (data, dialled) = (&event.data, self.context.dialled.get());
        let is = |key: &str, id: Option<u64>| id.is_some() && data[key].as_u64() == id;
        match event.kind {
            "call.playback_finished" if is("playback_id", self.playback) => Some(Input::Played),
            "call.gather_finished" if is("gather_id", self.gather) => {
                let digits = data["digits"].as_str().unwrap_or_default().to_owned();
                Some(Input::Gathered { digits, is_finished: data["reason"] == "terminator" })
            }
            "call.guest_joined" if is("guest_id", dialled.map(u64::from)) => {
                self.stop_ringback();
                Some(Input::DialAnswered)
            }
            "call.guest_left" if is("guest_id", dialled.map(u64::from)) => {
                self.context.dialled.set(None);
                self.stop_ringback();
                Some(Input::DialEnded(status_of(&data["reason"])))
            }
            _ => None,
        }
    }
}

/// The app's media stream.
impl Run {
    fn open(&self, stream: Stream) -> OpenStream {
        let context = self.context.clone();
        let (opened, outcome) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(None)));
        let reports = {
            let (opened, outcome) = (opened.clone(), outcome.clone());
            move |report: PortReport| match report {
                PortReport::Joined => opened.set(true),
                PortReport::HungUp => drop(outcome.borrow_mut().replace(Ok(()))),
                PortReport::Failed(failure) => drop(outcome.borrow_mut().replace(Err(failure))),
                PortReport::Interrupted { .. }
                | PortReport::EventsWanted
                | PortReport::Used(_)
                | PortReport::Command { .. } => {}
            }
        };
        let talk = async move {
            let reach = webhook::reach(&context, &stream.url, Use::WebSocket).await?;
            let mut parameters = context.agent.parameters.clone();
            parameters.extend(stream.connect.parameters);
            let auth_token = context.account.auth_token.clone();
            let agent = WebSocketOptions {
                addresses: reach.addresses,
                tls: reach.tls,
                dialect: DialectName::Twilio,
                signature: Some(UpgradeSignature::Twilio { auth_token, url: Some(stream.url) }),
                parameters,
                // A stream that breaks is over: the document says what follows.
                redial_for: Duration::ZERO,
                ..WebSocketOptions::at(reach.url)
            };
            let account_sid = context.account.sid.clone();
            let translate = Box::new(move || twilio_of(account_sid.clone()));
            let port = Rc::new(context.port.reporting_to(Rc::new(reports)));
            websocket::run(agent, translate, port, context.options.clone()).await;
            // Without a report the call has dismissed it.
            outcome.take().unwrap_or(Ok(()))
        };
        OpenStream { talk: talk.boxed_local(), opened, is_told: false }
    }

    /// The app has left its stream: we have the caller.
    fn stream_over(&mut self) {
        self.stream = None;
        self.context.port.detach();
        if self.context.port.has_accepted_caller() {
            // The stream has read the notice.
            self.interpreter.handle(Input::Accepted, clock::now());
        }
    }
}

impl OpenStream {
    /// Waits until the app's WebSocket is open, or over.
    async fn step(&mut self) -> StreamStep {
        let is_told = self.is_told;
        let step = poll_fn(|context| match self.talk.poll_unpin(context) {
            Poll::Ready(ended) => Poll::Ready(StreamStep::Over(ended)),
            Poll::Pending if !is_told && self.opened.get() => Poll::Ready(StreamStep::Opened),
            Poll::Pending => Poll::Pending,
        })
        .await;
        self.is_told = true;
        step
    }
}

/// Whether the task ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaving {
    Yes,
    No,
}

impl Leaving {
    fn is_leaving(self) -> bool {
        self == Self::Yes
    }
}

fn status_of(reason: &Value) -> DialStatus {
    match reason.as_str() {
        Some("left") => DialStatus::Completed,
        Some("busy" | "declined") => DialStatus::Busy,
        Some("no_answer") => DialStatus::NoAnswer,
        _ => DialStatus::Failed,
    }
}

/// Waits for the job, which is over then; for ever without one.
async fn finished(job: &mut Option<LocalBoxFuture<'static, Done>>) -> Done {
    let done = match job {
        Some(job) => job.await,
        None => pending().await,
    };
    *job = None;
    done
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}
