//! The slot of an agent or participant: what its call and its port share.

use std::cell::{Cell, RefCell};

use patchcord_media::bridge::{AudioFormat, Speaker};
use patchcord_media::mixer::ParticipantId;
use tokio::sync::Notify;

use crate::agent::notice::{Notice, NoticeQueue};
use crate::call::Attempt;

/// Commands of one agent that wait for the call's answer; one more is refused.
const MAX_PENDING_COMMANDS: u32 = 16;

/// Who uses a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortUser {
    /// The agent dialled as this attempt.
    Agent { attempt: Attempt },
    /// A participant.
    Participant(ParticipantId),
}

/// The state that a call and the port of one agent or participant share.
pub(crate) struct AgentSlot {
    user: PortUser,
    /// An agent that is to take over from another is a participant until it does.
    speaker: Cell<Speaker>,
    sound: Cell<Option<AudioFormat>>,
    /// Its connection broke and is tried again.
    is_away: Cell<bool>,
    pending_commands: Cell<u32>,
    wants_events: Cell<bool>,
    notices: RefCell<NoticeQueue>,
    /// Why it has to leave.
    dismissal: Cell<Option<&'static str>>,
    dismissed: Notify,
    /// Sound in the bridge or a notice here waits to be sent.
    output: Notify,
    /// Its queue of sound, or the queue of notices, has room again.
    room: Notify,
}

impl AgentSlot {
    pub fn new(user: PortUser, speaker: Speaker) -> Self {
        Self {
            user,
            speaker: Cell::new(speaker),
            sound: Cell::new(None),
            is_away: Cell::new(false),
            pending_commands: Cell::new(0),
            wants_events: Cell::new(false),
            notices: RefCell::default(),
            dismissal: Cell::new(None),
            dismissed: Notify::new(),
            output: Notify::new(),
            room: Notify::new(),
        }
    }

    pub fn user(&self) -> PortUser {
        self.user
    }

    /// As which speaker the bridge knows it at present.
    pub fn speaker(&self) -> Speaker {
        self.speaker.get()
    }

    /// It has the caller from now on.
    pub fn become_agent(&self) {
        self.speaker.set(Speaker::Agent);
    }

    /// The sound it sends and receives; None until it is attached.
    pub fn sound(&self) -> Option<AudioFormat> {
        self.sound.get()
    }

    /// Whether its connection broke and is tried again.
    pub fn is_away(&self) -> bool {
        self.is_away.get()
    }

    pub fn tell(&self, notice: Notice) {
        self.notices.borrow_mut().push(notice);
        self.output.notify_one();
    }

    /// Tells it to leave. The first reason counts.
    pub fn dismiss(&self, reason: &'static str) {
        if self.dismissal.get().is_none() {
            self.dismissal.set(Some(reason));
        }
        self.dismissed.notify_one();
    }

    /// Sound for it waits in the bridge.
    pub fn has_output(&self) {
        self.output.notify_one();
    }

    /// Its queue of sound has room again.
    pub fn has_room(&self) {
        self.room.notify_one();
    }

    /// The call answered one of its commands.
    pub fn command_answered(&self) {
        self.pending_commands.set(self.pending_commands.get().saturating_sub(1));
    }

    /// Counts a command on its way to the call. False if too many wait already.
    pub(super) fn begin_command(&self) -> bool {
        let pending = self.pending_commands.get();
        if pending < MAX_PENDING_COMMANDS {
            self.pending_commands.set(pending + 1);
        }
        pending < MAX_PENDING_COMMANDS
    }

    /// It wants all events of the call. Says whether that is new.
    pub(super) fn want_events(&self) -> bool {
        !self.wants_events.replace(true)
    }

    pub(super) fn set_sound(&self, sound: AudioFormat) {
        self.sound.set(Some(sound));
        self.is_away.set(false);
    }

    /// It hears nothing and is not heard until it is attached again.
    pub(super) fn lose_sound(&self) {
        self.sound.set(None);
        self.is_away.set(true);
    }

    pub(super) fn next_notice(&self) -> Option<Notice> {
        let notice = self.notices.borrow_mut().pop()?;
        self.room.notify_one();
        Some(notice)
    }

    pub(super) fn must_read_notices(&self) -> bool {
        self.notices.borrow().is_half_full()
    }

    pub(super) async fn output(&self) {
        self.output.notified().await;
    }

    pub(super) async fn room(&self) {
        self.room.notified().await;
    }

    pub(super) async fn dismissed(&self) -> &'static str {
        loop {
            if let Some(reason) = self.dismissal.get() {
                return reason;
            }
            self.dismissed.notified().await;
        }
    }
}
