//! An app that says in TwiML, or in Vonage's NCCOs, what happens to a call: its task asks the app for documents and carries
//! them out.
//!
//! The [`Interpreter`] decides; here are the requests, the sounds, the app's media stream and the people it dials. Somebody
//! dialled is a participant, so that the app has the caller back when they part.

mod options;
mod webhook;
mod sounds;
mod speech;
mod stream;
mod dial;
mod status;

use std::cell::RefCell;
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, join};
use patchcord_media::gather::{GatherOptions, MAX_DIGITS};
use patchcord_media::prompt::Prompt;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::sleep_until;
use tracing::info;

use super::SocketOptions;
use super::notice::Notice;
use super::port::{AgentPort, PortUser};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::call::command::{CourseCommand, Reject};
use crate::call::event::CallEvent;
use crate::clock;
use crate::twilio::interpreter::{Action, Input, Interpreter, Keys};
use crate::twilio::twiml::RejectReason;
use crate::twilio::{Account, Notation};
use dial::Leg;
pub use options::{Home, TwimlOptions};
use sounds::Sounds;
use status::Told;
use stream::{OpenStream, StreamReport};

/// Carries out the app's documents until the call or the app has enough.
pub(super) async fn run(agent: TwimlOptions, port: Rc<AgentPort>, options: SocketOptions) {
    let account = options.settings.get().twilio.clone();
    if account.is_none() && agent.notation == Notation::Twiml {
        return port.failed(AgentFailureKind::NotConfigured.because("the configuration has no [twilio] section"));
    }
    if matches!(port.user(), PortUser::Participant(_)) {
        let cause = "an app that answers TwiML or an NCCO has a caller to itself, and cannot be a participant";
        return port.failed(AgentFailureKind::NotConfigured.because(cause));
    }
    // Of those who are dialled.
    port.want_events();
    let (source, fallback) = (agent.source.clone(), agent.fallback.clone());
    let interpreter =
        Interpreter::new(source, fallback, port.has_accepted_caller(), clock::now()).reading(agent.notation);
    let context = Rc::new(Context { agent, account, port, options, legs: RefCell::default() });
    let (telling, waiting) = status::channel();
    let run = Run {
        context: context.clone(),
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
        is_away: false,
        telling,
    };
    join(run.drive(), status::tell_all(context, waiting)).await;
}

/// What the parts of the task share.
struct Context {
    agent: TwimlOptions,
    /// Its texts are spoken by it, whichever platform the app was written for.
    account: Option<Arc<Account>>,
    port: Rc<AgentPort>,
    options: SocketOptions,
    /// Those whom the last `<Dial>` has called.
    legs: RefCell<Vec<Leg>>,
}

impl Context {
    /// The account by which the app knows us; None for an app of Vonage's.
    fn twilio(&self) -> Option<&Arc<Account>> {
        self.account.as_ref().filter(|_| self.agent.notation == Notation::Twiml)
    }
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
    /// The connection of the stream broke, and the call waits for the app.
    is_away: bool,
    /// Takes status callbacks.
    telling: mpsc::Sender<Told>,
}

/// What comes next.
enum Step {
    Leave,
    Stream(StreamReport),
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
                Step::Leave => return self.leave(),
                Step::Stream(report) => {
                    if self.stream_reported(report).is_leaving() {
                        return self.leave();
                    }
                }
                Step::Done(done) => self.take(done),
                Step::Notices => {
                    if self.read_notices().is_leaving() {
                        return self.leave();
                    }
                }
                Step::Timeout => self.interpreter.handle_timeout(clock::now()),
            }
        }
    }

    /// The call is over, or another agent has the caller.
    fn leave(mut self) {
        self.interpreter.handle(Input::Left, clock::now());
        while let Some(action) = self.interpreter.poll_action() {
            self.perform(action);
        }
    }

    /// Waits for what comes next. The stream's conversation reads the notices and obeys the call by itself.
    async fn next(&mut self) -> Step {
        if let Some(stream) = &mut self.stream {
            return Step::Stream(stream.step().await);
        }
        let (port, deadline) = (self.context.port.clone(), self.interpreter.poll_timeout());
        tokio::select! {
            biased;
            _ = port.dismissed() => Step::Leave,
            done = finished(&mut self.job) => Step::Done(done),
            () = port.output() => Step::Notices,
            () = until(deadline) => Step::Timeout,
        }
    }

    fn perform(&mut self, action: Action) -> Leaving {
        // The document goes on without the stream.
        if self.is_away && !matches!(action, Action::Fail(_)) {
            self.context.port.take_the_line();
            self.is_back();
        }
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
            Action::OpenStream(stream) => self.open(stream),
            Action::Dial(dial) => self.dial(dial),
            Action::StopDial(callee) => self.stop_dial(callee),
            Action::Tell(request) => self.tell_of_leg(request),
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
            Done::Dialled(Err(why)) => {
                self.stop_dials();
                Input::Failed(why)
            }
        };
        self.interpreter.handle(input, clock::now());
    }

    /// The text of a failure, which is kept for its kind.
    fn told(&mut self, failure: AgentFailure) -> String {
        let why = failure.detail.as_deref().unwrap_or(failure.kind.name()).to_owned();
        self.failure = Some(failure);
        why
    }

    fn tell(&self, told: Told) {
        if self.telling.try_send(told).is_err() {
            let id = self.context.port.call_id();
            info!(call.id = %id, "a status callback of call {id} is dropped: too many wait");
        }
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
                Notice::Dtmf { digit, .. } => digit.map(Input::Key),
                Notice::Start(_)
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
        let data = &event.data;
        let is = |key: &str, id: Option<u64>| id.is_some() && data[key].as_u64() == id;
        match event.kind {
            "call.playback_finished" if is("playback_id", self.playback) => Some(Input::Played),
            "call.gather_finished" if is("gather_id", self.gather) => {
                let digits = data["digits"].as_str().unwrap_or_default().to_owned();
                Some(Input::Gathered { digits, is_finished: data["reason"] == "terminator" })
            }
            _ => self.read_dial_event(event),
        }
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
