//! A seat: whoever talks on a socket about one call, and the messages that wait for its task.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use patchcord_media::bridge::{Party, PartySound};
use patchcord_media::mixer::GuestId;
use patchcord_media::source::{MAX_MARK_BYTES, MAX_MARKS};
use tokio::sync::{Notify, oneshot};

use crate::agent::native::ToAgent;
use crate::call::Attempt;

/// Messages waiting for a task, and what they hold together: all marks at once and more. Nobody is listened to while
/// half of either waits; what is told all the same, such as events, pushes the oldest out.
const MESSAGES: usize = 2 * MAX_MARKS;
const MESSAGE_BYTES: usize = 4 * MAX_MARK_BYTES;

/// Commands of one agent that wait for the call's answer; one more is refused.
const ASKING_AT_MOST: u32 = 16;

/// Who sits there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// The agent dialled as this attempt.
    Agent { attempt: Attempt },
    /// A third party.
    Guest(GuestId),
}

/// What the leg and the task of a socket share.
pub(crate) struct Seat {
    who: Who,
    /// An agent that is to take over from another is a third party until it does.
    party: Cell<Party>,
    sound: Cell<Option<PartySound>>,
    /// Its commands that the call has not answered yet.
    asking: Cell<u32>,
    listens: Cell<bool>,
    /// As JSON, so that what they hold is known.
    messages: RefCell<VecDeque<String>>,
    message_bytes: Cell<usize>,
    /// Something waits for the task: sound in the bridge, or a message here.
    mail: Notify,
    /// Its queue of sound, or ours of messages, has room again.
    room: Notify,
}

/// A seat that is taken, and the word to leave it.
pub(super) struct Taken {
    pub seat: Rc<Seat>,
    pub leave: oneshot::Sender<&'static str>,
}

impl Seat {
    pub(super) fn new(who: Who, party: Party) -> Self {
        Self {
            who,
            party: Cell::new(party),
            sound: Cell::new(None),
            asking: Cell::new(0),
            listens: Cell::new(false),
            messages: RefCell::default(),
            message_bytes: Cell::default(),
            mail: Notify::new(),
            room: Notify::new(),
        }
    }

    /// As whom the bridge knows it at present.
    pub(crate) fn party(&self) -> Party {
        self.party.get()
    }

    /// It has the caller from now on.
    pub(super) fn become_agent(&self) {
        self.party.set(Party::Agent);
    }

    /// What it speaks and hears, once it does.
    pub(crate) fn sound(&self) -> Option<PartySound> {
        self.sound.get()
    }

    pub(crate) fn speaks(&self, sound: PartySound) {
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

    pub(crate) fn tell(&self, message: &ToAgent) {
        let message = message.to_json();
        while self.messages.borrow().len() >= MESSAGES || self.message_bytes.get() + message.len() > MESSAGE_BYTES {
            if self.next_message().is_none() {
                break;
            }
            metrics::counter!("patchcord_agent_messages_dropped_total").increment(1);
        }
        self.message_bytes.set(self.message_bytes.get() + message.len());
        self.messages.borrow_mut().push_back(message);
        self.mail.notify_one();
    }

    pub(super) fn has_mail(&self) {
        self.mail.notify_one();
    }

    pub(super) fn has_room(&self) {
        self.room.notify_one();
    }

    /// The oldest message that waits, as JSON.
    pub(crate) fn next_message(&self) -> Option<String> {
        let message = self.messages.borrow_mut().pop_front()?;
        self.message_bytes.set(self.message_bytes.get() - message.len());
        self.room.notify_one();
        Some(message)
    }

    /// Whether it is to read before it says more, since that may need an answer.
    pub(crate) fn is_to_read_first(&self) -> bool {
        self.messages.borrow().len() > MESSAGES / 2 || self.message_bytes.get() > MESSAGE_BYTES / 2
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(seat: &Seat, request_id: &Value) {
        seat.tell(&ToAgent::result(request_id.clone(), Ok(Value::Null)));
    }

    #[test]
    fn messages_are_bounded_in_number_and_the_oldest_goes() {
        let seat = Seat::new(Who::Agent { attempt: Attempt::new(0) }, Party::Agent);
        for number in 0..MESSAGES + 3 {
            told(&seat, &json!(number));
        }
        let first: Value = serde_json::from_str(&seat.next_message().unwrap()).unwrap();
        assert_eq!(first["request_id"], 3);
        assert_eq!(std::iter::from_fn(|| seat.next_message()).count(), MESSAGES - 1);
    }

    #[test]
    fn messages_are_bounded_by_what_they_hold() {
        let seat = Seat::new(Who::Agent { attempt: Attempt::new(0) }, Party::Agent);
        let half = "x".repeat(MESSAGE_BYTES / 2);
        for number in 0..3 {
            told(&seat, &json!([number, half]));
        }
        told(&seat, &json!("short"));
        // Two halves and what stands around them are too much already.
        let waiting: Vec<Value> =
            std::iter::from_fn(|| seat.next_message()).map(|message| serde_json::from_str(&message).unwrap()).collect();
        assert_eq!(
            waiting.iter().map(|message| &message["request_id"][0]).collect::<Vec<_>>(),
            [&json!(2), &Value::Null]
        );
        // One alone is taken whatever it holds, and leaves no debt.
        told(&seat, &json!("x".repeat(MESSAGE_BYTES)));
        assert!(seat.next_message().is_some());
        assert_eq!(seat.message_bytes.get(), 0);
    }
}
