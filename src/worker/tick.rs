//! The worker's tick: every call has its moment in every 20 ms.
//!
//! Calls are spread over slots, so that packets leave evenly and no call waits for all others. A call that still
//! connects is visited in every slot: its ICE checks and DTLS flights are due when they are due, and the caller waits.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::leg::Leg;
use super::slots::Slots;

const SLOTS: usize = 10;
/// 20 ms divided by the number of slots.
pub(super) const SLOT: Duration = Duration::from_millis(2);

/// The calls by their slots.
pub(crate) struct Tick {
    slots: RefCell<[Vec<Rc<Leg>>; SLOTS]>,
    connecting: RefCell<Vec<Rc<Leg>>>,
    wake: Notify,
}

impl Tick {
    pub fn new() -> Self {
        Self { slots: RefCell::default(), connecting: RefCell::default(), wake: Notify::new() }
    }

    /// Puts a call into the emptiest slot.
    pub fn add(&self, leg: Rc<Leg>) {
        self.connecting.borrow_mut().push(leg.clone());
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = slots.iter_mut().min_by_key(|slot| slot.len()) {
            slot.push(leg);
        }
        self.wake.notify_one();
    }

    pub fn remove(&self, leg: &Rc<Leg>) {
        self.connecting.borrow_mut().retain(|other| !Rc::ptr_eq(other, leg));
        for slot in self.slots.borrow_mut().iter_mut() {
            slot.retain(|other| !Rc::ptr_eq(other, leg));
        }
    }

    fn is_idle(&self) -> bool {
        self.slots.borrow().iter().all(Vec::is_empty)
    }

    /// Visits the calls for ever; stands still while there are none.
    pub async fn run(&self, mut slots: Slots) -> io::Result<Infallible> {
        loop {
            while self.is_idle() {
                self.wake.notified().await;
            }
            slots.start()?;
            self.run_until_idle(&mut slots).await?;
            slots.stop()?;
        }
    }

    async fn run_until_idle(&self, slots: &mut Slots) -> io::Result<()> {
        let mut slot = 0;
        while slot != 0 || !self.is_idle() {
            // After a stall each call is visited once; it knows how many frames it owes.
            let (due, left_out) = slots.next(SLOTS as u64).await?;
            slot = (slot + left_out as usize) % SLOTS;
            // The moment is the slot's own. By the clock, which is late by more and by less, a call whose frames fall
            // due just where its slot lies would at times be found too early for one and then owe two at once.
            self.visit(slot, due);
            slot = (slot + 1) % SLOTS;
        }
        Ok(())
    }

    fn visit(&self, slot: usize, now: Instant) {
        let slots = self.slots.borrow();
        for leg in &slots[slot] {
            leg.visit(now);
        }
        self.connecting.borrow_mut().retain(|leg| {
            leg.visit(now);
            leg.is_connecting()
        });
    }
}
