//! A bad network on purpose: loss, bursts, doubles, disorder, delay and silence, all from one seed. Pure.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Datagrams under way at once; beyond that new ones are lost, as in a full router.
const MOST_UNDER_WAY: usize = 10_000;

/// What happens to datagrams in one direction. The default is a perfect network.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conditions {
    /// Share of datagrams lost, 0 to 1.
    pub loss: f64,
    /// Share of datagrams that begin a burst of losses, 0 to 1.
    pub burst_loss: f64,
    /// Datagrams lost in a row in each burst.
    pub burst_length: u32,
    /// Share of datagrams that arrive twice, 0 to 1.
    pub duplication: f64,
    /// Share of datagrams that are held back so that later ones overtake them, 0 to 1.
    pub reordering: f64,
    /// How long those are held back.
    pub reordered_by: Duration,
    /// How long every datagram is under way.
    pub delay: Duration,
    /// Up to how much longer it may take; order is kept.
    pub jitter: Duration,
    /// Nothing arrives at all.
    pub blackhole: bool,
    /// No RTP and RTCP arrives, as from a muted phone behind a relay; all else does.
    pub muted: bool,
    /// The first so many DTLS datagrams are lost.
    pub drop_first_dtls: u32,
}

/// The network between a phone and the service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NetworkOptions {
    /// From the phone to the service.
    pub to_service: Conditions,
    /// From the service to the phone.
    pub to_phone: Conditions,
}

impl NetworkOptions {
    /// The same in both directions.
    #[must_use]
    pub fn both_ways(conditions: Conditions) -> Self {
        Self { to_service: conditions.clone(), to_phone: conditions }
    }

    /// A mobile network on a bad day: 5 % loss, 2 % in bursts of three, disorder, 60 ms with 40 ms jitter.
    #[must_use]
    pub fn bad_day() -> Self {
        Self::both_ways(Conditions {
            loss: 0.05,
            burst_loss: 0.007,
            burst_length: 3,
            duplication: 0.01,
            reordering: 0.02,
            reordered_by: Duration::from_millis(30),
            delay: Duration::from_millis(60),
            jitter: Duration::from_millis(40),
            ..Conditions::default()
        })
    }

    /// Nothing arrives anywhere.
    #[must_use]
    pub fn cut() -> Self {
        Self::both_ways(Conditions { blackhole: true, ..Conditions::default() })
    }
}

/// One direction of a network: datagrams of any kind go in with a time and come out later, or never.
#[derive(Debug)]
pub struct Network<T> {
    conditions: Conditions,
    is_ideal: bool,
    random: StdRng,
    under_way: BinaryHeap<Reverse<UnderWay<T>>>,
    serial: u64,
    last_arrival: Option<Instant>,
    burst_left: u32,
    dtls_dropped: u32,
    lost: u64,
}

#[derive(Debug)]
struct UnderWay<T> {
    at: Instant,
    serial: u64,
    datagram: T,
}

impl<T: Clone + AsRef<[u8]>> Network<T> {
    /// A network whose chance follows from the seed alone.
    #[must_use]
    pub fn new(conditions: Conditions, seed: u64) -> Self {
        Self {
            is_ideal: conditions == Conditions::default(),
            conditions,
            random: StdRng::seed_from_u64(seed),
            under_way: BinaryHeap::new(),
            serial: 0,
            last_arrival: None,
            burst_left: 0,
            dtls_dropped: 0,
            lost: 0,
        }
    }

    /// Whether every datagram passes at once and unharmed, so that it need not be queued.
    #[must_use]
    pub fn is_perfect(&self) -> bool {
        self.is_ideal && self.under_way.is_empty()
    }

    /// Other conditions from now on; what is under way arrives as before.
    pub fn change(&mut self, conditions: Conditions) {
        self.is_ideal = conditions == Conditions::default();
        self.conditions = conditions;
    }

    /// How many datagrams were lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// A datagram sets out.
    pub fn send(&mut self, datagram: T, now: Instant) {
        if self.is_lost(datagram.as_ref()) || self.under_way.len() >= MOST_UNDER_WAY {
            self.lost += 1;
            return;
        }
        if self.chance(self.conditions.duplication) {
            self.set_out(datagram.clone(), now);
        }
        self.set_out(datagram, now);
    }

    /// The next datagram that has arrived by `now`.
    pub fn poll(&mut self, now: Instant) -> Option<T> {
        if self.under_way.peek()?.0.at > now {
            return None;
        }
        self.under_way.pop().map(|Reverse(under_way)| under_way.datagram)
    }

    /// When the next datagram arrives.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.under_way.peek().map(|Reverse(under_way)| under_way.at)
    }

    fn is_lost(&mut self, datagram: &[u8]) -> bool {
        if self.conditions.muted && datagram.first().is_some_and(|byte| (128..192).contains(byte)) {
            return true;
        }
        let is_dtls = datagram.first().is_some_and(|byte| (20..64).contains(byte));
        if is_dtls && self.dtls_dropped < self.conditions.drop_first_dtls {
            self.dtls_dropped += 1;
            return true;
        }
        if self.burst_left > 0 {
            self.burst_left -= 1;
            return true;
        }
        if self.chance(self.conditions.burst_loss) {
            self.burst_left = self.conditions.burst_length.saturating_sub(1);
            return self.conditions.burst_length > 0;
        }
        self.conditions.blackhole || self.chance(self.conditions.loss)
    }

    fn set_out(&mut self, datagram: T, now: Instant) {
        let jitter = if self.conditions.jitter.is_zero() {
            Duration::ZERO
        } else {
            self.conditions.jitter.mul_f64(self.random.random::<f64>())
        };
        let mut at = now + self.conditions.delay + jitter;
        if self.chance(self.conditions.reordering) {
            at += self.conditions.reordered_by;
        } else {
            at = self.last_arrival.map_or(at, |last| at.max(last));
            self.last_arrival = Some(at);
        }
        self.serial += 1;
        self.under_way.push(Reverse(UnderWay { at, serial: self.serial, datagram }));
    }

    /// Chance of nothing is not asked, so that a perfect network stays cheap.
    fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.random::<f64>() < share
    }
}

impl<T> Ord for UnderWay<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

impl<T> PartialOrd for UnderWay<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for UnderWay<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for UnderWay<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perfect_network_hands_over_at_once_and_in_order() {
        assert_eq!(arrivals(Conditions::default(), 1000), (0..1000).map(|at| (at, at)).collect::<Vec<_>>());
    }

    #[test]
    fn loss_doubles_and_disorder_come_in_the_shares_asked_for() {
        let count = |conditions| arrivals(conditions, 10_000);
        let lost = 10_000 - count(Conditions { loss: 0.05, ..Conditions::default() }).len();
        assert!((400..600).contains(&lost), "{lost} lost");
        let doubled = count(Conditions { duplication: 0.1, ..Conditions::default() }).len() - 10_000;
        assert!((850..1150).contains(&doubled), "{doubled} doubled");
        let reordering =
            Conditions { reordering: 0.1, reordered_by: Duration::from_millis(50), ..Conditions::default() };
        let overtaken = count(reordering).windows(2).filter(|two| two[1].0 < two[0].0).count();
        assert!((800..1200).contains(&overtaken), "{overtaken} overtaken");
    }

    #[test]
    fn bursts_lose_so_many_in_a_row() {
        let arrived = arrivals(Conditions { burst_loss: 0.01, burst_length: 4, ..Conditions::default() }, 10_000);
        let gaps: Vec<u64> = arrived.windows(2).map(|two| two[1].0 - two[0].0 - 1).filter(|gap| *gap > 0).collect();
        assert!(gaps.len() > 50 && gaps.iter().all(|gap| *gap >= 4), "{gaps:?}");
    }

    #[test]
    fn delay_and_jitter_keep_the_order() {
        let conditions =
            Conditions { delay: Duration::from_millis(60), jitter: Duration::from_millis(40), ..Conditions::default() };
        let arrived = arrivals(conditions, 1000);
        assert!(arrived.windows(2).all(|two| two[0].0 < two[1].0));
        assert!(arrived.iter().all(|(sent, at)| (60..=140).contains(&(at - sent))));
        assert!(arrived.iter().any(|(sent, at)| at - sent > 80));
    }

    #[test]
    fn the_same_seed_is_the_same_network() {
        let conditions = NetworkOptions::bad_day().to_phone;
        assert_eq!(arrivals(conditions.clone(), 500), arrivals(conditions, 500));
    }

    #[test]
    fn the_first_dtls_datagrams_and_everything_in_a_blackhole_are_lost() {
        let now = Instant::now();
        let mut network = Network::new(Conditions { drop_first_dtls: 2, ..Conditions::default() }, 1);
        for datagram in [vec![22, 1], vec![0, 2], vec![22, 3], vec![22, 4]] {
            network.send(datagram, now);
        }
        assert_eq!(network.poll(now), Some(vec![0, 2]));
        assert_eq!(network.poll(now), Some(vec![22, 4]));
        network.change(NetworkOptions::cut().to_phone);
        network.send(vec![0, 5], now);
        assert_eq!((network.poll(now), network.lost()), (None, 3));
    }

    /// A datagram each millisecond; which arrived, and in which millisecond.
    fn arrivals(conditions: Conditions, datagrams: u64) -> Vec<(u64, u64)> {
        let start = Instant::now();
        let mut network = Network::new(conditions, 42);
        let mut arrived = Vec::new();
        for ms in 0..datagrams + 500 {
            let now = start + Duration::from_millis(ms);
            if ms < datagrams {
                network.send(ms.to_be_bytes().to_vec(), now);
            }
            while let Some(datagram) = network.poll(now) {
                arrived.push((u64::from_be_bytes(datagram.try_into().unwrap()), ms));
            }
        }
        arrived
    }
}
