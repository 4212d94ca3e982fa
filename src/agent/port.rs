//! AgentPort: all that an agent may see and do of its call, however the agent is reached.
//!
//! The port is used by the agent's task, on the worker's thread that owns the call, and by no one else. The call is
//! behind [`PortHost`]; the two share an [`AgentSlot`].

mod slot;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use patchcord_media::bridge::{AudioFormat, Bridge, Speaker};
use patchcord_media::gather::GatherOptions;
use patchcord_media::opus::{Profile, SampleRate};
use patchcord_media::prompt::{Prompt, Repeat};
use patchcord_media::sdp::{Answer, Offer};
use patchcord_media::source::{Cleared, Room};
use serde_json::{Value, json};

use super::browser::{BrowserId, BrowserLeg};
use super::notice::{ErrorCode, Notice};
use super::sip::{PhoneId, PhoneLine};
use super::{AgentTarget, Encoding, SoundFormat};
use crate::call::agent_failure::AgentFailure;
use crate::call::command::{CallCommand, CommandResult, CourseCommand, Dismiss, Owner, SoundCommand};
use crate::call::description::CallDescription;
use crate::call::event::CallId;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::call::usage::Tokens;
use crate::clock;
use crate::prompts::PromptLibrary;
use crate::pulse::{Pulse, Standstills};

pub(crate) use slot::{AgentSlot, PortUser};

/// The call behind a port.
pub(crate) trait PortHost {
    fn call_id(&self) -> &CallId;

    fn description(&self) -> &CallDescription;

    /// The pulse of the thread.
    fn pulse(&self) -> &Arc<Pulse>;

    /// The call's sound. Borrowed between two awaits only, and followed by [`settle`](Self::settle).
    fn bridge(&self) -> &RefCell<Bridge>;

    /// Sends and reports what the bridge has ready.
    fn settle(&self);

    /// The leg of a page, if it still exists.
    fn browser(&self, id: BrowserId) -> Option<Rc<BrowserLeg>>;

    /// Makes a leg that offers; gives its SDP.
    fn offer_browser(self: Rc<Self>) -> Result<(BrowserId, String), Refusal>;

    /// The remote's answer to that.
    fn accept_answer(self: Rc<Self>, id: BrowserId, answer: &Answer) -> Result<(), Refusal>;

    /// Makes a leg for this offer; gives our answer.
    fn answer_browser(self: Rc<Self>, offer: &Offer) -> Result<(BrowserId, String), Refusal>;

    /// Answers a later offer of the remote.
    fn answer_again(self: Rc<Self>, id: BrowserId, offer: &Offer) -> Result<String, Refusal>;

    /// The leg of a page is not used any more: closes it.
    fn release_browser(&self, id: BrowserId);

    /// A network end for a SIP phone.
    fn open_phone(self: Rc<Self>) -> Result<Rc<PhoneLine>, AgentFailure>;

    /// The network end of a SIP phone is not used any more.
    fn release_phone(&self, id: PhoneId);

    /// Performs a command on the call's sound.
    fn perform(self: Rc<Self>, command: SoundCommand, owner: Owner) -> Result<CommandResult, Refusal>;

    /// Whether the call was accepted.
    fn is_accepted(&self) -> bool;

    /// The prompts by name.
    fn prompts(&self) -> &PromptLibrary;

    /// Plays prompts for the agent; gives the id of the playback.
    fn play_prompts(self: Rc<Self>, prompts: Vec<Prompt>, repeat: Repeat) -> Result<u64, Refusal>;

    /// Plays prompts and collects keys for the agent; gives the id of the gather.
    fn gather_keys(self: Rc<Self>, options: GatherOptions, prompts: Vec<Prompt>) -> Result<u64, Refusal>;

    /// Dials a participant that everybody hears.
    fn invite(self: Rc<Self>, target: AgentTarget) -> Result<u32, Refusal>;

    /// Takes a report of the port's user.
    fn report(&self, user: PortUser, report: PortReport);

    /// Ends the call, because the task of a port panicked.
    fn task_panicked(&self);
}

/// What a call learns from a port.
#[derive(Debug)]
pub(crate) enum PortReport {
    /// The agent is listening.
    Joined,
    /// The agent hung up.
    HungUp,
    /// The connection broke, and is tried again for `back_within` at most. `Joined` or `Failed` follows.
    Interrupted { failure: AgentFailure, back_within: Duration },
    /// The agent could not be reached, or is lost.
    Failed(AgentFailure),
    /// The agent wants all events of the call.
    EventsWanted,
    /// The model has used this for a response.
    Used(Tokens),
    /// The agent gives a command that the call decides. The answer comes as [`Notice::CommandResult`].
    Command { request_id: Value, command: CourseCommand },
}

/// One agent's or participant's access to its call.
pub(crate) struct AgentPort {
    host: Rc<dyn PortHost>,
    slot: Rc<AgentSlot>,
    /// How much of the agent's sound is queued.
    max_buffer: Duration,
    /// Gets the reports instead of the call.
    listener: Option<Rc<dyn Fn(PortReport)>>,
}

/// The course of the connection.
impl AgentPort {
    pub fn new(host: Rc<dyn PortHost>, slot: Rc<AgentSlot>, max_buffer: Duration) -> Self {
        Self { host, slot, max_buffer, listener: None }
    }

    /// The same port for a connection that is only a part of the agent: its reports go to `listener`.
    pub fn reporting_to(&self, listener: Rc<dyn Fn(PortReport)>) -> Self {
        let (host, slot) = (self.host.clone(), self.slot.clone());
        Self { host, slot, max_buffer: self.max_buffer, listener: Some(listener) }
    }

    /// Whether the call was accepted.
    pub fn is_accepted(&self) -> bool {
        self.host.is_accepted()
    }

    /// Whether the caller hears us: the call was accepted, and no other agent has it.
    pub fn has_accepted_caller(&self) -> bool {
        self.host.is_accepted() && self.has_caller()
    }

    /// Whether the call has no more use for the agent.
    pub fn is_dismissed(&self) -> bool {
        self.dismissed().now_or_never().is_some()
    }

    pub fn call_id(&self) -> &CallId {
        self.host.call_id()
    }

    pub fn description(&self) -> &CallDescription {
        self.host.description()
    }

    /// Who calls whom, as apps are told: personal, for requests to the operator's own apps.
    pub fn facts(&self) -> Value {
        let CallDescription { wacid, direction, user, number } = self.description();
        json!({
            "call_id": self.call_id(),
            "wacid": wacid,
            "direction": direction.name(),
            "from": { "wa_id": user.wa_id, "user_id": user.user_id, "name": user.name },
            "to": {
                "phone_number_id": number.phone_number_id,
                "display_phone_number": number.display_phone_number,
            },
        })
    }

    pub fn user(&self) -> PortUser {
        self.slot.user()
    }

    pub fn max_buffer(&self) -> Duration {
        self.max_buffer
    }

    /// The standstills of this thread from now on. They count against no agent.
    pub fn standstills(&self) -> Standstills {
        Standstills::of(self.host.pulse(), clock::now())
    }

    /// The agent is listening.
    pub fn joined(&self) {
        self.report(PortReport::Joined);
    }

    /// The agent could not be reached, or is lost.
    pub fn failed(&self, failure: AgentFailure) {
        self.report(PortReport::Failed(failure));
    }

    /// The model's vendor reports this for a response.
    pub fn used(&self, tokens: Tokens) {
        self.report(PortReport::Used(tokens));
    }

    /// The connection broke, and is tried again for `back_within` at most. The caller hears nothing of the agent from now
    /// on; what was queued is dropped. Gives how much that was, and how much of the agent's last utterance was heard.
    pub fn interrupted(&self, failure: AgentFailure, back_within: Duration) -> Cleared {
        // Settled in between, so that its marks are reported.
        let cleared = self.with_bridge(|bridge, speaker| bridge.clear(speaker));
        self.with_bridge(|bridge, speaker| bridge.detach(speaker));
        self.slot.lose_sound();
        self.report(PortReport::Interrupted { failure, back_within });
        cleared
    }

    /// The agent hung up. Gives the reason of its `Stop` notice.
    pub fn hung_up(&self) -> &'static str {
        self.report(PortReport::HungUp);
        match self.user() {
            PortUser::Agent { .. } => "agent_hung_up",
            PortUser::Participant(_) => "left",
        }
    }

    /// Waits until the call has no more use for the agent; gives the reason.
    pub async fn dismissed(&self) -> &'static str {
        self.slot.dismissed().await
    }

    /// The leg of a page, if it still exists.
    pub fn browser(&self, id: BrowserId) -> Option<Rc<BrowserLeg>> {
        self.host.browser(id)
    }

    /// Makes a leg that offers; gives its SDP. It must be released.
    pub fn offer_browser(&self) -> Result<(BrowserId, String), Refusal> {
        self.host.clone().offer_browser()
    }

    /// The remote's answer to that.
    pub fn accept_answer(&self, id: BrowserId, answer: &Answer) -> Result<(), Refusal> {
        self.host.clone().accept_answer(id, answer)
    }

    /// Makes a leg for this offer; gives our answer. It must be released.
    pub fn answer_browser(&self, offer: &Offer) -> Result<(BrowserId, String), Refusal> {
        self.host.clone().answer_browser(offer)
    }

    /// Answers a later offer of the remote, within its connection.
    pub fn answer_again(&self, id: BrowserId, offer: &Offer) -> Result<String, Refusal> {
        self.host.clone().answer_again(id, offer)
    }

    /// The leg of a page is not used any more: closes it.
    pub fn release_browser(&self, id: BrowserId) {
        self.host.release_browser(id);
    }

    /// A network end for a SIP phone.
    pub fn open_phone(&self) -> Result<Rc<PhoneLine>, AgentFailure> {
        self.host.clone().open_phone()
    }

    /// The network end of a SIP phone is not used any more.
    pub fn release_phone(&self, id: PhoneId) {
        self.host.release_phone(id);
    }

    /// The agent's task panicked.
    pub fn task_panicked(&self) {
        self.host.task_panicked();
    }

    fn report(&self, report: PortReport) {
        match &self.listener {
            Some(listener) => listener(report),
            None => self.host.report(self.user(), report),
        }
    }
}

/// Sound and notices for the agent.
impl AgentPort {
    /// Waits until sound or a notice may be ready for the agent.
    pub async fn output(&self) {
        self.slot.output().await;
    }

    /// The oldest notice that waits.
    pub fn next_notice(&self) -> Option<Notice> {
        self.slot.next_notice()
    }

    /// The next 20 ms of PCM, or Opus packet, that the agent has not received.
    pub fn next_sound(&self) -> Option<Bytes> {
        self.host.bridge().borrow_mut().take_audio(self.slot.speaker())
    }

    /// How much sound was dropped since the last call because the agent took it too slowly.
    pub fn take_missed_sound(&self) -> Duration {
        self.ask_bridge(Bridge::take_missed)
    }

    /// Puts a notice behind those that wait.
    pub fn keep(&self, notice: Notice) {
        self.slot.tell(notice);
    }

    /// Waits until the agent has read most of its notices: what it sends may need an answer.
    pub async fn notices_read(&self) {
        while self.slot.must_read_notices() {
            self.slot.room().await;
        }
    }

    /// Whether the agent is not read until it has read its notices.
    pub fn must_read_notices(&self) -> bool {
        self.slot.must_read_notices()
    }

    /// Tells the agent that what it sent cannot be used.
    pub fn complain(&self, code: ErrorCode, message: String) {
        metrics::counter!("patchcord_agent_mistakes_total", "code" => code.name()).increment(1);
        self.slot.tell(Notice::Error { code, message });
    }
}

/// Prompts and people, for an agent that has no voice of its own.
impl AgentPort {
    /// The prompts by name.
    pub fn prompts(&self) -> &PromptLibrary {
        self.host.prompts()
    }

    /// Plays prompts, once or until they are stopped; gives the id of the playback. It ends with an event.
    pub fn play(&self, prompts: Vec<Prompt>, repeats: bool) -> Result<u64, Refusal> {
        self.host.clone().play_prompts(prompts, if repeats { Repeat::Loop } else { Repeat::Once })
    }

    /// Stops the playback, if there is one.
    pub fn stop_playback(&self) {
        // It may have ended by itself.
        let _ = self.host.clone().perform(SoundCommand::StopPlayback, Owner::Agent);
    }

    /// Plays prompts and collects keys; gives the id of the gather. It ends with an event.
    pub fn gather(&self, options: GatherOptions, prompts: Vec<Prompt>) -> Result<u64, Refusal> {
        self.host.clone().gather_keys(options, prompts)
    }

    /// Dials a participant that everybody hears; gives its id. Events tell of it.
    pub fn invite(&self, target: AgentTarget) -> Result<u32, Refusal> {
        self.host.clone().invite(target)
    }

    /// Sends a participant away.
    pub fn dismiss(&self, participant: u32) {
        // It may have left by itself.
        let _ = self.host.clone().perform(SoundCommand::Dismiss(Dismiss { guest_id: participant }), Owner::Agent);
    }

    /// What plays in place of an agent ends: the caller hears silence until something is played. An agent that is to take
    /// over from another does it again then.
    pub fn take_the_line(&self) {
        self.attach(SoundFormat { encoding: Encoding::Opus, sample_rate: SampleRate::Hz48000 }, Profile::Eco);
        if self.has_caller() {
            self.detach();
        }
    }

    /// The agent is silent and hears nothing until it is attached again.
    pub fn detach(&self) {
        self.with_bridge(|bridge, speaker| bridge.detach(speaker));
    }
}

/// Sound of the agent.
impl AgentPort {
    /// The agent's sound is in this format, in both directions, and its PCM is encoded for the caller with `profile`.
    /// Before this it is not heard and hears nothing.
    pub fn attach(&self, format: SoundFormat, profile: Profile) {
        let sound = self.set_format(format, profile);
        let max_buffer = self.max_buffer;
        if let Err(error) = self.with_bridge(|bridge, speaker| bridge.attach(speaker, sound, max_buffer, clock::now()))
        {
            self.complain(ErrorCode::SoundUnavailable, error.to_string());
        }
    }

    /// Changes the format. The caller still hears what the agent has said already, as long as not too many formats wait.
    pub fn change_format(&self, format: SoundFormat, profile: Profile) {
        let sound = self.set_format(format, profile);
        match self.with_bridge(|bridge, speaker| bridge.change_format(speaker, sound, clock::now())) {
            Ok(Duration::ZERO) => {}
            Ok(dropped) => {
                let dropped_ms = dropped.as_millis();
                let advice = "wait until your queued sound is played before you change its format again";
                self.complain(ErrorCode::SoundDropped, format!("{dropped_ms} ms of your sound were dropped: {advice}"));
            }
            Err(error) => self.complain(ErrorCode::SoundUnavailable, error.to_string()),
        }
    }

    /// Waits while the queue is full; a transport that has nothing but sound is not read meanwhile.
    pub async fn back_pressure(&self) {
        while self.is_full() {
            self.slot.room().await;
        }
    }

    /// Whether the agent has gone on for so long after `Xoff` that no more of its sound is taken.
    pub fn refuses(&self) -> bool {
        self.ask_bridge(|bridge, speaker| bridge.refuses(speaker))
    }

    /// Queues PCM of any length, or one Opus packet, that arrived at `now`. [`back_pressure`](Self::back_pressure) comes
    /// first, or [`refuses`](Self::refuses).
    pub fn say(&self, sound: Bytes, now: Instant) {
        let (was_full, said) = self.with_bridge(|bridge, speaker| {
            (bridge.room(speaker) == Room::Full, bridge.push_audio(speaker, sound, now))
        });
        match said {
            // The call sends `Xon` when there is room again.
            Ok(Room::Full) if !was_full => self.slot.tell(Notice::Xoff { queued_ms: self.queued().as_millis() as u64 }),
            Ok(Room::Free | Room::Full) => {}
            Err(error) => self.complain(ErrorCode::BadSound, error.to_string()),
        }
    }

    /// Whether the agent's queue is full, which it was told.
    pub fn is_full(&self) -> bool {
        self.ask_bridge(|bridge, speaker| bridge.room(speaker)) == Room::Full
    }

    /// Sends a `Mark` notice when all sound so far was heard.
    pub fn mark(&self, name: String) {
        if let Err(error) = self.with_bridge(|bridge, speaker| bridge.mark(speaker, name)) {
            self.complain(ErrorCode::TooManyMarks, error.to_string());
        }
    }

    /// Drops what the caller has not heard.
    pub fn clear(&self) {
        let cleared = self.with_bridge(|bridge, speaker| bridge.clear(speaker));
        self.slot.tell(Notice::Cleared(cleared));
    }

    /// Whether the caller is on hold.
    pub fn is_on_hold(&self) -> bool {
        self.ask_bridge(|bridge, _| bridge.is_held())
    }

    /// Holds the queued sound back.
    pub fn pause(&self) {
        self.with_bridge(|bridge, speaker| bridge.pause(speaker));
    }

    /// Lets the queued sound go on.
    pub fn resume(&self) {
        self.with_bridge(|bridge, speaker| bridge.resume(speaker));
    }

    /// How much of its sound waits to be played.
    pub fn queued(&self) -> Duration {
        self.ask_bridge(|bridge, speaker| bridge.queued(speaker))
    }

    fn set_format(&self, format: SoundFormat, profile: Profile) -> AudioFormat {
        let sound = match format.encoding {
            Encoding::PcmS16le => AudioFormat::Pcm { rate: format.sample_rate, profile },
            Encoding::Opus => AudioFormat::Opus,
        };
        self.slot.set_sound(sound);
        sound
    }

    /// Asks what changes nothing, so that there is nothing to settle: it is asked for every message.
    fn ask_bridge<T>(&self, question: impl FnOnce(&mut Bridge, Speaker) -> T) -> T {
        question(&mut self.host.bridge().borrow_mut(), self.slot.speaker())
    }

    fn with_bridge<T>(&self, work: impl FnOnce(&mut Bridge, Speaker) -> T) -> T {
        let done = work(&mut self.host.bridge().borrow_mut(), self.slot.speaker());
        self.host.settle();
        done
    }
}

/// Requests of the agent.
impl AgentPort {
    /// The agent wants all events of the call. A participant gets none.
    pub fn want_events(&self) {
        if matches!(self.user(), PortUser::Agent { .. }) && self.slot.want_events() {
            self.report(PortReport::EventsWanted);
        }
    }

    /// Performs a command, or passes it on to the call. The outcome comes as [`Notice::CommandResult`].
    pub fn command(&self, request_id: Value, command: Result<CallCommand, Refusal>) {
        let outcome = match command {
            Err(refusal) => Err(refusal),
            Ok(_) if !self.has_caller() => {
                Err(Refusal::new(RefusalCode::NotAllowed, "only the agent that has the caller gives commands"))
            }
            Ok(CallCommand::Sound(command)) => self.host.clone().perform(command, Owner::Agent),
            Ok(CallCommand::Course(command)) if self.slot.begin_command() => {
                return self.report(PortReport::Command { request_id, command });
            }
            Ok(CallCommand::Signal(_)) => {
                Err(Refusal::new(RefusalCode::NotAllowed, "the application reports what happens at Meta, by the API"))
            }
            Ok(CallCommand::Course(_)) => {
                Err(Refusal::new(RefusalCode::TooManyCommands, "wait for the results of the commands before"))
            }
        };
        self.slot.tell(Notice::CommandResult { request_id, outcome });
    }

    /// Whether this is the agent that the caller is put through to.
    pub fn has_caller(&self) -> bool {
        matches!((self.user(), self.slot.speaker()), (PortUser::Agent { .. }, Speaker::Agent))
    }
}
