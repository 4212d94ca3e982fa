//! QueuePlace: the caller's place in a queue while it waits, and its agent's seat from the answer on.

use std::future::pending;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use patchcord_media::prompt::Repeat;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tracing::info;

use super::Session;
use crate::agent::{AgentTarget, BrowserId, Dial};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::call::description::WhatsAppUser;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::call::{Attempt, Call, Input};
use crate::clock;
use crate::queue::{AgentName, CallerKey, Entry, OverflowReason, Progress, QueueName};
use crate::queues::{Ticket, TicketNews, WaitingRoom};
use crate::worker::{Command, Report};

/// From an agent's answer until its page is connected: it has its microphone already, and ICE takes a second.
const CONNECTS_WITHIN: Duration = Duration::from_secs(15);

/// The place of a call in at most one queue.
#[derive(Default)]
pub(super) struct QueuePlace(Option<Place>);

struct Place {
    attempt: Attempt,
    /// Another page of its agent that takes over once it is connected, as after a reload.
    successor: Option<Attempt>,
    queue: QueueName,
    room: WaitingRoom,
    ticket: Ticket,
    entered_at: Instant,
    stage: Stage,
    /// An announcement plays, and the music follows it.
    is_announcing: bool,
}

/// How far the caller has come.
enum Stage {
    Waiting,
    /// This agent answered, and its page connects.
    Answered {
        agent: AgentName,
        give_up_at: Instant,
    },
    /// They talk.
    Joined {
        agent: AgentName,
    },
}

/// An event in the life of a place.
pub(super) enum QueueEvent {
    News(TicketNews),
    /// The queues are gone.
    Closed,
    /// The agent that answered has not connected in time.
    NotConnected,
}

impl QueuePlace {
    /// The next event; never comes without a place. Cancel safe.
    pub async fn next(&mut self) -> QueueEvent {
        let Some(place) = &mut self.0 else { return pending().await };
        let give_up_at = match place.stage {
            Stage::Answered { give_up_at, .. } => Some(give_up_at),
            Stage::Waiting | Stage::Joined { .. } => None,
        };
        let given_up = async {
            match give_up_at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            news = place.ticket.next() => news.map_or(QueueEvent::Closed, QueueEvent::News),
            () = given_up => QueueEvent::NotConnected,
        }
    }

    /// Leaves the queue, or ends its agent's conversation.
    pub fn leave(&mut self) {
        self.0 = None;
    }

    /// We were frozen for `gap`, and so was the way to the page.
    pub fn extend_deadline(&mut self, gap: Duration) {
        if let Some(Place { stage: Stage::Answered { give_up_at, .. }, .. }) = &mut self.0 {
            *give_up_at += gap;
        }
    }

    /// Whether the music must begin again, because an announcement is over.
    pub fn announcement_finished(&mut self) -> Option<Attempt> {
        let place = self.0.as_mut()?;
        std::mem::take(&mut place.is_announcing).then_some(place.attempt)
    }

    /// The agent of this attempt listens: its name, if it is the queue's.
    pub fn joined(&mut self, attempt: Attempt) -> Option<AgentName> {
        let place = self.0.as_mut().filter(|place| place.attempt == attempt)?;
        let Stage::Answered { agent, .. } = &place.stage else { return None };
        let agent = agent.clone();
        place.stage = Stage::Joined { agent: agent.clone() };
        Some(agent)
    }

    /// Whether the caller waits in the queue of this attempt, and no agent has answered.
    fn is_waiting(&self, attempt: Attempt) -> bool {
        let place = self.0.as_ref().filter(|place| place.attempt == attempt);
        place.is_some_and(|place| matches!(place.stage, Stage::Waiting))
    }

    /// Takes the caller back from an agent that answered and could not connect. Says whether there was one.
    pub fn put_back(&mut self, attempt: Attempt) -> bool {
        let Some(place) = self.0.as_mut().filter(|place| place.attempt == attempt) else { return false };
        let answered = matches!(place.stage, Stage::Answered { .. });
        if answered {
            place.stage = Stage::Waiting;
            place.ticket.put_back();
        }
        answered
    }

    fn succeeds(&mut self, successor: Attempt) {
        if let Some(place) = &mut self.0 {
            place.successor = Some(successor);
        }
    }

    /// The agent of this attempt is dropped. Says whether it was the place's, and nobody succeeds it.
    fn is_left_with(&mut self, attempt: Attempt) -> bool {
        let Some(place) = &mut self.0 else { return false };
        if place.successor == Some(attempt) {
            place.successor = None;
            return false;
        }
        match place.successor {
            _ if place.attempt != attempt => false,
            Some(successor) => {
                (place.attempt, place.successor) = (successor, None);
                false
            }
            None => true,
        }
    }

    fn answered(&mut self, agent: AgentName, now: Instant) {
        if let Some(place) = &mut self.0 {
            place.stage = Stage::Answered { agent, give_up_at: now + CONNECTS_WITHIN };
        }
    }

    /// The attempt of this agent's caller, and whether the agent has joined.
    fn seat_of(&self, agent: &AgentName) -> Option<(Attempt, bool)> {
        let place = self.0.as_ref()?;
        let (has, has_joined) = match &place.stage {
            Stage::Answered { agent, .. } => (agent, false),
            Stage::Joined { agent } => (agent, true),
            Stage::Waiting => return None,
        };
        (has == agent).then_some((place.attempt, has_joined))
    }

    fn queued_news(&mut self) -> Option<TicketNews> {
        self.0.as_mut()?.ticket.queued()
    }
}

impl Session {
    pub(super) async fn enter_queue(&mut self, attempt: Attempt) {
        let Some(queue) = self.targets.get(attempt.number()).and_then(AgentTarget::queue).cloned() else { return };
        // The ticket before is dropped first, so that its agent is free.
        self.queue.leave();
        if let Err(failure) = self.take_ticket(attempt, queue).await {
            self.requests.spawn(async move { Some(Input::AgentFailed { attempt, failure }) });
        }
    }

    async fn take_ticket(&mut self, attempt: Attempt, queue: QueueName) -> Result<(), AgentFailure> {
        let queues = &self.context.options.queues;
        let unknown = || AgentFailureKind::NotConfigured.because("this queue comes with the next start of the service");
        let room = queues.room(&queue).cloned().ok_or_else(unknown)?;
        let user = self.context.origin.description(&self.context.number).user;
        let call = self.context.id.clone();
        let entry = Entry { call, queue: queue.clone(), caller: caller_key(&user), skills: room.skills.clone() };
        let ticket = queues.enter(entry).await.map_err(|error| AgentFailureKind::Refused.because(error))?;
        let (entered_at, stage) = (clock::now(), Stage::Waiting);
        self.queue.0 =
            Some(Place { attempt, successor: None, queue, room, ticket, entered_at, stage, is_announcing: false });
        Ok(())
    }

    pub(super) async fn play_queue_hold(&mut self, attempt: Attempt) {
        let place = self.queue.0.as_ref().filter(|place| place.attempt == attempt);
        let hold = place.map_or_else(|| self.context.number.route.hold.clone(), |place| place.room.hold.clone());
        self.loop_prompt(&hold).await;
    }

    pub(super) async fn take_queue_event(&mut self, call: &mut Call, event: QueueEvent) {
        match event {
            QueueEvent::News(TicketNews::Progress(progress)) => self.report_queue(&progress),
            QueueEvent::News(TicketNews::Position(position)) => self.announce(call, position).await,
            QueueEvent::News(TicketNews::Answered(agent)) => self.queue.answered(agent, clock::now()),
            QueueEvent::News(TicketNews::Overflowed(reason)) => self.overflowed(call, reason),
            QueueEvent::Closed => self.queues_closed(call),
            QueueEvent::NotConnected => {
                let Some(place) = &self.queue.0 else { return };
                let attempt = place.attempt;
                info!("the page of the agent of call {} did not connect: the caller waits again", self.context.id);
                self.queue_agent_failed(attempt).await;
            }
        }
    }

    /// Dials the page of the agent that has answered this caller. A page of the agent that talks already takes over from its
    /// earlier one.
    pub(super) async fn seat_queue_agent(
        &mut self,
        call: &mut Call,
        agent: &AgentName,
        browser: BrowserId,
    ) -> Result<(), Refusal> {
        // The agent's answer is on its way before its token is.
        while let Some(news) = self.queue.queued_news() {
            self.take_queue_event(call, QueueEvent::News(news)).await;
        }
        let late = || Refusal::new(RefusalCode::NotAllowed, "the caller is not yours any more");
        let (attempt, has_joined) = self.queue.seat_of(agent).ok_or_else(late)?;
        if has_joined {
            let successor = self.take_over(call, browser)?;
            self.queue.succeeds(successor);
            return Ok(());
        }
        let id = self.context.id.clone();
        let (target, max_buffer) = (AgentTarget::Browser(browser), self.context.options.max_buffer);
        self.command(Command::Dial { call: id, attempt, dial: Box::new(Dial { target, max_buffer }) }).await;
        Ok(())
    }

    /// Takes a report that changes the caller's place alone, and says whether it was one.
    pub(super) async fn queue_takes(&mut self, report: &Report) -> bool {
        if let Report::AgentFailed { attempt, .. } | Report::AgentHungUp { attempt } = report {
            return self.queue_agent_failed(*attempt).await;
        }
        // A page that connected when it had been given up is on its way out.
        if let Report::AgentJoined { attempt } = report {
            return self.queue.is_waiting(*attempt);
        }
        if let Report::PromptsFinished = report
            && let Some(attempt) = self.queue.announcement_finished()
        {
            self.play_queue_hold(attempt).await;
            return true;
        }
        false
    }

    /// The agent of this attempt has failed. Says whether its caller waits in the queue again.
    async fn queue_agent_failed(&mut self, attempt: Attempt) -> bool {
        let waits_again = self.queue.put_back(attempt);
        if waits_again {
            let call = self.context.id.clone();
            self.command(Command::DropAgent { call, attempt, reason: "agent_failed" }).await;
        }
        waits_again
    }

    /// Leaves the queue of this attempt. A caller that nobody has taken has abandoned it.
    pub(super) fn leave_queue_of(&mut self, attempt: Attempt) {
        if self.queue.is_left_with(attempt) {
            self.abandon_queue();
            self.queue.leave();
        }
    }

    /// The call ends, or goes elsewhere: a caller that still waits has left. An agent keeps its seat.
    pub(super) fn abandon_queue(&mut self) {
        let Some(place) = &self.queue.0 else { return };
        match place.stage {
            Stage::Waiting => {}
            // The queue counts the answer.
            Stage::Answered { .. } | Stage::Joined { .. } => return,
        }
        let progress = Progress::Abandoned { queue: place.queue.clone(), waited: place.entered_at.elapsed() };
        self.queue.leave();
        self.report_queue(&progress);
    }

    fn overflowed(&mut self, call: &mut Call, reason: OverflowReason) {
        let Some(Place { attempt, queue, entered_at, .. }) = self.queue.0.take() else { return };
        self.report_queue(&Progress::Overflowed { queue, waited: entered_at.elapsed(), reason });
        let failure = AgentFailureKind::QueueOverflow.because(reason.name());
        call.handle(Input::AgentFailed { attempt, failure }, clock::now());
    }

    /// A conversation goes on without them.
    fn queues_closed(&mut self, call: &mut Call) {
        let Some(Place { attempt, stage, .. }) = self.queue.0.take() else { return };
        match stage {
            Stage::Waiting | Stage::Answered { .. } => {
                let failure = AgentFailureKind::Disconnected.because("the queues are closed");
                call.handle(Input::AgentFailed { attempt, failure }, clock::now());
            }
            Stage::Joined { .. } => {}
        }
    }

    /// Says the position, if there is a prompt for it and the caller hears us.
    async fn announce(&mut self, call: &Call, position: usize) {
        let Some(place) = self.queue.0.as_mut().filter(|_| call.state_name() == "talking") else { return };
        let name = format!("{}-{position}", place.room.announce);
        let Some(prompt) = self.context.options.prompts.get(&name) else { return };
        place.is_announcing = true;
        let call = self.context.id.clone();
        self.command(Command::StandIn { call, prompts: vec![prompt], repeat: Repeat::Once }).await;
    }

    fn report_queue(&mut self, progress: &Progress) {
        self.events.emit(progress.event_type(), queue_data(progress));
    }
}

/// The data of a queue's event.
fn queue_data(progress: &Progress) -> Value {
    let ms = |waited: &Duration| waited.as_millis() as u64;
    match progress {
        Progress::Entered { queue, position } => json!({ "queue": &**queue, "position": position }),
        Progress::Offered { queue, agent } | Progress::Returned { queue, agent } => {
            json!({ "queue": &**queue, "agent": &**agent })
        }
        Progress::Missed { queue, agent, end } => {
            json!({ "queue": &**queue, "agent": &**agent, "reason": end.name() })
        }
        Progress::Answered { queue, agent, waited } => {
            json!({ "queue": &**queue, "agent": &**agent, "waited_ms": ms(waited) })
        }
        Progress::Abandoned { queue, waited } => json!({ "queue": &**queue, "waited_ms": ms(waited) }),
        Progress::Overflowed { queue, waited, reason } => {
            json!({ "queue": &**queue, "waited_ms": ms(waited), "reason": reason.name() })
        }
    }
}

/// The same for each call of one caller in this process. A phone number is short enough to be guessed from its digest, so a
/// secret of the process is in it.
fn caller_key(user: &WhatsAppUser) -> Option<CallerKey> {
    static SECRET: LazyLock<[u8; 32]> = LazyLock::new(rand::random);
    let (kind, id) = match (&user.user_id, &user.wa_id) {
        (Some(id), _) => ("user_id", id),
        (None, Some(id)) => ("wa_id", id),
        (None, None) => return None,
    };
    let digest = Sha256::new().chain_update(*SECRET).chain_update(kind).chain_update(id).finalize();
    Some(URL_SAFE_NO_PAD.encode(digest).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_known_again_and_not_known_by_its_number() {
        let caller = |wa_id: &str| caller_key(&WhatsAppUser { wa_id: Some(wa_id.to_owned()), ..Default::default() });
        assert_eq!(caller("491711234567"), caller("491711234567"));
        assert_ne!(caller("491711234567"), caller("491711234568"));
        assert!(!caller("491711234567").unwrap().contains("49171"));
        assert_eq!(caller_key(&WhatsAppUser::default()), None);
    }
}
