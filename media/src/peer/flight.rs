//! Guard against loss: the last DTLS flight is repeated until the handshake continues.
//!
//! The endpoint's own retransmission forgets its timer whenever a record arrives that does not
//! complete a flight. One lost datagram could then leave both sides waiting forever.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::record::renumber;

const FIRST_REPEAT: Duration = Duration::from_millis(100);
const LONGEST_REPEAT: Duration = Duration::from_secs(1);
/// The server cannot know whether its last flight arrived, so it goes out twice more.
const LAST_FLIGHT_REPEATS: u32 = 2;

/// Our latest flight, and when to repeat it.
#[derive(Default)]
pub(super) struct Flight {
    datagrams: Vec<BytesMut>,
    repeated: u32,
    most_repeats: Option<u32>,
    at: Option<Instant>,
}

impl Flight {
    /// A new flight leaves now: it is repeated until the next one, doubling the wait up to 1 s.
    pub fn replace(&mut self, datagrams: Vec<BytesMut>, now: Instant) {
        *self = Flight { datagrams, repeated: 0, most_repeats: None, at: Some(now + FIRST_REPEAT) };
    }

    /// A path is found: the waiting flight leaves now.
    pub fn release(&mut self, now: Instant) {
        if !self.datagrams.is_empty() {
            self.at = Some(now);
        }
    }

    /// The server's handshake is complete: only a few repeats more.
    pub fn is_last(&mut self) {
        self.most_repeats = Some(LAST_FLIGHT_REPEATS);
    }

    /// Stops repeating.
    pub fn clear(&mut self) {
        *self = Flight::default();
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.at
    }

    /// The datagrams to repeat now, with fresh record numbers where possible. Empty if not due.
    pub fn handle_timeout(&mut self, now: Instant, next_number: &mut u64) -> Vec<BytesMut> {
        if self.at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.repeated += 1;
        let wait = FIRST_REPEAT * (1 << self.repeated.min(5));
        self.at = match self.most_repeats {
            Some(most) if self.repeated >= most => None,
            _ => Some(now + wait.min(LONGEST_REPEAT)),
        };
        for datagram in &mut self.datagrams {
            renumber(datagram, next_number);
        }
        self.datagrams.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_second() {
        let start = Instant::now();
        let mut flight = Flight::default();
        flight.replace(vec![BytesMut::from(&b"flight"[..])], start);
        let mut waits = Vec::new();
        let mut now = start;
        for _ in 0..6 {
            let at = flight.poll_timeout().unwrap();
            waits.push((at - now).as_millis());
            now = at;
            assert_eq!(flight.handle_timeout(now, &mut 0).len(), 1);
        }
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn a_last_flight_is_repeated_twice() {
        let start = Instant::now();
        let mut flight = Flight::default();
        flight.replace(vec![BytesMut::from(&b"flight"[..])], start);
        flight.is_last();
        let mut sent_at = Vec::new();
        while let Some(at) = flight.poll_timeout() {
            sent_at.push((at - start).as_millis());
            flight.handle_timeout(at, &mut 0);
        }
        assert_eq!(sent_at, [100, 300]);
    }
}
