//! The worker's tick: every call is visited once in every 20 ms.
//!
//! Calls are spread over slots, so that packets leave evenly and no call waits for all others. A call that is connecting
//! is visited in every slot: its ICE checks and DTLS flights have timers of their own, and the caller waits.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::warn;

use super::call_media::CallMedia;
use super::slots::Slots;
use crate::clock;
use crate::pulse::{Pulse, Standstills};
use crate::telemetry::shown;

const SLOTS: usize = 10;
/// 20 ms divided by the number of slots.
pub(super) const SLOT: Duration = Duration::from_millis(2);

/// The calls by their slots.
pub(crate) struct Tick {
    slots: RefCell<[Vec<Rc<CallMedia>>; SLOTS]>,
    connecting: RefCell<Vec<Rc<CallMedia>>>,
    wake: Notify,
    standstills: RefCell<Standstills>,
    /// The lateness of the most punctual slot since it was last read.
    lateness: Cell<Option<Duration>>,
}

impl Tick {
    pub fn new(pulse: &Arc<Pulse>) -> Self {
        let standstills = RefCell::new(Standstills::of(pulse, clock::now()));
        let (slots, connecting, lateness) = Default::default();
        Self { slots, connecting, wake: Notify::new(), standstills, lateness }
    }

    /// Puts a call into the emptiest slot.
    pub fn add(&self, media: Rc<CallMedia>) {
        self.connecting.borrow_mut().push(media.clone());
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = slots.iter_mut().min_by_key(|slot| slot.len()) {
            slot.push(media);
        }
        self.wake.notify_one();
    }

    pub fn remove(&self, media: &Rc<CallMedia>) {
        self.connecting.borrow_mut().retain(|other| !Rc::ptr_eq(other, media));
        for slot in self.slots.borrow_mut().iter_mut() {
            slot.retain(|other| !Rc::ptr_eq(other, media));
        }
    }

    fn is_idle(&self) -> bool {
        self.slots.borrow().iter().all(Vec::is_empty)
    }

    /// Visits the calls for ever; the timer is off while there are none.
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
            // After a stall each call is visited once; it sends all the frames it owes.
            let (due, left_out) = slots.next(SLOTS as u64).await?;
            slot = (slot + left_out as usize) % SLOTS;
            // The slot's own time counts. The clock is late by a varying amount: a call whose frames are due right at its
            // slot would sometimes be too early for one and then owe two at once.
            let now = clock::now();
            self.was_late(now.saturating_duration_since(due) + SLOT * u32::try_from(left_out).unwrap_or(u32::MAX));
            self.forgive_standstill(now);
            self.visit(slot, due);
            slot = (slot + 1) % SLOTS;
        }
        Ok(())
    }

    fn was_late(&self, by: Duration) {
        self.lateness.set(Some(self.lateness.get().map_or(by, |least| least.min(by))));
    }

    /// The lateness of the most punctual slot since this was last read; None without calls.
    pub fn take_lateness(&self) -> Option<Duration> {
        self.lateness.take()
    }

    /// Packets that arrived during a standstill are read after this slot, so its time counts against no call.
    pub fn forgive_standstill(&self, now: Instant) {
        let Some(gap) = self.standstills.borrow_mut().next(now) else { return };
        warn!("a worker stood still for {}: was the process stopped, or is the machine overloaded?", shown(gap));
        metrics::counter!("patchcord_standstills_total").increment(1);
        self.slots.borrow().iter().flatten().for_each(|media| media.stood_still(gap, now));
    }

    fn visit(&self, slot: usize, now: Instant) {
        let mut early = Vec::new();
        for media in &self.slots.borrow()[slot] {
            if let Some(by) = media.visit(now) {
                early.push((media.clone(), by));
            }
        }
        self.connecting.borrow_mut().retain(|media| {
            media.visit(now);
            media.is_connecting()
        });
        for (media, by) in early {
            self.move_earlier(&media, slot, by);
        }
    }

    /// Moves a call by whole slots, at most so much, to where there is room: agents that all follow one clock must not
    /// have all calls due at once.
    fn move_earlier(&self, media: &Rc<CallMedia>, from: usize, by: Duration) {
        let mut slots = self.slots.borrow_mut();
        let all: usize = slots.iter().map(Vec::len).sum();
        let room = 2 * all.div_ceil(SLOTS) + 1;
        let steps = (by.as_nanos() / SLOT.as_nanos()) as usize;
        let place = |steps: usize| (from + SLOTS - steps) % SLOTS;
        let index = slots[from].iter().position(|other| Rc::ptr_eq(other, media));
        let steps = (1..=steps.min(SLOTS - 1)).rev().find(|steps| slots[place(*steps)].len() < room);
        if let (Some(index), Some(steps)) = (index, steps) {
            let media = slots[from].remove(index);
            media.move_earlier(SLOT * steps as u32);
            slots[place(steps)].push(media);
        }
    }
}
