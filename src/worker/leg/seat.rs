//! A seat: whoever talks on a socket about one call, and the notices that wait for its task.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use patchcord_media::bridge::{AudioFormat, Speaker};
use patchcord_media::mixer::ParticipantId;
use tokio::sync::{Notify, oneshot};

use crate::agent::notice::{Notice, NoticeQueue};
use crate::call::Attempt;

/// Commands of one agent that wait for the call's answer; one more is refused.
const ASKING_AT_MOST: u32 = 16;

/// Who sits there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// The agent dialled as this attempt.
    Agent { attempt: Attempt },
    /// A third party.
    Guest(ParticipantId),
}

/// What the leg and the task of a socket share.
pub(crate) struct Seat {
    who: Who,
    /// An agent that is to take over from another is a third party until it does.
    party: Cell<Speaker>,
    sound: Cell<Option<AudioFormat>>,
    /// Its commands that the call has not answered yet.
    asking: Cell<u32>,
    listens: Cell<bool>,
    notices: RefCell<NoticeQueue>,
    /// Something waits for the task: sound in the bridge, or a notice here.
    mail: Notify,
    /// Its queue of sound, or ours of notices, has room again.
    room: Notify,
}

/// A seat that is taken, and the word to leave it.
pub(super) struct Taken {
    pub seat: Rc<Seat>,
    pub leave: oneshot::Sender<&'static str>,
}

impl Seat {
    pub(super) fn new(who: Who, party: Speaker) -> Self {
        Self {
            who,
            party: Cell::new(party),
            sound: Cell::new(None),
            asking: Cell::new(0),
            listens: Cell::new(false),
            notices: RefCell::default(),
            mail: Notify::new(),
            room: Notify::new(),
        }
    }

    /// As whom the bridge knows it at present.
    pub(crate) fn party(&self) -> Speaker {
        self.party.get()
    }

    /// It has the caller from now on.
    pub(super) fn become_agent(&self) {
        self.party.set(Speaker::Agent);
    }

    /// What it speaks and hears, once it does.
    pub(crate) fn sound(&self) -> Option<AudioFormat> {
        self.sound.get()
    }

    pub(crate) fn speaks(&self, sound: AudioFormat) {
        self.sound.set(Some(sound));
    }

    pub(crate) fn who(&self) -> Who {
        self.who
    }

    /// Whether one more command may go to the call; [`answered`](Self::answered) makes room again.
    pub(crate) fn may_ask(&self) -> bool {
        let asking = self.asking.get();
        if asking < ASKING_AT_MOST {
            self.asking.set(asking + 1);
        }
        asking < ASKING_AT_MOST
    }

    pub(super) fn answered(&self) {
        self.asking.set(self.asking.get().saturating_sub(1));
    }

    /// It wants all events; says whether that is new.
    pub(crate) fn listens(&self) -> bool {
        !self.listens.replace(true)
    }

    pub(crate) fn tell(&self, notice: Notice) {
        self.notices.borrow_mut().push(notice);
        self.mail.notify_one();
    }

    pub(super) fn has_mail(&self) {
        self.mail.notify_one();
    }

    pub(super) fn has_room(&self) {
        self.room.notify_one();
    }

    /// The oldest notice that waits.
    pub(crate) fn next_notice(&self) -> Option<Notice> {
        let notice = self.notices.borrow_mut().pop()?;
        self.room.notify_one();
        Some(notice)
    }

    /// Whether it is to read before it says more, since that may need an answer.
    pub(crate) fn is_to_read_first(&self) -> bool {
        self.notices.borrow().is_half_full()
    }

    /// Waits until something may be waiting for the task.
    pub(crate) async fn mail(&self) {
        self.mail.notified().await;
    }

    /// Waits until a queue may have room.
    pub(crate) async fn room(&self) {
        self.room.notified().await;
    }
}
