//! Reorder: received packets in order at once, and gaps reported instead of hidden.
//!
//! No crate because jitter buffers delay every packet for a playout clock; this one delays only packets behind a gap.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::opus::inspect;

/// How long a gap may stay open. Most reordering resolves sooner, and later audio is as good as lost.
pub const DEFAULT_WAIT: Duration = Duration::from_millis(60);

/// Sequence numbers held back behind a gap, about 1.3 s of audio. On overflow the gap counts as lost at once.
const WINDOW: u16 = 64;

/// A jump by more numbers than this, forwards or backwards, is a restart of the sender (RFC 3550 A.1).
const RESYNC_SEQUENCE: i16 = 100;

/// One second of 48 kHz ticks. A longer jump is a restarted clock, not a pause worth filling.
const RESYNC_TICKS: u32 = 48_000;

/// A power of two above [`RESYNC_SEQUENCE`], so that every number short of a restart has its own place.
const PLACES: usize = 128;

/// Puts one sender's packets in order.
///
/// An in-order packet leaves at once: there is no playout delay. Behind a gap packets wait until it fills, until `wait` is
/// over, or until 64 numbers are held back; then the gap is reported as
/// [`Slot::Lost`]. A single far number is a stray; a second one beside it is a restart of the sender. After each
/// [`push`](Self::push) or timeout, call [`poll`](Self::poll) until it returns None.
/// The durations of all slots add up to the sender's own clock, so a listener to them hears continuous audio.
#[derive(Debug)]
pub struct Reorder {
    wait: Duration,
    /// Indexed by sequence number modulo [`PLACES`]. There only while something waits behind a gap: on a good network
    /// no call pays for it.
    places: Option<Box<[Option<Held>; PLACES]>>,
    /// The packet that leaves next, if it arrived while nothing else was held. Most do, and need no place.
    front: Option<Held>,
    held: usize,
    line: Option<Line>,
    /// One packet far from the line, on probation (RFC 3550 A.1): its neighbour would prove a new line.
    stray: Option<(u16, Held)>,
    stats: ReorderStats,
}

/// The next piece of the sender's line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// A packet, in order.
    Packet {
        /// 48 kHz ticks.
        timestamp: u32,
        /// One Opus packet, known to be well formed; or what was [pushed with its duration](Reorder::push_lasting).
        payload: Bytes,
    },
    /// Audio that was sent and did not arrive in time.
    Lost {
        /// Start of the loss, in 48 kHz ticks.
        timestamp: u32,
        /// 48 kHz ticks, at most one second.
        duration: u32,
        /// The packet that directly follows, for its in-band FEC. It follows as a [`Slot::Packet`] too.
        next: Option<Bytes>,
    },
    /// A pause in which the sender sent nothing on purpose (DTX).
    Quiet {
        /// Start of the pause, in 48 kHz ticks.
        timestamp: u32,
        /// 48 kHz ticks, at most one second.
        duration: u32,
    },
}

/// Counters since the start, in packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReorderStats {
    /// Arrived after their place was passed: too late, or copies of packets that had left.
    pub late: u64,
    /// Arrived while their copy was still held.
    pub duplicate: u64,
    /// Sequence numbers given up.
    pub lost: u64,
    /// Packets that were not well-formed Opus.
    pub broken: u64,
    /// Restarts of the sender's numbers or clock.
    pub resynced: u64,
    /// Held packets dropped by a restart.
    pub discarded: u64,
    /// Single packets with a number far from the line, dropped when the line continued.
    pub stray: u64,
}

/// The state of the sender's line, from its first packet on.
#[derive(Debug)]
struct Line {
    /// The sequence number that leaves next.
    next: u16,
    /// One past the highest number held; `next` when none is.
    end: u16,
    /// When the gap at `next` was noticed. `None` when nothing waits.
    gap_since: Option<Instant>,
    /// End of the last audio, in 48 kHz ticks.
    sound_end: Option<u32>,
    /// Duration of the last audio packet, in 48 kHz ticks.
    packet_ticks: u32,
    /// Numbers given up since the last audio.
    missing: u32,
}

#[derive(Debug)]
struct Held {
    arrived: Instant,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Sound {
        timestamp: u32,
        payload: Bytes,
        duration: u32,
        has_fec: bool,
    },
    /// A number without audio, such as a telephone-event.
    Soundless,
}

impl Reorder {
    /// Waits `wait` for the packets of a gap; [`DEFAULT_WAIT`] suits most networks.
    pub fn new(wait: Duration) -> Self {
        Self { wait, places: None, front: None, held: 0, line: None, stray: None, stats: ReorderStats::default() }
    }

    /// Takes one Opus packet of the sender. `timestamp` is in 48 kHz ticks.
    ///
    /// An empty payload is a keep-alive and a malformed one is noise: both use up their number without audio.
    pub fn push(&mut self, sequence: u16, timestamp: u32, payload: Bytes, now: Instant) {
        let content = match inspect(&payload) {
            Ok(facts) => Content::Sound { timestamp, payload, duration: facts.duration, has_fec: facts.has_fec },
            Err(_) => {
                self.stats.broken += u64::from(!payload.is_empty());
                Content::Soundless
            }
        };
        self.hold(sequence, content, now);
    }

    /// Takes one packet of another codec, which lasts `duration` and has no FEC. Times are in 48 kHz ticks.
    pub fn push_lasting(&mut self, sequence: u16, timestamp: u32, payload: Bytes, duration: u32, now: Instant) {
        self.hold(sequence, Content::Sound { timestamp, payload, duration, has_fec: false }, now);
    }

    /// Waits `wait` for the packets of each gap from now on.
    pub fn set_wait(&mut self, wait: Duration) {
        self.wait = wait;
    }

    /// Marks a sequence number as arrived without audio: a telephone-event (RFC 4733) shares the numbers.
    pub fn skip(&mut self, sequence: u16, now: Instant) {
        self.hold(sequence, Content::Soundless, now);
    }

    /// The next slot, if it is known by `now`.
    pub fn poll(&mut self, now: Instant) -> Option<Slot> {
        while self.held > 0 {
            let line = self.line.as_mut()?;
            let place = match (&mut self.front, &mut self.places) {
                (None, Some(places)) => &mut places[place_of(line.next)],
                (front, _) => front,
            };
            match place {
                Some(Held { content: Content::Sound { timestamp, payload, has_fec, .. }, .. }) => {
                    if let Some(before) = line.slot_before(*timestamp, payload, *has_fec, &mut self.stats) {
                        return Some(before);
                    }
                }
                Some(Held { content: Content::Soundless, .. }) => {}
                None => {
                    if !line.gap_is_over(self.wait, now) {
                        return None;
                    }
                    line.gap_since = None;
                    line.next = line.next.wrapping_add(1);
                    line.missing += 1;
                    self.stats.lost += 1;
                    continue;
                }
            }
            let left = place.take();
            self.held -= 1;
            line.next = line.next.wrapping_add(1);
            self.notice_gap();
            if let Some(Held { content: Content::Sound { timestamp, payload, duration, .. }, .. }) = left {
                self.line.as_mut()?.sounded(timestamp, duration);
                return Some(Slot::Packet { timestamp, payload });
            }
        }
        self.places = None;
        None
    }

    /// When [`poll`](Self::poll) has a new result even if nothing arrives.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let line = self.line.as_ref()?;
        let since = line.gap_since?;
        Some(if line.is_full() { since } else { since + self.wait })
    }

    /// Forgets the sender, for a new SSRC. Counters stay.
    pub fn reset(&mut self) {
        self.stats.discarded += self.held as u64;
        self.places = None;
        self.front = None;
        self.held = 0;
        self.line = None;
        self.drop_stray();
    }

    /// Counters since the start.
    pub fn stats(&self) -> ReorderStats {
        self.stats
    }

    fn hold(&mut self, sequence: u16, content: Content, now: Instant) {
        let held = Held { arrived: now, content };
        let Some(line) = &self.line else {
            return self.restart(sequence, (sequence, held));
        };
        let ahead = sequence.wrapping_sub(line.next) as i16;
        if (-RESYNC_SEQUENCE..=RESYNC_SEQUENCE).contains(&ahead) {
            // The line continues: the stray was no restart.
            self.drop_stray();
            self.place(sequence, held);
        } else {
            self.hold_far(sequence, held);
        }
    }

    /// Follows the sender to a new line once two neighbours of it have arrived, and keeps both.
    fn hold_far(&mut self, sequence: u16, held: Held) {
        match self.stray.take() {
            Some((first, before)) if sequence == first.wrapping_add(1) || first == sequence.wrapping_add(1) => {
                self.reset();
                self.stats.resynced += 1;
                let begin = if sequence == first.wrapping_add(1) { first } else { sequence };
                self.restart(begin, (first, before));
                self.place(sequence, held);
            }
            other => {
                self.stats.stray += u64::from(other.is_some());
                self.stray = Some((sequence, held));
            }
        }
    }

    fn restart(&mut self, begin: u16, (sequence, held): (u16, Held)) {
        self.line = Some(Line::starting_at(begin));
        self.place(sequence, held);
    }

    /// Puts a packet into its place on the line.
    fn place(&mut self, sequence: u16, held: Held) {
        let Some(line) = self.line.as_mut() else { return };
        if (sequence.wrapping_sub(line.next) as i16) < 0 {
            self.stats.late += 1;
            return;
        }
        let place = match sequence == line.next && (self.held == 0 || self.front.is_some()) {
            true => &mut self.front,
            false => &mut self.places.get_or_insert_with(no_places)[place_of(sequence)],
        };
        if place.is_some() {
            self.stats.duplicate += 1;
        } else {
            line.reach(sequence, held.arrived);
            *place = Some(held);
            self.held += 1;
        }
    }

    fn drop_stray(&mut self) {
        self.stats.stray += u64::from(self.stray.take().is_some());
    }

    /// After a packet left: if the next number is missing while others wait, its gap is as old as the oldest of them.
    fn notice_gap(&mut self) {
        let Some(line) = self.line.as_mut() else {
            return;
        };
        line.gap_since = None;
        if let Some(places) = self.places.as_ref().filter(|_| self.held > 0)
            && places[place_of(line.next)].is_none()
        {
            line.gap_since = places.iter().flatten().map(|held| held.arrived).min();
        }
    }
}

impl Line {
    fn starting_at(sequence: u16) -> Self {
        Self { next: sequence, end: sequence, gap_since: None, sound_end: None, packet_ticks: 960, missing: 0 }
    }

    /// Notes that `sequence` is held now.
    fn reach(&mut self, sequence: u16, now: Instant) {
        if sequence == self.next {
            self.gap_since = None;
        } else {
            self.gap_since.get_or_insert(now);
        }
        let beyond = sequence.wrapping_add(1);
        if beyond.wrapping_sub(self.next) > self.end.wrapping_sub(self.next) {
            self.end = beyond;
        }
    }

    fn is_full(&self) -> bool {
        self.end.wrapping_sub(self.next) > WINDOW
    }

    /// Also true inside a gap that is being given up: it is given up as a whole.
    fn gap_is_over(&self, wait: Duration, now: Instant) -> bool {
        self.is_full() || self.gap_since.is_none_or(|since| now.saturating_duration_since(since) >= wait)
    }

    /// What lies between the last audio and a packet at `timestamp`: lost packets, a pause, both or nothing.
    fn slot_before(
        &mut self,
        timestamp: u32,
        next: &Bytes,
        next_has_fec: bool,
        stats: &mut ReorderStats,
    ) -> Option<Slot> {
        let begin = self.sound_end?;
        let ahead = timestamp.wrapping_sub(begin) as i32;
        if ahead.unsigned_abs() > RESYNC_TICKS {
            stats.resynced += 1;
            self.sound_end = None;
            return None;
        }
        if ahead <= 0 {
            return None;
        }
        let total = ahead.unsigned_abs();
        let lost = total.min(self.missing.saturating_mul(self.packet_ticks));
        let quiet = total - lost;
        // Only speech is sent with FEC, so FEC in `next` means that the loss was right before it.
        // Otherwise the loss came first: the end of a word, and then the pause.
        let (is_lost, duration) = match (lost, quiet) {
            (0, _) => (false, quiet),
            (_, 0) => (true, lost),
            _ if next_has_fec => (false, quiet),
            _ => (true, lost),
        };
        self.sound_end = Some(begin.wrapping_add(duration));
        if !is_lost {
            return Some(Slot::Quiet { timestamp: begin, duration });
        }
        self.missing = 0;
        Some(Slot::Lost { timestamp: begin, duration, next: (quiet == 0 || next_has_fec).then(|| next.clone()) })
    }

    fn sounded(&mut self, timestamp: u32, duration: u32) {
        self.sound_end = Some(timestamp.wrapping_add(duration));
        self.packet_ticks = duration;
        self.missing = 0;
    }
}

fn no_places() -> Box<[Option<Held>; PLACES]> {
    Box::new([const { None }; PLACES])
}

fn place_of(sequence: u16) -> usize {
    usize::from(sequence) % PLACES
}

#[cfg(test)]
mod tests;
