//! The agent and the participants of one call: their slots, and what they report.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use patchcord_media::bridge::{Bridge, Speaker};
use patchcord_media::gather::GatherOptions;
use patchcord_media::mixer::ParticipantId;
use patchcord_media::prompt::{Prompt, Repeat};
use patchcord_media::sdp::{Answer, Offer};
use serde_json::Value;

use super::CallMedia;
use crate::agent::browser::BrowserLeg;
use crate::agent::notice::{ErrorCode, Notice};
use crate::agent::port::{AgentSlot, PortHost, PortReport, PortUser};
use crate::agent::sip::PhoneLine;
use crate::agent::{AgentTarget, BrowserId, PhoneId};
use crate::call::Attempt;
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::call::command::{CommandResult, Owner, Role, SoundCommand};
use crate::call::description::CallDescription;
use crate::call::event::CallId;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::clock;
use crate::prompts::PromptLibrary;
use crate::pulse::Pulse;
use crate::worker::Worker;
use crate::worker::command::Report;

/// The slots of one call.
#[derive(Default)]
pub(super) struct Agents {
    /// It has the caller.
    agent: RefCell<Option<Rc<AgentSlot>>>,
    /// It is to take over from the agent, and is a participant until then.
    successor: RefCell<Option<Rc<AgentSlot>>>,
    /// At most as many as the mixer takes.
    participants: RefCell<Vec<Rc<AgentSlot>>>,
}

impl Agents {
    /// Refuses if there is no agent, dialled or joined, or if its connection is lost.
    pub fn has_agent(&self) -> Result<(), Refusal> {
        let refused = |why| Err(Refusal::new(RefusalCode::NoAgent, why));
        match &*self.agent.borrow() {
            None => refused("no agent is on the line"),
            Some(agent) if agent.is_away() => refused(
                "the agent's connection is lost and it is dialled again: wait for call.agent_rejoined, or connect another",
            ),
            Some(_) => Ok(()),
        }
    }

    /// Whether the agent's sound is attached.
    pub fn has_audible_agent(&self) -> bool {
        self.agent.borrow().as_ref().is_some_and(|agent| agent.sound().is_some())
    }

    pub fn tell_agent(&self, notice: Notice) {
        if let Some(agent) = &*self.agent.borrow() {
            agent.tell(notice);
        }
    }

    /// Sound waits for the agent.
    pub fn wake_agent(&self) {
        if let Some(agent) = &*self.agent.borrow() {
            agent.has_output();
        }
    }

    /// A frame waits for everyone but the agent: the mixer has one for them in every 20 ms.
    pub fn wake_others(&self) {
        self.participants.borrow().iter().chain(&*self.successor.borrow()).for_each(|slot| slot.has_output());
    }

    /// The slot of a speaker, if there is one.
    pub fn of(&self, speaker: Speaker) -> Option<Rc<AgentSlot>> {
        match speaker {
            Speaker::Agent => self.agent.borrow().clone(),
            Speaker::Participant(_) => {
                let (participants, successor) = (self.participants.borrow(), self.successor.borrow());
                participants.iter().chain(&*successor).find(|slot| slot.speaker() == speaker).cloned()
            }
        }
    }

    /// The session drops an agent, or successor, before it dials the next one.
    fn add(&self, slot: Rc<AgentSlot>) {
        let replaced = match (slot.user(), slot.speaker()) {
            (PortUser::Agent { .. }, Speaker::Agent) => self.agent.replace(Some(slot)),
            (PortUser::Agent { .. }, Speaker::Participant(_)) => self.successor.replace(Some(slot)),
            (PortUser::Participant(_), _) => {
                self.participants.borrow_mut().push(slot);
                None
            }
        };
        replaced.iter().for_each(|slot| slot.dismiss("replaced"));
    }

    /// Takes out the agent and the successor: that of `attempt`, or both.
    fn take_agents(&self, attempt: Option<Attempt>) -> impl Iterator<Item = Rc<AgentSlot>> {
        let is_meant =
            |slot: &mut Rc<AgentSlot>| attempt.is_none_or(|attempt| slot.user() == PortUser::Agent { attempt });
        let taken = [&self.agent, &self.successor].map(|place| place.borrow_mut().take_if(is_meant));
        taken.into_iter().flatten()
    }

    /// Takes out participants: this one, or all.
    fn take_participants(&self, id: Option<ParticipantId>) -> Vec<Rc<AgentSlot>> {
        let is_meant = |slot: &mut Rc<AgentSlot>| id.is_none_or(|id| slot.user() == PortUser::Participant(id));
        self.participants.borrow_mut().extract_if(.., is_meant).collect()
    }
}

impl CallMedia {
    /// Makes a slot for an agent or a participant; an earlier agent must have left.
    pub(crate) fn add_agent(&self, user: PortUser, speaker: Speaker) -> Rc<AgentSlot> {
        let slot = Rc::new(AgentSlot::new(user, speaker));
        if self.stage.is_accepted.get() && (speaker == Speaker::Agent || matches!(user, PortUser::Participant(_))) {
            // It is sent after `Start`, with which every connection begins.
            slot.tell(Notice::Accepted);
        }
        self.agents.add(slot.clone());
        slot
    }

    /// Tells the agent of `attempt`, or any, to leave, and silences it at once.
    pub(crate) fn drop_agent(&self, attempt: Option<Attempt>, reason: &'static str) {
        for slot in self.agents.take_agents(attempt) {
            self.bridge.borrow_mut().detach(slot.speaker());
            slot.dismiss(reason);
        }
    }

    /// Sends participants away: this one, or all. Says whether there was one.
    pub(crate) fn drop_participants(&self, id: Option<ParticipantId>, reason: &'static str) -> bool {
        let leaving = self.agents.take_participants(id);
        for slot in &leaving {
            self.bridge.borrow_mut().detach(slot.speaker());
            slot.dismiss(reason);
        }
        !leaving.is_empty()
    }

    /// The successor takes over; an earlier agent has left.
    pub(crate) fn promote(&self, attempt: Attempt) {
        let is_meant = |slot: &mut Rc<AgentSlot>| slot.user() == PortUser::Agent { attempt };
        let Some(slot) = self.agents.successor.borrow_mut().take_if(is_meant) else { return };
        let before = (slot.speaker(), slot.sound());
        slot.become_agent();
        if let (Speaker::Participant(id), Some(sound)) = before {
            let promoted = self.bridge.borrow_mut().promote(id, sound, clock::now());
            if let Err(error) = promoted {
                slot.tell(Notice::Error { code: ErrorCode::SoundUnavailable, message: error.to_string() });
            }
        }
        slot.tell(Notice::Accepted);
        self.agents.add(slot);
        self.settle();
    }

    /// Answers the command of an agent.
    pub(crate) fn answer_agent(&self, attempt: Attempt, request_id: Value, outcome: Result<CommandResult, Refusal>) {
        let (agent, successor) = (self.agents.agent.borrow(), self.agents.successor.borrow());
        let is_meant = |slot: &&Rc<AgentSlot>| slot.user() == PortUser::Agent { attempt };
        if let Some(slot) = agent.iter().chain(&*successor).find(is_meant) {
            slot.command_answered();
            slot.tell(Notice::CommandResult { request_id, outcome });
        }
    }

    pub(crate) fn tell_agent(&self, notice: Notice) {
        self.agents.tell_agent(notice);
    }

    fn worker(&self) -> Result<Rc<Worker>, Refusal> {
        let stops = || Refusal::new(RefusalCode::ShuttingDown, "the service stops");
        self.services.worker.upgrade().ok_or_else(stops)
    }

    /// A participant has left, or could not be reached.
    fn participant_left(&self, participant: ParticipantId, failure: Option<AgentFailure>) {
        let reason = failure.as_ref().map_or("left", |failure| failure.kind.name());
        self.drop_participants(Some(participant), reason);
        let (detail, sip_code) = failure.map_or((None, None), |failure| (failure.detail, failure.sip_code));
        self.report(Report::ParticipantLeft { participant, reason, detail, sip_code });
    }
}

impl PortHost for CallMedia {
    fn call_id(&self) -> &CallId {
        &self.options.call
    }

    fn description(&self) -> &CallDescription {
        self.description()
    }

    fn pulse(&self) -> &Arc<Pulse> {
        &self.services.pulse
    }

    fn bridge(&self) -> &RefCell<Bridge> {
        &self.bridge
    }

    fn settle(&self) {
        self.settle();
    }

    fn browser(&self, id: BrowserId) -> Option<Rc<BrowserLeg>> {
        self.browser_leg(id)
    }

    fn offer_browser(self: Rc<Self>) -> Result<(BrowserId, String), Refusal> {
        self.worker()?.offer_browser(&self)
    }

    fn accept_answer(self: Rc<Self>, id: BrowserId, answer: &Answer) -> Result<(), Refusal> {
        self.worker()?.accept_answer(&self, id, answer)
    }

    fn answer_browser(self: Rc<Self>, offer: &Offer) -> Result<(BrowserId, String), Refusal> {
        self.worker()?.answer_phone(&self, offer)
    }

    fn answer_again(self: Rc<Self>, id: BrowserId, offer: &Offer) -> Result<String, Refusal> {
        self.worker()?.answer_again(&self, id, offer)
    }

    fn release_browser(&self, id: BrowserId) {
        self.remove_browser(id, clock::now());
    }

    fn open_phone(self: Rc<Self>) -> Result<Rc<PhoneLine>, AgentFailure> {
        let worker = self.services.worker.upgrade();
        let worker = worker.ok_or_else(|| AgentFailureKind::Refused.because("the service is stopping"))?;
        worker.open_phone(&self)
    }

    fn release_phone(&self, id: PhoneId) {
        self.remove_phone(id, clock::now());
    }

    fn perform(self: Rc<Self>, command: SoundCommand, owner: Owner) -> Result<CommandResult, Refusal> {
        Self::perform(&self, command, owner)
    }

    fn is_accepted(&self) -> bool {
        self.stage.is_accepted.get()
    }

    fn prompts(&self) -> &PromptLibrary {
        &self.services.prompts
    }

    fn play_prompts(self: Rc<Self>, prompts: Vec<Prompt>, repeat: Repeat) -> Result<u64, Refusal> {
        self.heard()?;
        let id = Self::play_prompts(&self, prompts, repeat, Owner::Agent);
        self.settle();
        Ok(id)
    }

    fn gather_keys(self: Rc<Self>, options: GatherOptions, prompts: Vec<Prompt>) -> Result<u64, Refusal> {
        self.heard()?;
        let id = Self::gather_keys(&self, options, false, prompts, Owner::Agent);
        self.settle();
        Ok(id)
    }

    fn invite(self: Rc<Self>, target: AgentTarget) -> Result<u32, Refusal> {
        self.heard()?;
        let invited = self.invite_target(target, Role::Join);
        self.settle();
        invited
    }

    fn report(&self, user: PortUser, report: PortReport) {
        match (user, report) {
            (PortUser::Agent { attempt }, PortReport::Joined) => self.report(Report::AgentJoined { attempt }),
            (PortUser::Agent { attempt }, PortReport::HungUp) => self.report(Report::AgentHungUp { attempt }),
            (PortUser::Agent { attempt }, PortReport::Interrupted { failure, back_within }) => {
                self.report(Report::AgentInterrupted { attempt, failure, back_within });
            }
            (PortUser::Agent { attempt }, PortReport::Failed(failure)) => {
                self.report(Report::AgentFailed { attempt, failure });
            }
            (PortUser::Agent { attempt }, PortReport::Used(tokens)) => {
                self.report(Report::ModelUsed { attempt, tokens });
            }
            (PortUser::Agent { .. }, PortReport::EventsWanted) => self.report(Report::EventsWanted),
            (PortUser::Agent { attempt }, PortReport::Command { request_id, command }) => {
                self.report(Report::Asked { attempt, request_id, command });
            }
            (PortUser::Participant(participant), PortReport::Joined) => {
                self.report(Report::ParticipantJoined { participant });
            }
            (PortUser::Participant(participant), PortReport::HungUp) => {
                self.participant_left(participant, None);
            }
            (PortUser::Participant(participant), PortReport::Failed(failure)) => {
                self.participant_left(participant, Some(failure));
            }
            // The port refuses them itself, and a lost participant is not dialled again.
            (
                PortUser::Participant(_),
                PortReport::EventsWanted
                | PortReport::Command { .. }
                | PortReport::Used(_)
                | PortReport::Interrupted { .. },
            ) => {}
        }
    }

    fn task_panicked(&self) {
        self.end_broken();
    }
}
