//! The SIP phones of one call: their network ends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use super::{CallMedia, Transport};
use crate::agent::PhoneId;
use crate::agent::sip::PhoneLine;

/// The phones that are called or talk. At most an agent, its successor and the participants.
#[derive(Default)]
pub(super) struct Phones {
    last_id: Cell<PhoneId>,
    list: RefCell<Vec<Rc<Phone>>>,
}

/// One phone.
pub(in crate::worker) struct Phone {
    pub id: PhoneId,
    pub transport: Rc<Transport>,
    pub line: Rc<PhoneLine>,
}

impl Phones {
    pub fn ids(&self) -> Vec<PhoneId> {
        self.list.borrow().iter().map(|phone| phone.id).collect()
    }

    pub fn find(&self, id: PhoneId) -> Option<Rc<Phone>> {
        self.list.borrow().iter().find(|phone| phone.id == id).cloned()
    }
}

impl CallMedia {
    pub(in crate::worker) fn next_phone_id(&self) -> PhoneId {
        self.phones.last_id.set(self.phones.last_id.get() + 1);
        self.phones.last_id.get()
    }

    pub(in crate::worker) fn add_phone(&self, phone: Phone) {
        self.phones.list.borrow_mut().push(Rc::new(phone));
    }

    /// Forgets a phone. Its port rests before it is used again.
    pub(super) fn remove_phone(&self, id: PhoneId, now: Instant) {
        if let Some(worker) = self.services.worker.upgrade() {
            worker.remove_phone_endpoint(self.call(), id, now);
        }
        self.phones.list.borrow_mut().retain(|phone| phone.id != id);
    }
}
