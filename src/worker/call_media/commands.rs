//! Commands on a call's audio, and the reports of what they started.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use patchcord_media::bridge::{Bridge, PlaybackId, SendDigitsError, Speaker};
use patchcord_media::dtmf::Key;
use patchcord_media::gather::{GatherOptions, Gathered};
use patchcord_media::mixer::{self, ParticipantId};
use patchcord_media::opus::OpusError;
use patchcord_media::prompt::{Prompt, Repeat};
use patchcord_media::source::DEFAULT_MAX_BUFFER;
use patchcord_media::speech::SpeechEvent;

use super::CallMedia;
use crate::agent::notice::Notice;
use crate::agent::port::PortUser;
use crate::agent::{AgentTarget, Dial};
use crate::call::Attempt;
use crate::call::agent_failure::AgentFailureKind;
use crate::call::command::{
    CommandResult, Dismiss, Gather, Invite, Mute, MuteParty, Owner, Play, Role, SendDtmf, SetRole, SoundCommand,
};
use crate::call::refusal::{Refusal, RefusalCode};
use crate::call::route::BargeIn;
use crate::clock;
use crate::worker::Worker;
use crate::worker::command::Report;

/// What commands have started and not finished.
#[derive(Default)]
pub(super) struct Ongoing {
    /// The last id of a playback, gather or participant.
    last_id: u64,
    /// Who started each playback. One plays; the end of one more may still be unreported.
    playbacks: HashMap<PlaybackId, Owner>,
    gather: Option<OngoingGather>,
    /// Between `protect` and `unprotect`.
    protected: bool,
}

#[derive(Clone, Copy)]
struct OngoingGather {
    id: u64,
    owner: Owner,
    protected: bool,
}

impl CallMedia {
    /// Performs a checked command.
    pub(crate) fn perform(self: &Rc<Self>, command: SoundCommand, owner: Owner) -> Result<CommandResult, Refusal> {
        self.heard()?;
        let done = match command {
            SoundCommand::Hold(hold) => self.hold(&hold.prompts),
            SoundCommand::Unhold => self.unhold(),
            SoundCommand::Mute(Mute { party }) => self.mute(party, true),
            SoundCommand::Unmute(Mute { party }) => self.mute(party, false),
            SoundCommand::Play(play) => self.play(&play, owner),
            SoundCommand::StopPlayback => self.stop_playback(),
            SoundCommand::Gather(gather) => self.gather(&gather, owner),
            SoundCommand::StopGather => self.stop_gather(),
            SoundCommand::SendDtmf(SendDtmf { digits }) => self.send_dtmf(&digits),
            SoundCommand::Protect => self.protect(true),
            SoundCommand::Unprotect => self.protect(false),
            SoundCommand::StartRecording => self.start_recording(),
            SoundCommand::PauseRecording => self.pause_recording(true),
            SoundCommand::ResumeRecording => self.pause_recording(false),
            SoundCommand::StopRecording => self.stop_recording(),
            SoundCommand::Invite(invite) => self.invite(&invite),
            SoundCommand::SetRole(SetRole { guest_id, role }) => self.set_role(guest_id, role),
            SoundCommand::Dismiss(Dismiss { guest_id }) => match self.drop_participants(Some(guest_id), "dismissed") {
                true => Ok(CommandResult::Done),
                false => Err(no_such_participant(guest_id)),
            },
        };
        self.settle();
        done
    }

    /// Refuses what needs a caller who hears us.
    pub(super) fn heard(&self) -> Result<(), Refusal> {
        let advice = "the caller hears nothing yet: wait until the call is accepted";
        match self.stage.is_accepted.get() {
            true => Ok(()),
            false => Err(Refusal::new(RefusalCode::CallNotAccepted, advice)),
        }
    }

    fn play(&self, play: &Play, owner: Owner) -> Result<CommandResult, Refusal> {
        let prompts = self.prompts(&play.prompts)?;
        let repeat = if play.repeat { Repeat::Loop } else { Repeat::Once };
        if play.under_voice {
            self.bridge.borrow_mut().set_music(Some(prompts)).map_err(|error| no_sound(&error))?;
            return Ok(CommandResult::MusicStarted);
        }
        Ok(CommandResult::Playback(self.play_prompts(prompts, repeat, owner)))
    }

    /// Gives the id of the playback.
    pub(super) fn play_prompts(&self, prompts: Vec<Prompt>, repeat: Repeat, owner: Owner) -> PlaybackId {
        let id = self.next_id();
        self.ongoing.borrow_mut().playbacks.insert(id, owner);
        self.bridge.borrow_mut().play(id, prompts, repeat, clock::now());
        id
    }

    fn stop_playback(&self) -> Result<CommandResult, Refusal> {
        let has_music = self.bridge.borrow().has_music();
        if has_music {
            self.bridge.borrow_mut().set_music(None).map_err(|error| no_sound(&error))?;
            return Ok(CommandResult::Done);
        }
        match self.bridge.borrow_mut().stop_playback(clock::now()) {
            true => Ok(CommandResult::Done),
            false => Err(Refusal::new(RefusalCode::NothingPlays, "no prompt is playing")),
        }
    }

    fn gather(&self, gather: &Gather, owner: Owner) -> Result<CommandResult, Refusal> {
        let prompts = self.prompts(&gather.prompts)?;
        Ok(CommandResult::Gather(self.gather_keys(gather.options(), gather.protected, prompts, owner)))
    }

    /// Gives the id of the gather.
    pub(super) fn gather_keys(
        &self,
        options: GatherOptions,
        protected: bool,
        prompts: Vec<Prompt>,
        owner: Owner,
    ) -> u64 {
        // An earlier gather ends first, and is reported to its own owner.
        self.bridge.borrow_mut().stop_gather(clock::now());
        self.settle();
        let id = self.next_id();
        self.ongoing.borrow_mut().gather = Some(OngoingGather { id, owner, protected });
        self.bridge.borrow_mut().mask_recording(self.is_protected());
        self.bridge.borrow_mut().gather(options, prompts, clock::now());
        id
    }

    fn stop_gather(&self) -> Result<CommandResult, Refusal> {
        match self.bridge.borrow_mut().stop_gather(clock::now()) {
            true => Ok(CommandResult::Done),
            false => Err(Refusal::new(RefusalCode::NothingGathers, "no digits are being gathered")),
        }
    }

    fn send_dtmf(&self, digits: &str) -> Result<CommandResult, Refusal> {
        match self.bridge.borrow_mut().send_digits(digits) {
            Ok(()) => Ok(CommandResult::Done),
            Err(error @ SendDigitsError::NotNegotiated) => {
                Err(Refusal::new(RefusalCode::DtmfUnsupported, error.to_string()))
            }
            Err(error @ SendDigitsError::Keys(_)) => Err(Refusal::new(RefusalCode::InvalidCommand, error.to_string())),
        }
    }

    fn protect(&self, protected: bool) -> Result<CommandResult, Refusal> {
        self.ongoing.borrow_mut().protected = protected;
        self.bridge.borrow_mut().mask_recording(self.is_protected());
        Ok(CommandResult::Done)
    }

    fn is_protected(&self) -> bool {
        let ongoing = self.ongoing.borrow();
        ongoing.protected || ongoing.gather.is_some_and(|gather| gather.protected)
    }

    /// Without prompts the caller hears the hold prompt of the route.
    pub(crate) fn hold(&self, prompts: &[String]) -> Result<CommandResult, Refusal> {
        self.agents.has_agent()?;
        let prompts = match prompts {
            // It existed at the start; if it has been removed, the caller hears silence.
            [] => self.services.prompts.get(&self.options.hold).into_iter().collect(),
            names => self.prompts(names)?,
        };
        self.bridge.borrow_mut().hold(prompts).map_err(|error| no_sound(&error))?;
        // At once, so that the session hears of the hold before anything that follows it.
        self.settle();
        Ok(CommandResult::Done)
    }

    pub(crate) fn unhold(&self) -> Result<CommandResult, Refusal> {
        let was_held = self.bridge.borrow_mut().unhold(clock::now());
        self.settle();
        match was_held {
            true => Ok(CommandResult::Done),
            false => Err(Refusal::new(RefusalCode::NotOnHold, "the caller is not on hold")),
        }
    }

    fn mute(&self, party: MuteParty, muted: bool) -> Result<CommandResult, Refusal> {
        self.agents.has_agent()?;
        let mut bridge = self.bridge.borrow_mut();
        match party {
            MuteParty::Agent => bridge.mute_agent(muted),
            MuteParty::Caller => bridge.mute_caller(muted, clock::now()),
        }
        Ok(CommandResult::Done)
    }

    /// Dials a successor of the agent.
    pub(crate) fn dial_beside(self: &Rc<Self>, attempt: Attempt, dial: Dial) {
        let Some(worker) = self.services.worker.upgrade() else { return };
        let id = self.next_id() as ParticipantId;
        match self.bridge.borrow_mut().add_participant(id, mixer::Role::Join, dial.max_buffer) {
            Ok(()) => {}
            Err(error) => {
                let failure = AgentFailureKind::Refused.because(error);
                return self.report(Report::AgentFailed { attempt, failure });
            }
        }
        worker.dial(self, PortUser::Agent { attempt }, Speaker::Participant(id), dial);
    }

    /// Dials a participant. It is heard, and hears, once its socket is open.
    fn invite(self: &Rc<Self>, invite: &Invite) -> Result<CommandResult, Refusal> {
        let worker = self.running_worker()?;
        let route = worker.options.settings.get().routes.get(&invite.route);
        let target = route.and_then(|route| route.first_agent().cloned()).ok_or_else(|| {
            Refusal::new(
                RefusalCode::UnknownRoute,
                format!("there is no route {:?} whose `agent` can be dialled", invite.route),
            )
        })?;
        self.invite_target(target, invite.role).map(CommandResult::Participant)
    }

    /// Dials this participant; gives its id.
    pub(super) fn invite_target(self: &Rc<Self>, target: AgentTarget, role: Role) -> Result<ParticipantId, Refusal> {
        let worker = self.running_worker()?;
        let id = self.add_participant(role.into())?;
        worker.dial(
            self,
            PortUser::Participant(id),
            Speaker::Participant(id),
            Dial { target, max_buffer: DEFAULT_MAX_BUFFER },
        );
        Ok(id)
    }

    fn running_worker(&self) -> Result<Rc<Worker>, Refusal> {
        let unavailable = || Refusal::new(RefusalCode::ShuttingDown, "the service is stopping");
        self.services.worker.upgrade().ok_or_else(unavailable)
    }

    fn set_role(&self, id: ParticipantId, role: Role) -> Result<CommandResult, Refusal> {
        match self.bridge.borrow_mut().set_role(id, role.into()) {
            Ok(()) => Ok(CommandResult::Done),
            Err(_) => Err(no_such_participant(id)),
        }
    }

    fn prompts(&self, names: &[String]) -> Result<Vec<Prompt>, Refusal> {
        let find = |name: &String| {
            let found = self.services.prompts.get(name);
            found.ok_or_else(|| Refusal::new(RefusalCode::UnknownPrompt, format!("there is no prompt named {name:?}")))
        };
        names.iter().map(find).collect()
    }

    pub(super) fn next_id(&self) -> u64 {
        let mut ongoing = self.ongoing.borrow_mut();
        ongoing.last_id += 1;
        ongoing.last_id
    }

    pub(super) fn playback_finished(&self, id: PlaybackId, completed: bool) {
        if let Some(owner) = self.ongoing.borrow_mut().playbacks.remove(&id) {
            self.report(Report::PlaybackFinished { id, owner, completed });
        }
    }

    pub(super) fn gathered(&self, gathered: Gathered, bridge: &mut Bridge) {
        let gather = self.ongoing.borrow_mut().gather.take();
        bridge.mask_recording(self.is_protected());
        if let Some(OngoingGather { id, owner, protected }) = gather {
            self.report(Report::Gathered { id, owner, protected, gathered });
        }
    }

    /// While keys are protected, only the owner of the gather learns them.
    pub(super) fn key_pressed(&self, Key { digit, duration_ms }: Key) {
        let ongoing = self.ongoing.borrow();
        let is_protected = self.is_protected();
        let told = |owner| {
            let is_for_owner = ongoing.gather.is_some_and(|gather| gather.owner == owner);
            (!is_protected || is_for_owner).then_some(digit)
        };
        self.agents.tell_agent(Notice::Dtmf { digit: told(Owner::Agent), duration_ms });
        self.report(Report::Dtmf { digit: told(Owner::App), duration_ms });
    }

    /// The caller started or stopped speaking. If the route says so, the agent's queue is cleared.
    pub(super) fn caller_speaks(&self, event: SpeechEvent, bridge: &mut Bridge) {
        let started = matches!(event, SpeechEvent::Started { .. });
        // On hold the caller does not hear the agent, and so does not interrupt it.
        let interrupts = started && self.options.barge_in == BargeIn::Clear && !bridge.is_held();
        if interrupts && bridge.queued(Speaker::Agent) > Duration::ZERO {
            let cleared = bridge.clear(Speaker::Agent);
            self.agents.tell_agent(Notice::Cleared(cleared));
        }
        self.report(Report::Speech { started });
    }
}

fn no_such_participant(id: ParticipantId) -> Refusal {
    Refusal::new(RefusalCode::UnknownGuest, format!("there is no participant {id}"))
}

fn no_sound(error: &OpusError) -> Refusal {
    Refusal::new(RefusalCode::InternalError, error.to_string())
}

impl From<Role> for mixer::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Listen => Self::Listen,
            Role::Whisper => Self::Whisper,
            Role::Join => Self::Join,
        }
    }
}
