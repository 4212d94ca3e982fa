//! Keys: telephone-event packets (RFC 4733) read from the caller, and written to the caller.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use thiserror::Error;

/// RFC 4733 §3.2, events 0 to 15 in their order.
const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '*', '#', 'A', 'B', 'C', 'D'];

/// A press tells of itself every 20 to 50 ms (RFC 4733 §2.5.1.2 recommends 50). After this long without a word its
/// end is lost, not late.
pub const OVER_AFTER: Duration = Duration::from_millis(150);

/// A packet of a press this much older than the last one told is no straggler: the sender's clock started anew.
/// A sender that stamps events of an 8 kHz clock with its 48 kHz line still has 0.8 s of it.
const STRAGGLER: Duration = Duration::from_secs(5);

/// The longest duration that fits into a packet. A longer press goes on in a new segment (RFC 4733 §2.5.1.3).
const SEGMENT: u16 = u16::MAX;

/// Keys waiting to be sent. An app that wants more has to wait: it gets an error.
pub const MAX_QUEUED_KEYS: usize = 64;

/// How long a key we send sounds, in frames: 100 ms, which every menu system hears.
const TONE_FRAMES: u32 = 5;
/// Between two keys, in frames: 60 ms.
const GAP_FRAMES: u32 = 3;
/// The end of a press is sent so often (RFC 4733 §2.5.1.4), so that one of them arrives.
const END_PACKETS: u32 = 3;
/// RFC 4733 §2.3.3, in -dBm0: as loud as the keys of a telephone.
const VOLUME: u8 = 10;

/// One key, once it is up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// `0`–`9`, `*`, `#`, `A`–`D`.
    pub digit: char,
    /// How long it was held.
    pub duration_ms: u32,
}

/// Gives each key once and in order, however often, late or seldom its packets come.
///
/// A key is told at the first packet of its end; if no end arrives, at the first packet of the next key, or
/// [`OVER_AFTER`] its last packet.
#[derive(Debug)]
pub struct KeyReader {
    ticks_per_ms: u32,
    /// The press that was told last. Its packets, and all older ones, say nothing new.
    told: Option<Told>,
    /// The press that goes on.
    pressed: Option<Press>,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    /// Of its latest segment.
    timestamp: u32,
    event: u8,
    /// No end of it came: it may still go on.
    is_open: bool,
}

#[derive(Debug, Clone, Copy)]
struct Press {
    /// Of its latest segment, in the event's clock. It names the press.
    timestamp: u32,
    event: u8,
    /// Ticks of the segments before this one.
    before: u32,
    /// Ticks of this segment.
    duration: u16,
    updated_at: Instant,
}

impl KeyReader {
    /// A reader of events whose clock, by their own `rtpmap`, makes so many ticks a millisecond: 8 for
    /// `telephone-event/8000`, 48 for `telephone-event/48000`.
    pub fn new(ticks_per_ms: u32) -> Self {
        Self { ticks_per_ms: ticks_per_ms.max(1), told: None, pressed: None }
    }

    /// Reads one telephone-event payload; `timestamp` is that of its RTP header, the same for a whole press.
    ///
    /// Gives the keys that are over now, oldest first: a new key's only packet can end two.
    pub fn read(&mut self, timestamp: u32, payload: &[u8], now: Instant) -> [Option<Key>; 2] {
        let &[event, flags, high, low, ..] = payload else { return [None, None] };
        let is_end = flags & 0x80 != 0;
        if usize::from(event) >= DIGITS.len() || self.is_told(timestamp, event, is_end) {
            return [None, None];
        }
        let duration = u16::from_be_bytes([high, low]);
        let mut packet = Press { timestamp, event, before: 0, duration, updated_at: now };
        match self.pressed {
            None => {}
            Some(press) if press.timestamp == timestamp && press.event == event => {
                packet.before = press.before;
                packet.duration = duration.max(press.duration);
            }
            Some(press) if press.event == event && continues(press.timestamp, timestamp) => {
                packet.before = press.before.saturating_add(SEGMENT.into());
            }
            // A straggler of an earlier segment.
            Some(press) if press.before > 0 && press.event == event && continues(timestamp, press.timestamp) => {
                return [None, None];
            }
            // A straggler of a key that nothing was known of, and that the pressed one has followed.
            Some(press) if is_older(timestamp, press.timestamp) => return [self.tell(packet, true), None],
            Some(press) => {
                // A new press tells that the one before is over, though no end of it came.
                let before = self.tell(press, true);
                return [before, self.take_in(packet, is_end)];
            }
        }
        [self.take_in(packet, is_end), None]
    }

    /// The key whose end is lost, once its time is over.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Key> {
        let press = self.pressed.filter(|press| now.saturating_duration_since(press.updated_at) >= OVER_AFTER)?;
        self.pressed = None;
        self.tell(press, true)
    }

    /// When [`handle_timeout`](Self::handle_timeout) has a key to give even if nothing arrives.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.pressed.map(|press| press.updated_at + OVER_AFTER)
    }

    /// Forgets what was told and pressed, for a new SSRC.
    pub fn reset(&mut self) {
        self.told = None;
        self.pressed = None;
    }

    fn take_in(&mut self, press: Press, is_end: bool) -> Option<Key> {
        self.pressed = (!is_end).then_some(press);
        is_end.then(|| self.tell(press, false)).flatten()
    }

    fn tell(&mut self, press: Press, is_open: bool) -> Option<Key> {
        self.told = Some(Told { timestamp: press.timestamp, event: press.event, is_open });
        let ticks = press.before.saturating_add(press.duration.into());
        let digit = *DIGITS.get(usize::from(press.event))?;
        Some(Key { digit, duration_ms: ticks / self.ticks_per_ms })
    }

    /// Whether the key of this packet was told before. A key told without its end may go on into its next segment.
    fn is_told(&mut self, timestamp: u32, event: u8, is_end: bool) -> bool {
        let straggler = STRAGGLER.as_millis() as u32 * self.ticks_per_ms;
        let Some(told) = &mut self.told else { return false };
        if told.is_open && told.event == event && continues(told.timestamp, timestamp) {
            told.timestamp = timestamp;
        }
        told.is_open &= !(is_end && told.timestamp == timestamp && told.event == event);
        told.timestamp.wrapping_sub(timestamp) <= straggler
    }
}

/// Whether a segment at `timestamp` is the one right after a full segment at `before`.
fn continues(before: u32, timestamp: u32) -> bool {
    timestamp.wrapping_sub(before) == u32::from(SEGMENT)
}

fn is_older(timestamp: u32, than: u32) -> bool {
    (timestamp.wrapping_sub(than) as i32) < 0
}

/// Keys on their way to the caller: 100 ms each, 60 ms between.
///
/// How to put a [`KeyPacket`] on the call's line: with the payload type of telephone-event, the line's own SSRC and
/// its next sequence number, like any packet; but a whole press has one RTP timestamp (RFC 4733 §2.2), that of the
/// frame at which it began. So keep the line's timestamp of the frame whose packet has the marker, and give it to
/// the packets after it. The line's own clock goes on by one frame each time meanwhile. The packet stands in place
/// of the frame's sound, as on a telephone; sound sent beside it needs a sequence number of its own.
#[derive(Debug)]
pub struct KeySender {
    ticks_per_frame: u32,
    waiting: VecDeque<u8>,
    state: Sending,
}

#[derive(Debug, Clone, Copy)]
enum Sending {
    Idle,
    /// `frame` counts from the beginning of the press.
    Press {
        event: u8,
        frame: u32,
    },
    Gap {
        frames_left: u32,
    },
}

/// One telephone-event packet to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPacket {
    /// RFC 4733 §2.3: event, end bit and volume, duration.
    pub payload: [u8; 4],
    /// For the RTP header: the first packet of a press.
    pub marker: bool,
    /// How far the press's beginning lies behind this moment, in ticks of the event's clock.
    pub timestamp_offset_ticks: u32,
}

/// Why keys were not taken. None of them will be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// [`MAX_QUEUED_KEYS`] would be waiting.
    #[error("more than {MAX_QUEUED_KEYS} keys are waiting to be sent")]
    TooMany,
    /// No telephone has such a key.
    #[error("{0:?} is not a key: use 0-9, *, #, A-D")]
    NotAKey(char),
}

impl KeySender {
    /// A sender of events whose clock makes so many ticks a millisecond, see [`KeyReader::new`].
    pub fn new(ticks_per_ms: u32) -> Self {
        Self { ticks_per_frame: 20 * ticks_per_ms.clamp(1, 48), waiting: VecDeque::new(), state: Sending::Idle }
    }

    /// Queues all of `digits` or none of them.
    pub fn push(&mut self, digits: &str) -> Result<(), KeyError> {
        let wanted = digits.chars().count();
        if self.waiting.len() + wanted > MAX_QUEUED_KEYS {
            return Err(KeyError::TooMany);
        }
        let before = self.waiting.len();
        for character in digits.chars() {
            let digit = character.to_ascii_uppercase();
            let Some(event) = DIGITS.iter().position(|known| *known == digit) else {
                self.waiting.truncate(before);
                return Err(KeyError::NotAKey(character));
            };
            self.waiting.push_back(event as u8);
        }
        Ok(())
    }

    /// Whether a key sounds or waits.
    pub fn is_busy(&self) -> bool {
        !matches!(self.state, Sending::Idle) || !self.waiting.is_empty()
    }

    /// Forgets the keys that wait. One that sounds is led to its end, or the caller's side would hold it down.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }

    /// The packet of this 20 ms frame, if there is one. To be called once for every frame of the line.
    #[expect(clippy::should_implement_trait, reason = "a key may follow a `None`: this is no iterator")]
    pub fn next(&mut self) -> Option<KeyPacket> {
        if let Sending::Gap { frames_left } = &mut self.state {
            *frames_left -= 1;
            if *frames_left == 0 {
                self.state = Sending::Idle;
            }
            return None;
        }
        let (event, frame) = match self.state {
            Sending::Press { event, frame } => (event, frame),
            _ => (self.waiting.pop_front()?, 0),
        };
        let is_end = frame + 1 >= TONE_FRAMES;
        let is_last = frame + 1 == TONE_FRAMES + END_PACKETS - 1;
        self.state = match is_last {
            // The copies of the end already took a part of the gap.
            true => Sending::Gap { frames_left: GAP_FRAMES + 1 - END_PACKETS },
            false => Sending::Press { event, frame: frame + 1 },
        };
        let duration = ((frame + 1).min(TONE_FRAMES) * self.ticks_per_frame) as u16;
        let [high, low] = duration.to_be_bytes();
        Some(KeyPacket {
            payload: [event, if is_end { 0x80 | VOLUME } else { VOLUME }, high, low],
            marker: frame == 0,
            timestamp_offset_ticks: frame * self.ticks_per_frame,
        })
    }
}

#[cfg(test)]
mod tests;
