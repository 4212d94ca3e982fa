//! Ports: which remote addresses each local port serves.
//!
//! Meta's relays use a few fixed ports, so two calls may come from the same remote address. RTP carries nothing else
//! to tell them apart, so two live calls never share both a local port and a remote address, and a slot
//! just left rests for a while, lest late packets of the old call reach a new one. A remote whose address is not known when
//! it is told of the port, as a SIP phone is, gets a port of its own.
//!
//! Bookkeeping only: the worker opens the sockets.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// How long a slot, which is a pair of local port and remote address, stays empty after a call.
pub const REST: Duration = Duration::from_secs(30);

/// The ports of one worker; `T` is what a slot serves.
#[derive(Debug)]
pub struct Ports<T> {
    unopened: VecDeque<u16>,
    open: Vec<Port<T>>,
}

#[derive(Debug)]
struct Port<T> {
    number: u16,
    /// A call is on it whose remote addresses are not known yet, so no other call may come beside it.
    is_reserved: bool,
    slots: HashMap<SocketAddr, PortSlot<T>>,
    /// Serves every remote address.
    whole: Option<PortSlot<T>>,
}

#[derive(Debug)]
enum PortSlot<T> {
    Taken(T),
    Resting { until: Instant },
}

/// The port chosen for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The index among the open ports.
    pub port: usize,
    /// The UDP port number.
    pub number: u16,
    /// The worker has to open sockets for it first.
    pub is_new: bool,
}

impl<T: Clone> Ports<T> {
    /// The share of worker `index` of `workers`: every `workers`-th port of the range.
    pub fn new(range: RangeInclusive<u16>, index: usize, workers: usize) -> Self {
        Self { unopened: range.skip(index).step_by(workers.max(1)).collect(), open: Vec::new() }
    }

    /// Finds the first port where the slots of all these remote addresses are free. None if the range is used up.
    pub fn place(&mut self, remotes: &[SocketAddr], now: Instant) -> Option<Placed> {
        let fits = |port: &Port<T>| !port.is_reserved && remotes.iter().all(|remote| port.is_free(remote, now));
        if let Some(port) = self.open.iter().position(fits) {
            return Some(Placed { port, number: self.open[port].number, is_new: false });
        }
        self.place_newest(false)
    }

    /// Reserves a port where no call is, for one whose remote addresses come later. None if the range is used up.
    pub fn place_alone(&mut self, now: Instant) -> Option<Placed> {
        let Some(port) = self.open.iter().position(|port| port.is_empty(now)) else { return self.place_newest(true) };
        self.open[port].is_reserved = true;
        Some(Placed { port, number: self.open[port].number, is_new: false })
    }

    /// Whether [`place_alone`](Self::place_alone) finds a port.
    pub fn has_empty(&self, now: Instant) -> bool {
        !self.unopened.is_empty() || self.open.iter().any(|port| port.is_empty(now))
    }

    /// Other calls may come beside the one that the port was reserved for.
    pub fn end_reservation(&mut self, port: usize) {
        if let Some(port) = self.open.get_mut(port) {
            port.is_reserved = false;
        }
    }

    fn place_newest(&mut self, is_reserved: bool) -> Option<Placed> {
        let number = self.unopened.pop_front()?;
        self.open.push(Port { number, is_reserved, slots: HashMap::new(), whole: None });
        Some(Placed { port: self.open.len() - 1, number, is_new: true })
    }

    /// Takes back the port placed last, which another program holds; it is not offered again.
    pub fn discard_newest(&mut self) {
        self.open.pop();
    }

    /// Takes back the port placed last, which cannot be opened now; it is the next to be tried.
    pub fn put_back_newest(&mut self) {
        if let Some(port) = self.open.pop() {
            self.unopened.push_front(port.number);
        }
    }

    /// Gives a slot to a call. False if another call has it.
    pub fn take(&mut self, port: usize, remote: SocketAddr, call: T, now: Instant) -> bool {
        let Some(port) = self.open.get_mut(port) else { return false };
        let free = port.is_free(&remote, now);
        if free {
            port.slots.retain(|_, slot| !slot.is_rested(now));
            port.whole = None;
            port.slots.insert(remote, PortSlot::Taken(call));
        }
        free
    }

    /// Gives the port that was reserved to a call, for all remote addresses. False if another call uses it.
    pub fn take_alone(&mut self, port: usize, call: T, now: Instant) -> bool {
        let Some(port) = self.open.get_mut(port) else { return false };
        let free = port.is_unused(now);
        if free {
            port.slots.clear();
            port.whole = Some(PortSlot::Taken(call));
            port.is_reserved = false;
        }
        free
    }

    /// What the slot serves.
    pub fn at(&self, port: usize, remote: &SocketAddr) -> Option<&T> {
        let port = self.open.get(port)?;
        match port.whole.as_ref().or_else(|| port.slots.get(remote))? {
            PortSlot::Taken(call) => Some(call),
            PortSlot::Resting { .. } => None,
        }
    }

    /// Empties the slots of a call that has ended; they rest.
    pub fn leave(&mut self, port: usize, is_theirs: impl Fn(&T) -> bool, now: Instant) {
        let Some(port) = self.open.get_mut(port) else { return };
        for slot in port.slots.values_mut().chain(&mut port.whole) {
            if matches!(slot, PortSlot::Taken(call) if is_theirs(call)) {
                *slot = PortSlot::Resting { until: now + REST };
            }
        }
    }
}

impl<T> Port<T> {
    fn is_empty(&self, now: Instant) -> bool {
        !self.is_reserved && self.is_unused(now)
    }

    fn is_free(&self, remote: &SocketAddr, now: Instant) -> bool {
        self.slots.get(remote).into_iter().chain(&self.whole).all(|slot| slot.is_rested(now))
    }

    fn is_unused(&self, now: Instant) -> bool {
        self.slots.values().chain(&self.whole).all(|slot| slot.is_rested(now))
    }
}

impl<T> PortSlot<T> {
    fn is_rested(&self, now: Instant) -> bool {
        matches!(self, PortSlot::Resting { until } if now >= *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn relay(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 1], port))
    }

    #[test]
    fn calls_from_different_relays_share_a_port() {
        let (mut ports, now) = (Ports::new(40_000..=40_009, 0, 2), Instant::now());
        assert_eq!(ports.place(&[relay(1)], now), Some(Placed { port: 0, number: 40_000, is_new: true }));
        assert!(ports.take(0, relay(1), "one", now));
        assert_eq!(ports.place(&[relay(2)], now), Some(Placed { port: 0, number: 40_000, is_new: false }));
    }

    #[test]
    fn calls_from_one_relay_do_not_and_a_seat_rests_before_it_is_given_again() {
        let (mut ports, now) = (Ports::new(40_000..=40_003, 1, 2), Instant::now());
        ports.place(&[relay(1)], now).unwrap();
        assert!(ports.take(0, relay(1), "one", now));
        assert!(!ports.take(0, relay(1), "two", now));
        assert_eq!(ports.place(&[relay(2), relay(1)], now).unwrap().number, 40_003);
        assert!(ports.take(1, relay(1), "two", now));
        assert_eq!(ports.place(&[relay(1)], now), None, "both ports of this worker are taken for this relay");

        ports.leave(0, |call| *call == "one", now);
        assert_eq!(ports.at(0, &relay(1)), None);
        assert_eq!(ports.place(&[relay(1)], now + REST / 2), None);
        assert_eq!(ports.place(&[relay(1)], now + REST).unwrap().port, 0);
    }

    #[test]
    fn a_port_is_lost_only_when_it_is_discarded() {
        let (mut ports, now) = (Ports::<&str>::new(40_000..=40_002, 0, 1), Instant::now());
        for _ in 0..10 {
            assert_eq!(ports.place(&[relay(1)], now).unwrap().number, 40_000);
            ports.put_back_newest();
        }
        assert_eq!(ports.place(&[relay(1)], now).unwrap().number, 40_000);
        ports.discard_newest();
        let placed = ports.place(&[relay(1)], now);
        assert_eq!(placed, Some(Placed { port: 0, number: 40_001, is_new: true }));
        assert!(ports.take(0, relay(1), "one", now));
        assert_eq!(ports.place(&[relay(1)], now).unwrap().number, 40_002);
        ports.discard_newest();
        assert_eq!(ports.place(&[relay(1)], now), None);
    }

    #[test]
    fn a_call_whose_relay_is_not_known_yet_is_alone_on_its_port() {
        let (mut ports, now) = (Ports::new(40_000..=40_002, 0, 1), Instant::now());
        ports.place(&[relay(1)], now).unwrap();
        assert!(ports.take(0, relay(1), "offered", now));
        assert_eq!(ports.place_alone(now), Some(Placed { port: 1, number: 40_001, is_new: true }));
        assert_eq!(ports.place(&[relay(1)], now).unwrap().number, 40_002, "not beside the call that waits");
        assert!(ports.take(2, relay(1), "another", now));
        assert_eq!(ports.place_alone(now), None);

        assert!(ports.take(1, relay(1), "placed", now));
        ports.end_reservation(1);
        assert_eq!(ports.place(&[relay(2)], now).unwrap().port, 0);
        assert_eq!(ports.place(&[relay(1)], now), None);
        ports.leave(1, |call| *call == "placed", now);
        assert_eq!(ports.place_alone(now), None, "late packets of the relay may still come");
        assert_eq!(ports.place_alone(now + REST).unwrap().port, 1);
    }

    #[test]
    fn a_phone_has_its_port_alone_and_the_port_rests_behind_it() {
        let (mut ports, now) = (Ports::new(40_000..=40_001, 0, 1), Instant::now());
        ports.place(&[relay(1)], now).unwrap();
        assert!(ports.take(0, relay(1), "caller", now));
        assert_eq!(ports.place_alone(now), Some(Placed { port: 1, number: 40_001, is_new: true }));
        assert!(ports.take_alone(1, "phone", now));
        assert!(!ports.take_alone(1, "other", now) && !ports.take_alone(0, "other", now));
        assert_eq!(ports.at(1, &relay(7)), Some(&"phone"));
        assert!(!ports.take(1, relay(2), "caller", now));
        assert_eq!(ports.place(&[relay(2)], now).unwrap().port, 0);
        assert_eq!(ports.place_alone(now), None);
        ports.leave(1, |call| *call == "phone", now);
        assert_eq!(ports.at(1, &relay(7)), None);
        assert_eq!(ports.place(&[relay(1)], now), None);
        assert_eq!(ports.place(&[relay(1)], now + REST).unwrap().port, 1);
        assert!(ports.take(1, relay(1), "caller", now + REST));
        assert_eq!(ports.place_alone(now + REST), None);
    }

    proptest! {
        #[test]
        fn no_two_live_calls_share_a_port_and_a_remote(steps in prop::collection::vec((0u16..4, any::<bool>(), 0u64..40), 1..60)) {
            let (mut ports, mut now) = (Ports::new(40_000..=40_003, 0, 1), Instant::now());
            let mut live: Vec<(usize, SocketAddr, usize)> = Vec::new();
            for (call, (remote, arrives, seconds)) in steps.into_iter().enumerate() {
                now += Duration::from_secs(seconds);
                if !arrives && !live.is_empty() {
                    let (port, _, gone) = live.remove(usize::from(remote) % live.len());
                    ports.leave(port, |call| *call == gone, now);
                } else if let Some(placed) = ports.place(&[relay(remote)], now) {
                    prop_assert!(ports.take(placed.port, relay(remote), call, now));
                    prop_assert!(live.iter().all(|(port, taken, _)| (*port, *taken) != (placed.port, relay(remote))));
                    live.push((placed.port, relay(remote), call));
                }
                for (port, remote, call) in &live {
                    prop_assert_eq!(ports.at(*port, remote), Some(call));
                }
            }
        }
    }
}
