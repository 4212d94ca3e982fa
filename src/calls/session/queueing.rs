//! The session's part in the queues: it takes places for its caller, seats the agents that answer, and reports.

mod places;

use std::sync::LazyLock;
use std::time::Duration;

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
use crate::call::{Attempt, Call, Input, LeaveReason};
use crate::clock;
use crate::queue::{AgentName, CallerKey, Entry, OverflowReason, PlaceId, Progress, Unreached, Wanted};
use crate::queues::TicketNews;
use crate::queues::phones::user_of;
use crate::worker::{Command, Report};
use places::{Place, Side, Stage, WaitsIn};
pub(super) use places::{QueueEvent, QueuePlaces};

/// From an agent's answer until its page is connected: it has its microphone already, and ICE takes a second.
const CONNECTS_WITHIN: Duration = Duration::from_secs(15);

impl Session {
    pub(super) async fn enter_queue(&mut self, attempt: Attempt) {
        self.reach_person(attempt, Side::Caller).await;
    }

    pub(super) async fn enter_queue_beside(&mut self, attempt: Attempt) {
        self.reach_person(attempt, Side::Agent).await;
    }

    async fn reach_person(&mut self, attempt: Attempt, side: Side) {
        let Some(target) = self.targets.get(attempt.number()).cloned() else { return };
        if let Err(failure) = self.take_ticket(attempt, &target, side).await {
            self.requests.spawn(async move { Some(Input::AgentFailed { attempt, failure }) });
        }
    }

    async fn take_ticket(&mut self, attempt: Attempt, target: &AgentTarget, side: Side) -> Result<(), AgentFailure> {
        let queues = &self.context.options.queues;
        let (wanted, queue) = match (target.queue(), target.person()) {
            (Some(queue), _) => {
                let unknown =
                    || AgentFailureKind::NotConfigured.because("this queue comes with the next start of the service");
                let room = queues.room(queue).cloned().ok_or_else(unknown)?;
                let wanted = Wanted::AnyOf { queue: queue.clone(), skills: room.skills.clone() };
                (wanted, Some(WaitsIn { queue: queue.clone(), room, is_announcing: false }))
            }
            (None, Some(agent)) => (Wanted::Agent(agent.clone()), None),
            (None, None) => return Err(AgentFailureKind::NotConfigured.into()),
        };
        let user = self.context.origin.description(&self.context.number).user;
        let place = PlaceId { call: self.context.id.clone(), attempt };
        let entry = Entry { place, wanted, caller: caller_key(&user) };
        let ticket = queues.enter(entry).await.map_err(|error| AgentFailureKind::Refused.because(error))?;
        let (entered_at, stage) = (clock::now(), Stage::Waiting);
        self.queue.0.push(Place { attempt, successor: None, queue, ticket, entered_at, side, stage, rings_at: None });
        Ok(())
    }

    pub(super) async fn play_queue_hold(&mut self, attempt: Attempt) {
        let room = self.queue.of(attempt).and_then(|place| place.queue.as_ref()).map(|queue| queue.room.hold.clone());
        let hold = room.unwrap_or_else(|| self.context.number.route.hold.clone());
        self.loop_prompt(&hold).await;
    }

    pub(super) async fn take_queue_event(&mut self, call: &mut Call, attempt: Attempt, event: QueueEvent) {
        match event {
            QueueEvent::News(TicketNews::Progress(progress)) => {
                self.report_queue(&progress);
                self.follow_ring(attempt, &progress).await;
            }
            QueueEvent::News(TicketNews::Position(position)) => self.announce(call, attempt, position).await,
            QueueEvent::News(TicketNews::Answered(agent)) => {
                let give_up_at = clock::now() + CONNECTS_WITHIN;
                // A phone has joined when the queue hears that it answered.
                if let Some(place) = self.queue.of(attempt).filter(|place| matches!(place.stage, Stage::Waiting)) {
                    place.stage = Stage::Answered { agent, give_up_at };
                }
            }
            QueueEvent::News(TicketNews::Overflowed(reason)) => self.overflowed(call, attempt, reason),
            QueueEvent::News(TicketNews::Unreached(why)) => self.unreached(call, attempt, why),
            QueueEvent::Closed => self.queues_closed(call, attempt),
            QueueEvent::NotConnected => {
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
        while let Some((attempt, news)) = self.queue.queued_news() {
            self.take_queue_event(call, attempt, QueueEvent::News(news)).await;
        }
        let late = || Refusal::new(RefusalCode::NotAllowed, "the caller is not yours any more");
        let (attempt, side, has_joined) = self.queue.seat_of(agent).ok_or_else(late)?;
        if has_joined && side == Side::Caller && call.transfer().is_none() {
            let successor = self.take_over(call, AgentTarget::Browser(browser))?;
            if let Some(place) = self.queue.of(attempt) {
                place.successor = Some(successor);
            }
            return Ok(());
        }
        // During a transfer it is the same attempt that dials again, so that the other agent stays.
        if has_joined {
            let call = self.context.id.clone();
            self.command(Command::DropAgent { call, attempt, reason: LeaveReason::Replaced.name() }).await;
        }
        let id = self.context.id.clone();
        let (target, max_buffer) = (AgentTarget::Browser(browser), self.context.options.max_buffer);
        let dial = Box::new(Dial { target, max_buffer });
        match side {
            Side::Caller => {
                if has_joined {
                    self.play_queue_hold(attempt).await;
                }
                self.command(Command::Dial { call: id, attempt, dial }).await;
            }
            // The caller is on hold.
            Side::Agent => self.command(Command::DialBeside { call: id, attempt, dial }).await,
        }
        Ok(())
    }

    /// Takes a report that changes the caller's place alone, and says whether it was one.
    pub(super) async fn queue_takes(&mut self, report: &Report) -> bool {
        if let Report::AgentFailed { attempt, .. } | Report::AgentHungUp { attempt } = report {
            return self.queue_agent_failed(*attempt).await;
        }
        if let Report::AgentJoined { attempt } = report {
            return match self.queue.stop_ringing(*attempt) {
                Some(agent) => !self.phone_has_answered(*attempt, agent).await,
                // A page that connected when it had been given up is on its way out.
                None => self.queue.is_waiting(*attempt),
            };
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
        if let Some(agent) = self.queue.stop_ringing(attempt) {
            self.drop_phone(attempt, "agent_failed").await;
            let (queues, call) = (&self.context.options.queues, self.context.id.clone());
            // The ring may have ended in the meantime.
            let _ = queues.decline(agent, call).await;
            return true;
        }
        let waits_again = self.queue.put_back(attempt);
        if waits_again {
            let call = self.context.id.clone();
            self.command(Command::DropAgent { call, attempt, reason: "agent_failed" }).await;
        }
        waits_again
    }

    /// Rings the phones of a SIP user that the queue offers the caller to, and stops them when the ring is over.
    async fn follow_ring(&mut self, attempt: Attempt, progress: &Progress) {
        match progress {
            Progress::Offered { agent, .. } => {
                if self.queue.stop_ringing(attempt).is_some() {
                    self.drop_phone(attempt, "replaced").await;
                }
                if let Some(user) = user_of(agent) {
                    self.ring_phones(attempt, agent, user).await;
                }
            }
            Progress::Missed { agent, end, .. } => {
                if self.queue.rings_at(attempt) == Some(agent) {
                    let _ = self.queue.stop_ringing(attempt);
                    self.drop_phone(attempt, end.name()).await;
                }
            }
            // Without a place the call drops the agents of the attempt itself.
            Progress::Entered { .. }
            | Progress::Answered { .. }
            | Progress::Returned { .. }
            | Progress::Abandoned { .. }
            | Progress::Overflowed { .. } => {}
        }
    }

    async fn ring_phones(&mut self, attempt: Attempt, agent: &AgentName, user: &str) {
        let Some(place) = self.queue.of(attempt) else { return };
        place.rings_at = Some(agent.clone());
        let side = place.side;
        let (target, max_buffer) = (AgentTarget::SipUser(user.to_owned()), self.context.options.max_buffer);
        let (call, dial) = (self.context.id.clone(), Box::new(Dial { target, max_buffer }));
        self.command(match side {
            Side::Caller => Command::Dial { call, attempt, dial },
            Side::Agent => Command::DialBeside { call, attempt, dial },
        })
        .await;
    }

    /// Says whether the phone has the caller: the ring may have ended in the meantime.
    async fn phone_has_answered(&mut self, attempt: Attempt, agent: AgentName) -> bool {
        let call = self.context.id.clone();
        let has_it = self.context.options.queues.answer(agent.clone(), call).await.is_ok();
        match self.queue.of(attempt) {
            Some(place) if has_it => {
                place.stage = Stage::Answered { agent, give_up_at: clock::now() + CONNECTS_WITHIN }
            }
            Some(_) | None => self.drop_phone(attempt, "late").await,
        }
        has_it
    }

    async fn drop_phone(&mut self, attempt: Attempt, reason: &'static str) {
        let call = self.context.id.clone();
        self.command(Command::DropAgent { call, attempt, reason }).await;
    }

    /// Leaves the place of this attempt. A caller that nobody has taken has abandoned its queue.
    pub(super) fn leave_queue_of(&mut self, attempt: Attempt) {
        if let Some(place) = self.queue.left_by(attempt) {
            self.abandon(place);
        }
    }

    /// The call ends: a caller that still waits has left. Agents keep their seats.
    pub(super) fn abandon_queues(&mut self) {
        let waiting = self.queue.0.extract_if(.., |place| matches!(place.stage, Stage::Waiting));
        for place in waiting.collect::<Vec<_>>() {
            self.abandon(place);
        }
    }

    fn abandon(&mut self, place: Place) {
        let Place { queue, entered_at, stage, .. } = place;
        match (queue, stage) {
            (Some(WaitsIn { queue, .. }), Stage::Waiting) => {
                self.report_queue(&Progress::Abandoned { queue, waited: entered_at.elapsed() });
            }
            // The queue counts the answer, and nobody counts who calls a person.
            (_, Stage::Answered { .. } | Stage::Joined { .. }) | (None, Stage::Waiting) => {}
        }
    }

    fn overflowed(&mut self, call: &mut Call, attempt: Attempt, reason: OverflowReason) {
        let Some(Place { queue: Some(waits), entered_at, .. }) = self.queue.take(attempt) else { return };
        self.report_queue(&Progress::Overflowed { queue: waits.queue, waited: entered_at.elapsed(), reason });
        let failure = AgentFailureKind::QueueOverflow.because(reason.name());
        call.handle(Input::AgentFailed { attempt, failure }, clock::now());
    }

    /// The person does not take the caller.
    fn unreached(&mut self, call: &mut Call, attempt: Attempt, why: Unreached) {
        if self.queue.take(attempt).is_none() {
            return;
        }
        let kind = match why {
            Unreached::SignedOut | Unreached::Away => AgentFailureKind::Unavailable,
            Unreached::Busy => AgentFailureKind::Busy,
            Unreached::NoAnswer => AgentFailureKind::NoAnswer,
            Unreached::Declined => AgentFailureKind::Declined,
        };
        call.handle(Input::AgentFailed { attempt, failure: kind.because(why) }, clock::now());
    }

    /// A conversation goes on without them.
    fn queues_closed(&mut self, call: &mut Call, attempt: Attempt) {
        let Some(Place { stage, .. }) = self.queue.take(attempt) else { return };
        match stage {
            Stage::Waiting | Stage::Answered { .. } => {
                let failure = AgentFailureKind::Disconnected.because("the queues are closed");
                call.handle(Input::AgentFailed { attempt, failure }, clock::now());
            }
            Stage::Joined { .. } => {}
        }
    }

    /// Says the position, if there is a prompt for it and the caller hears us. Beside an agent the caller is on hold.
    async fn announce(&mut self, call: &Call, attempt: Attempt, position: usize) {
        let hears_us = call.state_name() == "talking";
        let place = self.queue.of(attempt).filter(|place| hears_us && place.side == Side::Caller);
        let Some(queue) = place.and_then(|place| place.queue.as_mut()) else { return };
        let name = format!("{}-{position}", queue.room.announce);
        let Some(prompt) = self.context.options.prompts.get(&name) else { return };
        queue.is_announcing = true;
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
