//! A session performs what one call decides: it owns the [`Call`], sends its requests to Meta and its worker, and
//! publishes its events.

mod inbox;
mod app_sockets;
mod commands;
mod browsers;
mod decision;
mod meta_requests;
mod worker_link;
mod descriptions;
mod reports;
mod progress;
mod queueing;
mod events;
mod record;
mod recordings;
mod prompts;
mod signaling;
mod ending;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::task::{JoinError, JoinSet};
use tracing::{Instrument, error, info, info_span};

use super::snapshot::{AgentFacts, StatusSender, TransferFacts};
use super::{CallsOptions, NewCall, Origin, WRITTEN_WITHIN};
use crate::agent::{AgentStatus, AgentTarget, Dial};
use crate::call::description::CallDescription;
use crate::call::end::EndReason;
use crate::call::event::{CallEvent, CallId};
use crate::call::{Action, AnswerWhen, Attempt, Call, CallOptions, Input, Signaling, Transfer};
use crate::calls::media_sockets::MediaSockets;
use crate::calls::origin::ExternalDirection;
use crate::clock;
use crate::prompts::PromptLibrary;
use crate::pulse::{Pulse, Standstills};
use crate::queues::QueuesHandle;
use crate::routes::Number;
use crate::settings::CurrentSettings;
use crate::store::{Arrival, CallRecord, EventRecord, Store, TerminationAction, Written};
use crate::twilio::status::StatusCallback;
use crate::worker::{Command, MediaOptions};
use app_sockets::AppSockets;
pub(super) use app_sockets::SocketRequest;
use browsers::AnsweredBrowser;
pub(super) use browsers::{BrowserOffer, BrowserRequest};
pub(super) use commands::AppCommand;
use commands::{AgentCommand, MAX_ATTEMPTS};
use decision::Decision;
use events::EventWriter;
pub(super) use inbox::{Inbox, SessionHandle};
use meta_requests::MetaRequests;
use queueing::QueuePlaces;
use record::{LiveRecord, People};
use recordings::OpenRecordings;
use signaling::AppSignaling;
pub(super) use signaling::SdpReply;
use worker_link::WorkerLink;

/// The task that dials, or tries again, keeps its own time and knows what it waited for. The call's own deadline is this
/// much later, for a worker that does not report.
const LATE_WORKER: Duration = Duration::from_secs(2);

/// What all sessions share.
#[derive(Clone)]
pub struct SessionOptions {
    /// From the webhook to accept.
    pub accept_timeout: Duration,
    /// From pre_accept to connected media. `accept_timeout` is the deadline if it is no longer.
    pub media_timeout: Duration,
    /// From dialling an agent until it joins.
    pub agent_timeout: Duration,
    /// The same for a SIP phone; zero if there are none.
    pub ring_timeout: Duration,
    /// From accept to the end.
    pub max_duration: Duration,
    /// How much of an agent's audio is queued.
    pub max_buffer: Duration,
    /// Prompts by name.
    pub prompts: PromptLibrary,
    /// The outcomes of reaching agents.
    pub agents: AgentStatus,
    /// Where callers wait for people.
    pub queues: QueuesHandle,
    /// The addresses and tokens of media sockets.
    pub media_sockets: MediaSockets,
    /// To the apps that decide calls; see [`client_settings`](crate::events::client_settings).
    pub http: reqwest::Client,
    /// Of the runtime that sessions run on.
    pub pulse: Arc<Pulse>,
}

/// One call and everything that is done for it.
pub struct Session {
    context: Context,
    meta: MetaRequests,
    worker: WorkerLink,
    record: LiveRecord,
    events: EventWriter,
    decision: Decision,
    recordings: OpenRecordings,
    /// Of a call that the application signals.
    app_signaling: AppSignaling,
    app_sockets: AppSockets,
    queue: QueuePlaces,
    /// By attempt: the route's targets, then those of commands.
    targets: Vec<AgentTarget>,
    /// Commands of agents whose destination is resolved; a socket waits for its answers, so there are few.
    resolving: JoinSet<AgentCommand>,
    /// Pages that the worker answers.
    browsers: JoinSet<AnsweredBrowser>,
    /// Requests to Meta and the worker; each gives one input at most.
    requests: JoinSet<Option<Input>>,
    /// Freezes of our process since the call began.
    standstills: Standstills,
}

/// What does not change while the call lives.
struct Context {
    id: CallId,
    origin: Origin,
    number: Arc<Number>,
    options: SessionOptions,
    /// The current settings; the call keeps the route that it began with.
    settings: CurrentSettings,
    store: Store,
}

impl Session {
    pub(super) fn new(new_call: NewCall, options: &CallsOptions, status: StatusSender) -> Self {
        let NewCall { id, origin, number, worker, received_at, began_at, naming } = new_call;
        let (session, store) = (options.session.clone(), options.store.clone());
        let description = origin.description(&number);
        let mut record =
            LiveRecord::new(&id, &description, &number.route.name, (received_at, began_at), status, store.clone());
        record.set_tracker(origin.tracker());
        record.set_signaling(origin.signaling());
        Self {
            meta: MetaRequests {
                call: id.clone(),
                wacid: origin.wacid().cloned(),
                number: number.clone(),
                settings: options.settings.clone(),
                graph: options.graph.clone(),
                terminations: options.terminations.clone(),
                naming: naming.clone(),
                permissions: options.permissions.clone(),
                is_resumed: false,
            },
            worker: WorkerLink::new(id.clone(), worker, session.pulse.clone()),
            record,
            events: EventWriter::new(id.clone(), store.clone(), options.events.clone()),
            decision: Decision::default(),
            recordings: OpenRecordings::default(),
            app_signaling: AppSignaling::default(),
            app_sockets: AppSockets::default(),
            queue: QueuePlaces::default(),
            targets: number.route.targets.clone(),
            resolving: JoinSet::new(),
            browsers: JoinSet::new(),
            requests: JoinSet::new(),
            standstills: Standstills::of(&session.pulse, clock::now()),
            context: Context { id, origin, number, options: session, settings: options.settings.clone(), store },
        }
    }

    /// The application keeps this with the call from its first event on.
    pub(super) fn begin_with(&mut self, client_state: String) {
        self.events.set_client_state(client_state.clone());
        self.record.begin_with(client_state);
    }

    /// Before its first event.
    pub(super) fn name_status_callback(&self, callback: &StatusCallback) {
        self.record.name_status_callback(callback);
    }

    /// The call has had an event before: `call.queued`.
    pub(super) fn was_queued(&mut self) {
        self.events.resume(1, self.record.record().client_state.clone());
    }

    /// Writes the call's first record, its offer and its `call.incoming` or `call.placed`. Returns at once; the
    /// webhook's reply and the listeners wait for the write, because what Meta has its 200 for must survive us.
    pub(super) fn begin(&mut self, is_refused: bool) -> Written {
        let event = self.first_event();
        let incoming = EventRecord::of(&event);
        let offer = self.context.origin.to_stored().filter(|_| !is_refused);
        let arrival = Arrival { call: self.record.record().clone(), offer, incoming: incoming.clone() };
        let written = self.context.store.call_began(arrival, WRITTEN_WITHIN);
        self.record.set_first_write(written.clone());
        self.decision.incoming = Some(incoming);
        self.events.hold(event);
        written
    }

    fn first_event(&mut self) -> CallEvent {
        let Context { id, number, origin, .. } = &self.context;
        let route = &number.route.name;
        if origin.is_placed() {
            info!(route, "call {id} is placed with route {route:?}");
            let record = self.record.record();
            let data = json!({
                "route": route,
                "from": record.description.user.to_json(),
                "to": { "phone_number_id": number.phone_number_id.as_str() },
                "tracker": record.tracker,
                "signaling": record.signaling.name(),
            });
            return self.events.next("call.placed", data, None);
        }
        info!(route, "call {id} comes in for route {route:?}");
        let record = self.record.record();
        let mut data = json!({
            "wacid": record.description.wacid,
            "route": route,
            "from": record.description.user.to_json(),
            "to": { "phone_number_id": number.phone_number_id.as_str() },
            "signaling": record.signaling.name(),
        });
        if self.awaits_app() {
            data["media"] = json!({ "url": self.context.options.media_sockets.url_of(id) });
        }
        self.events.next("call.incoming", data, None)
    }

    /// Continues a call of the previous process, which had no answer yet.
    pub(super) fn resume(&mut self, record: CallRecord, incoming: EventRecord, sequence: u64) {
        info!("call {} of an earlier run is answered now", self.context.id);
        self.events.resume(sequence, record.client_state.clone());
        self.record.resume(record);
        self.decision.incoming = Some(incoming);
        self.meta.is_resumed = true;
    }

    /// Runs the call to its end. With a refusal it is rejected at Meta at once.
    pub(super) async fn run(mut self, mut inbox: Inbox, refusal: Option<EndReason>) {
        let span = info_span!("call", call.id = %self.context.id);
        async move {
            let mut call = self.context.call(self.record.received_at());
            match refusal {
                Some(reason) => call.handle(Input::HangUp(reason), clock::now()),
                None if self.context.origin.is_placed() => {}
                None => self.request_decision(),
            }
            let mut is_broken = false;
            loop {
                match AssertUnwindSafe(self.step(&mut call, &mut inbox)).catch_unwind().await {
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(())) => break,
                    // Its end panics too. Meta and the app learn of the end at the next start.
                    Err(_) if is_broken => return self.worker.abandon().await,
                    Err(_) => {
                        is_broken = true;
                        error!("bug: call ended after a panic; please report the place logged above");
                        metrics::counter!("patchcord_calls_broken_total").increment(1);
                        call.handle(Input::HangUp(EndReason::InternalError), clock::now());
                    }
                }
            }
            // The first attempt to end the call at Meta; `Terminations` makes the later ones.
            while self.requests.join_next().await.is_some() {}
            // The store logs its trouble.
            let _ = self.record.first_write().confirmed().await;
        }
        .instrument(span)
        .await;
    }

    /// Performs the call's actions and waits for the next input.
    async fn step(&mut self, call: &mut Call, inbox: &mut Inbox) -> ControlFlow<()> {
        self.record.show(call, self.people(call));
        self.learn_name().await;
        while let Some(action) = call.poll_action() {
            self.perform(action).await;
        }
        for event in self.events.take_for_agent() {
            self.command(Command::TellAgent { call: self.context.id.clone(), event: Box::new(event) }).await;
        }
        if let Some(reason) = call.ended() {
            // A panic during the release left the end unpublished.
            if !self.record.has_ended() {
                let reason = reason.clone();
                self.end(&reason, &Value::Null).await;
            }
            return ControlFlow::Break(());
        }
        if self.seat_early_sockets(call).await {
            return ControlFlow::Continue(());
        }
        match call.state_name() == "talking" && self.decision.has_postponed() {
            true => self.run_postponed(call).await,
            false => self.wait(call, inbox).await,
        }
        ControlFlow::Continue(())
    }

    async fn wait(&mut self, call: &mut Call, inbox: &mut Inbox) {
        self.forgive_standstill(call, clock::now());
        let deadline = call.poll_timeout().unwrap_or_else(|| clock::now() + self.context.options.accept_timeout);
        let first_record = self.record.first_write();
        tokio::select! {
            Some(ending) = inbox.endings.recv() => Self::end_after_pending(call, inbox, ending),
            Some(news) = inbox.news.recv() => call.handle(news, clock::now()),
            Some(command) = inbox.commands.recv() => self.app_command(call, command).await,
            Some(request) = inbox.browsers.recv() => self.browser_request(call, request).await,
            Some(request) = inbox.sockets.recv() => self.socket_request(call, request).await,
            Some(report) = self.worker.next_report() => self.take_report(call, report).await,
            Some(done) = self.requests.join_next() => {
                if let Some(input) = input_of(done) {
                    call.handle(input, clock::now());
                }
            }
            Some(outcome) = self.decision.asking.join_next() => self.decided(call, outcome),
            Some(Ok(answered)) = self.browsers.join_next() => self.browser_answered(call, answered).await,
            Some(Ok(command)) = self.resolving.join_next() => self.run_agent_command(call, command).await,
            (attempt, event) = self.queue.next() => self.take_queue_event(call, attempt, event).await,
            Some(result) = self.recordings.next_finished() => self.recording_finished(result),
            _ = first_record.confirmed(), if self.events.is_holding() => self.events.publish_held(),
            () = tokio::time::sleep_until(deadline.into()) => self.deadline_passed(call, clock::now()),
        }
    }

    /// Meta's webhooks say that a callee declined before they say that the call is over; both may wait here.
    fn end_after_pending(call: &mut Call, inbox: &mut Inbox, ending: Input) {
        while let Ok(news) = inbox.news.try_recv() {
            call.handle(news, clock::now());
        }
        call.handle(ending, clock::now());
    }

    fn deadline_passed(&mut self, call: &mut Call, now: Instant) {
        if !self.forgive_standstill(call, now) {
            call.set_under_load(self.worker.is_overloaded());
            call.handle_timeout(now);
        }
    }

    /// Inputs that arrived while our process was frozen are read before anyone is given up. Returns whether deadlines
    /// moved.
    fn forgive_standstill(&mut self, call: &mut Call, now: Instant) -> bool {
        let gap = self.standstills.next(now);
        if let Some(gap) = gap {
            call.extend_deadlines(gap, now);
            self.queue.extend_deadlines(gap);
        }
        gap.is_some()
    }

    async fn perform(&mut self, action: Action) {
        let call = self.context.id.clone();
        match action {
            Action::AnswerOffer => self.answer_offer().await,
            Action::PreAccept(answer) => {
                self.record.reach(|stages| &mut stages.answered);
                match self.context.origin.signaling() {
                    Signaling::External => self.app_signaling.hand_over(answer),
                    Signaling::Graph => {
                        self.record.reach(|stages| &mut stages.pre_accept_sent);
                        self.requests.spawn(self.meta.pre_accept(answer));
                    }
                }
            }
            Action::Accept(answer) => match self.context.origin.signaling() {
                Signaling::External => self.events.emit("call.ready_to_accept", json!({})),
                Signaling::Graph => drop(self.requests.spawn(self.meta.accept(answer, self.record.first_write()))),
            },
            Action::MakeOffer => self.make_offer().await,
            Action::Connect(offer) => {
                self.record.reach(|stages| &mut stages.answered);
                match self.context.origin.placement() {
                    Some(placement) => {
                        self.requests.spawn(self.meta.connect(offer, placement, self.record.first_write()));
                    }
                    None => self.app_signaling.hand_over(offer),
                }
            }
            Action::ApplyAnswer(answer) => self.apply_answer(&answer).await,
            Action::Reject => self.end_at_meta(TerminationAction::Reject),
            Action::Terminate => self.end_at_meta(TerminationAction::Terminate),
            Action::Dial { attempt } => {
                if let Some(dial) = self.dial(attempt) {
                    self.command(Command::Dial { call, attempt, dial }).await;
                }
            }
            Action::DialBeside { attempt } => {
                if let Some(dial) = self.dial(attempt) {
                    self.command(Command::DialBeside { call, attempt, dial }).await;
                }
            }
            Action::EnterQueue { attempt } => self.enter_queue(attempt).await,
            Action::EnterQueueBeside { attempt } => self.enter_queue_beside(attempt).await,
            Action::DropAgent { attempt, reason } => {
                self.leave_queue_of(attempt);
                self.record.model_left(attempt);
                self.command(Command::DropAgent { call, attempt, reason: reason.name() }).await;
            }
            Action::Promote { attempt } => {
                self.queue.promoted(attempt);
                self.command(Command::Promote { call, attempt }).await;
            }
            Action::Hold => self.command(Command::Hold { call, held: true }).await,
            Action::Unhold => self.command(Command::Hold { call, held: false }).await,
            Action::StartSound => self.command(Command::StartSound { call }).await,
            Action::PlayPrompts { attempt } => self.play_prompts(attempt).await,
            Action::PlayRingback => self.loop_prompt(&self.context.number.route.ringback.clone()).await,
            Action::PlayQueueHold { attempt } => self.play_queue_hold(attempt).await,
            Action::PlayHold => self.loop_prompt(&self.context.number.route.hold.clone()).await,
            Action::Release(reason) => self.release(&reason).await,
            Action::Report(progress) => self.report(&progress),
        }
    }

    /// Meta names a call that we place once it is under way.
    async fn learn_name(&mut self) {
        if self.meta.wacid.is_some() {
            return;
        }
        let Some(wacid) = self.meta.naming.wacid(&self.context.id) else { return };
        self.record.named(&wacid);
        let description = self.context.origin.description(&self.context.number);
        let description = Box::new(CallDescription { wacid: Some(wacid.as_str().to_owned()), ..description });
        self.meta.wacid = Some(wacid);
        self.command(Command::Describe { call: self.context.id.clone(), description }).await;
    }

    /// Other requests to Meta are aborted, so that none of them arrives after the end; but the reply to a connect may still
    /// name the call.
    fn end_at_meta(&mut self, action: TerminationAction) {
        if self.context.origin.signaling() == Signaling::External {
            self.app_signaling.leave_the_end();
            return;
        }
        if self.meta.wacid.is_none() {
            self.meta.wacid = self.meta.naming.wacid_at_end(&self.context.id);
            self.record.set_unnamed(self.meta.wacid.is_none());
        }
        if self.meta.wacid.is_some() {
            self.requests.abort_all();
        }
        if let Some(attempt) = self.meta.end(action) {
            self.requests.spawn(attempt);
        }
    }

    fn people(&self, call: &Call) -> People {
        let transfer =
            call.transfer().and_then(|Transfer { to, stage }| Some(TransferFacts { to: self.agent_facts(to)?, stage }));
        People {
            agent: call.agent().and_then(|agent| self.agent_facts(agent)),
            transfer,
            queue: self.queue.name().cloned(),
        }
    }

    fn agent_facts(&self, attempt: Attempt) -> Option<AgentFacts> {
        let target = self.targets.get(attempt.number())?;
        let (kind, name) = match self.queue.agent(attempt).or(target.person()) {
            Some(person) => ("person", person.to_string()),
            None => (target.kind(), target.shown()),
        };
        Some(AgentFacts { attempt, kind, name })
    }

    /// What the worker needs to dial the agent of an attempt.
    fn dial(&mut self, attempt: Attempt) -> Option<Box<Dial>> {
        let mut target = self.targets.get(attempt.number())?.clone();
        if let AgentTarget::App(app) = &mut target {
            self.await_socket(attempt, app);
        }
        Some(Box::new(Dial { target, max_buffer: self.context.options.max_buffer }))
    }

    async fn command(&mut self, command: Command) {
        if let Err(reason) = self.worker.send(command).await {
            self.requests.spawn(async { Some(Input::HangUp(reason)) });
        }
    }
}

impl Context {
    fn call(&self, began_at: Instant) -> Call {
        let options = self.call_options();
        match &self.origin {
            Origin::Offered(_) => Call::offered_by_meta(options, began_at),
            Origin::Placed(placement) => {
                let accept_timeout = placement.ring_timeout;
                Call::placed(CallOptions { accept_timeout, answer: AnswerWhen::AgentReady, ..options }, began_at)
            }
            Origin::External(external) => match external.direction {
                ExternalDirection::UserInitiated { .. } => Call::offered_by_meta(options, began_at),
                ExternalDirection::BusinessInitiated { ring_timeout: accept_timeout } => {
                    Call::placed(CallOptions { accept_timeout, answer: AnswerWhen::AgentReady, ..options }, began_at)
                }
            },
        }
    }

    fn media_options(&self) -> MediaOptions {
        let route = &self.number.route;
        MediaOptions {
            call: self.id.clone(),
            description: Box::new(self.origin.description(&self.number)),
            barge_in: route.barge_in,
            record: route.record,
            hold: route.hold.clone(),
        }
    }

    fn call_options(&self) -> CallOptions {
        let route = &self.number.route;
        // Each agent's task keeps its own time.
        let agent_timeout = self.options.agent_timeout.max(self.options.ring_timeout);
        CallOptions {
            signaling: self.origin.signaling(),
            accept_timeout: self.options.accept_timeout,
            media_timeout: self.options.media_timeout,
            agent_timeout: agent_timeout + LATE_WORKER,
            max_duration: self.options.max_duration,
            answer: route.answer,
            awaits_decision: route.decide.is_some(),
            attempts: route.attempts(),
        }
    }
}

fn input_of(done: Result<Option<Input>, JoinError>) -> Option<Input> {
    match done {
        Ok(input) => input,
        Err(error) if error.is_cancelled() => None,
        Err(_) => Some(Input::HangUp(EndReason::InternalError)),
    }
}
