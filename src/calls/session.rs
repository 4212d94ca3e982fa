//! A session performs what one call decides: it owns the [`Call`], asks Graph and the worker, and tells the handle.

pub(super) mod commands;
mod decision;
mod events;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use patchcord_media::prompt::{Prompt, Repeat};
use patchcord_media::sdp::Offer;
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{Instrument, error, info, info_span, warn};

use super::CallsOptions;
use super::decision_webhook::{NoDecision, Plan, Step};
use super::snapshot::StatusSender;
use super::terminations::Terminations;
use crate::agent::{AgentStatus, AgentTarget, Dial};
use crate::call::description::{BusinessNumber, CallDescription, CallDirection, WhatsAppUser};
use crate::call::end::{EndReason, GraphTrouble};
use crate::call::event::{CallEvent, CallId, Stages, ended_data};
use crate::call::{Action, Attempt, Call, CallOptions, Input};
use crate::prompts::PromptLibrary;
use crate::pulse::{Pulse, Standstills};
use crate::recordings::{RecordingId, RecordingResult};
use crate::routes::Number;
use crate::settings::CurrentSettings;
use crate::store::{Arrival, CallRecord, EventRecord, Store, Termination, TerminationAction, Written};
use crate::telemetry::shown;
use crate::whatsapp::WaCallId;
use crate::whatsapp::graph::{CallbackData, FailureKind, GraphClient, GraphFailure, NumberCredentials};
use crate::whatsapp::webhook::{Connect, Direction};
use crate::worker::{ANSWERS_WITHIN, Answer, Command, MediaOptions, Report, WorkerHandle};
use commands::{AgentCommand, Inbox};

/// Reports of the worker waiting for the session.
const REPORTS: usize = 256;
/// For the call's first record to be on the disk before Meta has its 200 and before accept leaves, and for its end to be
/// there before anybody is told.
pub(super) const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

/// The dialling task keeps `agent_timeout` and knows what it waited for. The call's own deadline, so much later, is for a
/// worker that does not report.
const LATE_WORKER: Duration = Duration::from_secs(2);

/// What all sessions share.
#[derive(Clone)]
pub struct SessionOptions {
    /// From the webhook to accept.
    pub accept_timeout: Duration,
    /// From pre_accept to connected media. Media has until `accept_timeout` if this is no shorter.
    pub media_timeout: Duration,
    /// From dialling an agent to its joining.
    pub agent_timeout: Duration,
    /// From accept to the end.
    pub max_duration: Duration,
    /// How much of an agent's sound is queued.
    pub max_buffer: Duration,
    /// Prompts by name.
    pub prompts: PromptLibrary,
    /// What comes of putting callers through.
    pub agents: AgentStatus,
    /// To the apps that decide calls; see [`client_settings`](crate::events::client_settings).
    pub http: reqwest::Client,
    /// Of the runtime that sessions run on.
    pub pulse: Arc<Pulse>,
}

/// One call and all that is asked on its behalf.
pub struct Session {
    id: CallId,
    connect: Connect,
    number: Arc<Number>,
    worker: WorkerHandle,
    options: SessionOptions,
    graph: GraphClient,
    terminations: Terminations,
    /// What may have changed since the call began.
    settings: CurrentSettings,
    events: broadcast::Sender<CallEvent>,
    store: Store,
    /// What the store knows of the call.
    record: CallRecord,
    /// The call's first record on its way to the disk; accept waits for it.
    first_record: Written,
    /// Events that wait for it before listeners get them; None once it is on the disk or its deadline has passed.
    held: Option<Vec<CallEvent>>,
    /// For the app that decides.
    incoming: Option<EventRecord>,
    /// An earlier process may have given Meta another answer.
    is_resumed: bool,
    received_at: Instant,
    /// Ours, since the call began.
    standstills: Standstills,
    stages: Stages,
    /// For whoever looks at the call.
    status: StatusSender,
    sequence: u64,
    /// What the worker and Graph are busy with; each gives one input at the most.
    requests: JoinSet<Option<Input>>,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    /// The app is asked what becomes of the call; at most one.
    decision: JoinSet<Result<Plan, NoDecision>>,
    /// What the app decided, for when the caller hears us.
    postponed: Vec<Step>,
    /// Commands of agents that name a destination; a socket waits for its answers, so there are few.
    resolving: JoinSet<AgentCommand>,
    /// Whom the call's line counts by attempt: the route's targets, then those that were asked for.
    targets: Vec<AgentTarget>,
    /// The application's own word for the call.
    client_state: Option<String>,
    /// The agent's socket is told every event.
    agent_listens: bool,
    /// Events on their way to the agent's socket.
    for_agent: Vec<CallEvent>,
    /// Recordings whose files are not closed, and what will be said of them.
    recording: Vec<RecordingId>,
    recordings: JoinSet<Option<RecordingResult>>,
}

impl Session {
    pub(super) fn new(
        id: CallId,
        connect: Connect,
        number: Arc<Number>,
        worker: WorkerHandle,
        options: &CallsOptions,
        status: StatusSender,
        received_at: Instant,
    ) -> Self {
        let mut record =
            CallRecord::new(id.as_str(), number.phone_number_id.as_str(), &number.route.name, SystemTime::now());
        record.wacid = Some(connect.call_id.as_str().to_owned());
        record.display_phone_number = connect.display_phone_number.clone();
        record.from = events::from_json(&connect);
        Self {
            id,
            connect,
            decision: JoinSet::new(),
            postponed: Vec::new(),
            resolving: JoinSet::new(),
            targets: number.route.targets.clone(),
            client_state: None,
            agent_listens: false,
            for_agent: Vec::new(),
            number,
            worker,
            options: options.session.clone(),
            graph: options.graph.clone(),
            terminations: options.terminations.clone(),
            settings: options.settings.clone(),
            events: options.events.clone(),
            store: options.store.clone(),
            record,
            first_record: Written::already(),
            held: None,
            incoming: None,
            is_resumed: false,
            received_at,
            standstills: Standstills::of(&options.session.pulse, Instant::now()),
            stages: Stages::default(),
            status,
            sequence: 0,
            requests: JoinSet::new(),
            reports: mpsc::channel(REPORTS),
            recording: Vec::new(),
            recordings: JoinSet::new(),
        }
    }

    /// When it began by the clock on the wall: one moment for everybody who is told.
    pub(super) fn begun_at(mut self, began_at: SystemTime) -> Self {
        self.record.began_at = began_at;
        self
    }

    /// Writes the call's first record, its offer and its `call.incoming`, and tells of it. Returns at once; the webhook's
    /// reply waits for the write, because what Meta has its 200 for must survive us.
    pub(super) fn begin(&mut self, is_refused: bool) -> Written {
        let event = self.incoming_event();
        let incoming = EventRecord::of(&event);
        let offer = (!is_refused).then(|| self.connect.to_stored());
        let arrival = Arrival { call: self.record.clone(), offer, incoming: incoming.clone() };
        self.first_record = self.store.call_began(arrival, WRITTEN_WITHIN);
        self.incoming = Some(incoming);
        self.held = Some(vec![event]);
        self.first_record.clone()
    }

    /// Goes on where the process before left the call, which had no answer yet.
    pub(super) fn resume(&mut self, record: CallRecord, incoming: EventRecord, sequence: u64) {
        info!("call {} of an earlier run is answered now", self.id);
        self.client_state.clone_from(&record.client_state);
        self.record = record;
        self.incoming = Some(incoming);
        self.sequence = sequence;
        self.is_resumed = true;
    }

    /// Runs the call to its end. With a refusal it ends before it begins: Meta is told at once.
    pub(super) async fn run(mut self, mut inbox: Inbox, refusal: Option<EndReason>) {
        let span = info_span!("call", call.id = %self.id);
        async move {
            let mut call = Call::new(self.call_options(), self.received_at);
            match refusal {
                Some(reason) => call.handle(Input::HangUp(reason), Instant::now()),
                None => self.request_decision(),
            }
            let mut is_broken = false;
            loop {
                match AssertUnwindSafe(self.step(&mut call, &mut inbox)).catch_unwind().await {
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(())) => break,
                    Err(_) if is_broken => return self.abandon().await,
                    Err(_) => {
                        is_broken = true;
                        error!("bug: call ended after a panic; please report the place logged above");
                        metrics::counter!("patchcord_calls_broken_total").increment(1);
                        call.handle(Input::HangUp(EndReason::InternalError), Instant::now());
                    }
                }
            }
            // Meta is being told once; what fails is told again when the call is gone here.
            while self.requests.join_next().await.is_some() {}
            // Its trouble is the store's to tell.
            let _ = self.first_record.confirmed().await;
        }
        .instrument(span)
        .await;
    }

    /// Performs what the call decided and waits for what comes next.
    async fn step(&mut self, call: &mut Call, inbox: &mut Inbox) -> ControlFlow<()> {
        self.status.send_modify(|status| {
            status.state = call.state_name();
            status.agent = call.agent();
            status.client_state.clone_from(&self.client_state);
        });
        while let Some(action) = call.poll_action() {
            self.perform(action).await;
        }
        self.send_agent_events().await;
        if let Some(reason) = call.ended() {
            // A mistake while its seat was given back leaves the end untold.
            if self.record.ended_at.is_none() {
                let reason = reason.clone();
                self.end(&reason, &Value::Null).await;
            }
            return ControlFlow::Break(());
        }
        match call.state_name() == "talking" && !self.postponed.is_empty() {
            true => self.run_postponed(call).await,
            false => self.wait(call, inbox).await,
        }
        ControlFlow::Continue(())
    }

    /// Not even its end can be performed. The worker's seat is freed; Meta and the app learn of the end at the next
    /// start.
    async fn abandon(&mut self) {
        let (reply, _) = oneshot::channel();
        let release = Command::Release { call: self.id.clone(), reason: EndReason::InternalError.name(), reply };
        // A worker that is gone has no seats.
        let _ = self.worker.send(release).await;
    }

    async fn wait(&mut self, call: &mut Call, inbox: &mut Inbox) {
        self.forgive_standstill(call, Instant::now());
        let deadline = call.poll_timeout().unwrap_or_else(|| Instant::now() + self.options.accept_timeout);
        let first_record = self.first_record.clone();
        tokio::select! {
            _ = first_record.confirmed(), if self.held.is_some() => self.publish_held(),
            Some(ending) = inbox.endings.recv() => call.handle(ending, Instant::now()),
            Some(command) = inbox.commands.recv() => self.app_command(call, command).await,
            Some(report) = self.reports.1.recv() => match report {
                Report::Asked { attempt, request_id, command } => {
                    self.agent_command(call, attempt, request_id, command).await;
                }
                report => {
                    if let Some(input) = self.read_report(report) {
                        call.handle(input, Instant::now());
                    }
                }
            },
            Some(done) = self.requests.join_next() => {
                if let Some(input) = self.read_request(done) {
                    call.handle(input, Instant::now());
                }
            }
            Some(outcome) = self.decision.join_next() => self.decided(call, outcome),
            Some(Ok(command)) = self.resolving.join_next() => self.run_agent_command(call, command).await,
            Some(done) = self.recordings.join_next() => self.recording_finished(done.ok().flatten()),
            () = tokio::time::sleep_until(deadline.into()) => {
                let now = Instant::now();
                if !self.forgive_standstill(call, now) {
                    call.set_under_load(self.worker.is_overloaded());
                    call.handle_timeout(now);
                }
            }
        }
    }

    /// Words that came while we stood still are read before anybody is given up. Says whether deadlines were moved.
    fn forgive_standstill(&mut self, call: &mut Call, now: Instant) -> bool {
        let gap = self.standstills.next(now);
        if let Some(gap) = gap {
            call.extend_deadlines(gap, now);
        }
        gap.is_some()
    }

    fn call_options(&self) -> CallOptions {
        CallOptions {
            accept_timeout: self.options.accept_timeout,
            media_timeout: self.options.media_timeout,
            agent_timeout: self.options.agent_timeout + LATE_WORKER,
            max_duration: self.options.max_duration,
            answer: self.number.route.answer,
            awaits_decision: self.number.route.decide.is_some(),
            attempts: self.number.route.attempts(),
        }
    }

    async fn perform(&mut self, action: Action) {
        match action {
            Action::AnswerOffer => self.answer_offer().await,
            Action::PreAccept(answer) => self.pre_accept(answer),
            Action::Accept(answer) => self.accept(answer),
            Action::Reject => self.end_at_meta(TerminationAction::Reject),
            Action::Terminate => self.end_at_meta(TerminationAction::Terminate),
            Action::Dial { attempt } => self.dial(attempt, false).await,
            Action::DialBeside { attempt } => self.dial(attempt, true).await,
            Action::DropAgent { attempt, reason } => {
                self.command(Command::DropAgent { call: self.id.clone(), attempt, reason: reason.name() }).await;
            }
            Action::Promote { attempt } => self.command(Command::Promote { call: self.id.clone(), attempt }).await,
            Action::Hold => self.command(Command::Hold { call: self.id.clone(), held: true }).await,
            Action::Unhold => self.command(Command::Hold { call: self.id.clone(), held: false }).await,
            Action::StartSound => self.command(Command::StartSound { call: self.id.clone() }).await,
            Action::PlayPrompts { attempt } => self.play_prompts(attempt).await,
            Action::PlayRingback => self.play_while_waiting(self.number.clone().route.ringback.as_str()).await,
            Action::PlayHold => self.play_while_waiting(self.number.clone().route.hold.as_str()).await,
            Action::Release(reason) => self.release(&reason).await,
            Action::Report(progress) => self.report(&progress),
        }
    }

    async fn answer_offer(&mut self) {
        let offer = match Offer::parse(&self.connect.session.sdp) {
            Ok(offer) => offer,
            Err(error) => {
                let refused = Input::Answered(Err(EndReason::OfferRefused(error.to_string())));
                self.requests.spawn(async { Some(refused) });
                return;
            }
        };
        let (reply, answered) = oneshot::channel();
        let media = MediaOptions {
            call: self.id.clone(),
            description: Box::new(self.description()),
            barge_in: self.number.route.barge_in,
            record: self.number.route.record,
            hold: self.number.route.hold.clone(),
        };
        let answer = Answer { offer, media, reports: self.reports.0.clone(), reply };
        // Sent from here, so that it cannot come after the release of an early end.
        self.command(Command::Answer(answer)).await;
        let standstills = Standstills::of(&self.options.pulse, Instant::now());
        self.requests.spawn(
            async move {
                let answered = answer_of(answered, standstills).await;
                Some(Input::Answered(answered.unwrap_or(Err(EndReason::InternalError))))
            }
            .in_current_span(),
        );
    }

    fn pre_accept(&mut self, answer: Arc<str>) {
        self.stages.answered.get_or_insert(self.received_at.elapsed());
        self.stages.pre_accept_sent = Some(self.received_at.elapsed());
        let (graph, number, wacid) = self.graph_request();
        let is_resumed = self.is_resumed;
        self.requests.spawn(async move {
            let result = graph.pre_accept(&number, &wacid, &answer).await;
            Some(match result {
                // It has the answer of the process before, whose media is gone.
                Ok(done) if is_resumed && done.was_done_before => Input::HangUp(EndReason::ServiceLost),
                Err(failure) if is_resumed && matches!(failure.kind, FailureKind::Refused(_)) => {
                    Input::HangUp(EndReason::ServiceLost)
                }
                result => Input::PreAccepted(result.map(drop).map_err(|failure| trouble(&failure))),
            })
        });
    }

    fn accept(&mut self, answer: Arc<str>) {
        let (graph, number, wacid) = self.graph_request();
        let tracker = CallbackData::parse(self.id.as_str()).ok();
        let first_record = self.first_record.clone();
        self.requests.spawn(async move {
            // A disk that does not answer in time is told loudly by the store; the call goes on.
            let _ = first_record.confirmed().await;
            let result = graph.accept(&number, &wacid, &answer, tracker.as_ref()).await;
            Some(Input::Accepted(result.map(drop).map_err(|failure| trouble(&failure))))
        });
    }

    /// Whatever else Graph was being asked is not asked any more, so that it cannot come after the end.
    fn end_at_meta(&mut self, action: TerminationAction) {
        self.requests.abort_all();
        let attempt = self.terminations.begin(Termination {
            call_id: self.id.as_str().to_owned(),
            wacid: self.connect.call_id.as_str().to_owned(),
            phone_number_id: self.number.phone_number_id.as_str().to_owned(),
            action,
        });
        self.requests.spawn(attempt.map(|()| None).in_current_span());
    }

    /// With the number's token of the moment: the one that the call began with may have been withdrawn.
    fn graph_request(&self) -> (GraphClient, NumberCredentials, WaCallId) {
        let number = self.settings.get().numbers.get(&self.number.phone_number_id);
        let number = number.as_ref().unwrap_or(&self.number);
        let credentials = NumberCredentials {
            phone_number_id: number.phone_number_id.clone(),
            access_token: number.access_token.clone(),
        };
        (self.graph.clone(), credentials, self.connect.call_id.clone())
    }

    async fn dial(&mut self, attempt: Attempt, beside: bool) {
        let Some(target) = self.targets.get(attempt.number()) else { return };
        let dial = Box::new(Dial { target: target.clone(), max_buffer: self.options.max_buffer });
        let call = self.id.clone();
        self.command(match beside {
            true => Command::DialBeside { call, attempt, dial },
            false => Command::Dial { call, attempt, dial },
        })
        .await;
    }

    fn description(&self) -> CallDescription {
        CallDescription {
            wacid: self.connect.call_id.as_str().to_owned(),
            direction: match self.connect.direction {
                Direction::UserInitiated => CallDirection::UserInitiated,
                Direction::BusinessInitiated => CallDirection::BusinessInitiated,
            },
            user: WhatsAppUser {
                wa_id: self.connect.from.wa_id.clone(),
                user_id: self.connect.from.user_id.clone(),
                name: self.connect.from.name.clone(),
            },
            number: BusinessNumber {
                phone_number_id: self.number.phone_number_id.as_str().to_owned(),
                display_phone_number: self.connect.display_phone_number.clone(),
            },
        }
    }

    async fn play_prompts(&mut self, attempt: Attempt) {
        let Some(AgentTarget::Prompts { names, repeat }) = self.targets.get(attempt.number()) else { return };
        let prompts: Vec<Prompt> = names.iter().filter_map(|name| self.prompt(name)).collect();
        let repeat = if *repeat { Repeat::Loop } else { Repeat::Once };
        match prompts.is_empty() {
            true => drop(self.requests.spawn(async { Some(Input::PromptFinished) })),
            false => {
                self.command(Command::StandIn { call: self.id.clone(), prompts, repeat }).await;
            }
        }
    }

    async fn play_while_waiting(&mut self, name: &str) {
        if let Some(prompt) = self.prompt(name) {
            let prompts = vec![prompt];
            self.command(Command::StandIn { call: self.id.clone(), prompts, repeat: Repeat::Loop }).await;
        }
    }

    fn prompt(&self, name: &str) -> Option<Prompt> {
        let prompt = self.options.prompts.get(name);
        if prompt.is_none() {
            warn!(prompt = name, "the prompt {name:?} is gone; the call goes on without it");
        }
        prompt
    }

    async fn command(&mut self, command: Command) {
        if let Err(reason) = self.worker.send(command).await {
            self.requests.spawn(async { Some(Input::HangUp(reason)) });
        }
    }

    async fn release(&mut self, reason: &EndReason) {
        let (reply, figures) = oneshot::channel();
        let release = Command::Release { call: self.id.clone(), reason: reason.name(), reply };
        let sound = match self.worker.send(release).await {
            Ok(()) => {
                let standstills = Standstills::of(&self.options.pulse, Instant::now());
                answer_of(figures, standstills).await.unwrap_or(Value::Null)
            }
            Err(_) => Value::Null,
        };
        self.stages.ended = Some(self.received_at.elapsed());
        self.close_recordings().await;
        self.end(reason, &sound).await;
    }

    /// The books are closed, and all are told.
    async fn end(&mut self, reason: &EndReason, sound: &Value) {
        metrics::counter!("patchcord_calls_total", "reason" => reason.name(), "fault" => reason.fault().name())
            .increment(1);
        info!(
            call.end_reason = reason.name(),
            call.fault = reason.fault().name(),
            "call {} ended after {}: {reason}",
            self.id,
            shown(self.received_at.elapsed())
        );
        self.record.end(reason, &self.stages, sound);
        self.emit_end(ended_data(reason, &self.stages, sound)).await;
    }

    fn read_request(&mut self, done: Result<Option<Input>, tokio::task::JoinError>) -> Option<Input> {
        match done {
            Ok(input) => input,
            Err(error) if error.is_cancelled() => None,
            Err(_) => Some(Input::HangUp(EndReason::InternalError)),
        }
    }
}

/// What the call's worker answers. One that is stuck must not keep the call: its end is told without it.
async fn answer_of<T>(reply: oneshot::Receiver<T>, mut standstills: Standstills) -> Option<T> {
    let answer = standstills.timeout(ANSWERS_WITHIN, reply).await;
    if answer.is_err() {
        error!("a worker does not answer within {}: it is stuck, and its calls are silent", shown(ANSWERS_WITHIN));
        metrics::counter!("patchcord_worker_answers_missed_total").increment(1);
    }
    answer.ok()?.ok()
}

fn trouble(failure: &GraphFailure) -> GraphTrouble {
    match &failure.kind {
        FailureKind::Refused(error) => GraphTrouble::Refused(error.code),
        FailureKind::Unknown(_) => GraphTrouble::Unknown,
        FailureKind::Unreachable(_) => GraphTrouble::Unreachable,
        FailureKind::NoSockets(_) => GraphTrouble::NoSockets,
    }
}
