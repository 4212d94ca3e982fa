//! DTMF keys as telephone-event packets (RFC 4733), read and written.
//!
//! No crate because the work is not the four payload bytes but which packets are one press, from senders that err.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use thiserror::Error;

/// RFC 4733 §3.2, events 0 to 15 in their order.
const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '*', '#', 'A', 'B', 'C', 'D'];

/// A pressed key is sent every 20 to 50 ms (RFC 4733 §2.5.1.2 recommends 50). After this long without a packet its end is
/// lost, not late.
pub const OVER_AFTER: Duration = Duration::from_millis(150);

/// A packet this much older than the last key reported is no straggler: the sender's clock restarted. A sender that stamps
/// events of an 8 kHz clock with its 48 kHz line still has 0.8 s of it.
const STRAGGLER: Duration = Duration::from_secs(5);

/// Packets of one press follow one another, and copies of its end, within this time: 20 to 50 ms and some jitter. Between
/// two presses lie a pause of at least 40 ms and the time until the second is recognised.
const FRESH: Duration = Duration::from_millis(60);

/// The clock of the audio, with which some senders stamp their events whatever the events' own clock is.
const LINE_TICKS_PER_MS: u32 = 48;

/// The longest duration that fits into a packet. A longer press continues in a new segment (RFC 4733 §2.5.1.3).
const SEGMENT: u16 = u16::MAX;

/// Keys waiting to be sent. Overflow is refused with an error.
pub const MAX_QUEUED_KEYS: usize = 64;

/// Duration of a key we send, in frames: 100 ms, which every menu system recognises.
const TONE_FRAMES: u32 = 5;
/// Pause between two keys, in frames: 60 ms.
const GAP_FRAMES: u32 = 3;
/// Copies of a key's end (RFC 4733 §2.5.1.4), so that one of them arrives.
const END_PACKETS: u32 = 3;
/// RFC 4733 §2.3.3, in -dBm0: as loud as the keys of a telephone.
const VOLUME: u8 = 10;

/// One key, once it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// `0`–`9`, `*`, `#`, `A`–`D`.
    pub digit: char,
    /// How long it was held.
    pub duration_ms: u32,
}

/// Reports each key once and in order, whether its packets are lost, late or repeated.
///
/// A key is reported at the first packet of its end; if no end arrives, at the first packet of the next key, or
/// [`OVER_AFTER`] its last packet. Senders that give each packet of one press a timestamp of its own are tolerated: an
/// event that begins before the last press of the same key has ended is that press.
#[derive(Debug)]
pub struct KeyReader {
    ticks_per_ms: u32,
    /// Timestamp of the last press reported. Older packets are stragglers.
    reported_until: Option<u32>,
    /// The last reported press of each key.
    reported: [Option<Reported>; DIGITS.len()],
    /// The key that is down.
    pressed: Option<Press>,
}

#[derive(Debug, Clone, Copy)]
struct Reported {
    press: Press,
    /// No end of it arrived: it may still be down.
    is_open: bool,
}

/// A press as far as its packets show, or what a single packet shows. Times are in ticks of the event's clock.
#[derive(Debug, Clone, Copy)]
struct Press {
    event: u8,
    began: u32,
    /// Timestamp of its latest segment, which identifies the press.
    timestamp: u32,
    /// Duration of the segments before this one.
    before: u32,
    /// Duration of this segment.
    duration: u16,
    updated_at: Instant,
}

impl KeyReader {
    /// A reader of events whose clock has `ticks_per_ms`, by their `rtpmap`: 8 for `telephone-event/8000`, 48 for
    /// `telephone-event/48000`.
    pub fn new(ticks_per_ms: u32) -> Self {
        Self { ticks_per_ms: ticks_per_ms.max(1), reported_until: None, reported: [None; DIGITS.len()], pressed: None }
    }

    /// Reads one telephone-event payload; `timestamp` is that of its RTP header, the same for a whole press.
    ///
    /// Returns the keys that are over now, oldest first: a new key's only packet can end two.
    pub fn read(&mut self, timestamp: u32, payload: &[u8], now: Instant) -> [Option<Key>; 2] {
        let &[event, flags, high, low, ..] = payload else { return [None, None] };
        let is_end = flags & 0x80 != 0;
        let duration = u16::from_be_bytes([high, low]);
        let packet = Press { event, began: timestamp, timestamp, before: 0, duration, updated_at: now };
        if let Some(press) = self.pressed.filter(|press| press.reaches(&packet, self.line_ticks())) {
            return [self.take_in(press.and(&packet), is_end), None];
        }
        if usize::from(event) >= DIGITS.len() || self.is_reported(&packet, is_end) {
            return [None, None];
        }
        match self.pressed {
            None => [self.take_in(packet, is_end), None],
            Some(press) if press.meets(&packet, self.line_ticks()) => [self.take_in(press.and(&packet), is_end), None],
            // A straggler of an unknown key that was pressed before the present one.
            Some(press) if is_older(timestamp, press.timestamp) => [self.report(packet, true), None],
            // A new press means that the one before is over, though no end of it arrived.
            Some(press) => [self.report(press, true), self.take_in(packet, is_end)],
        }
    }

    /// The key whose end is lost, [`OVER_AFTER`] its last packet.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Key> {
        let press = self.pressed.filter(|press| now.saturating_duration_since(press.updated_at) >= OVER_AFTER)?;
        self.pressed = None;
        self.report(press, true)
    }

    /// When [`handle_timeout`](Self::handle_timeout) returns a key if nothing arrives.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.pressed.map(|press| press.updated_at + OVER_AFTER)
    }

    /// Another sender starts, for a new SSRC: earlier keys are forgotten. Returns the key that was down.
    pub fn restart(&mut self) -> Option<Key> {
        let pressed = self.pressed.take().and_then(|press| self.report(press, true));
        self.reported_until = None;
        self.reported = [None; DIGITS.len()];
        pressed
    }

    /// Ticks of the audio's clock in one of the events' clock.
    fn line_ticks(&self) -> u32 {
        (LINE_TICKS_PER_MS / self.ticks_per_ms).max(1)
    }

    fn take_in(&mut self, press: Press, is_end: bool) -> Option<Key> {
        self.pressed = (!is_end).then_some(press);
        is_end.then(|| self.report(press, false)).flatten()
    }

    fn report(&mut self, press: Press, is_open: bool) -> Option<Key> {
        let event = usize::from(press.event);
        self.reported_until = Some(press.timestamp);
        *self.reported.get_mut(event)? = Some(Reported { press, is_open });
        Some(Key { digit: *DIGITS.get(event)?, duration_ms: press.ticks() / self.ticks_per_ms })
    }

    /// Whether the key of this packet was reported before. A key reported without its end may still be down.
    fn is_reported(&mut self, packet: &Press, is_end: bool) -> bool {
        let line_ticks = self.line_ticks();
        if let Some(reported) = self.reported.get_mut(usize::from(packet.event)).and_then(Option::as_mut) {
            if reported.is_open && reported.press.meets(packet, line_ticks) {
                *reported = Reported { press: reported.press.and(packet), is_open: !is_end };
                return true;
            }
            if !reported.is_open && reported.press.covers(packet, is_end, line_ticks) {
                reported.press.updated_at = packet.updated_at;
                return true;
            }
        }
        let straggler = STRAGGLER.as_millis() as u32 * self.ticks_per_ms;
        self.reported_until.is_some_and(|reported| reported.wrapping_sub(packet.timestamp) <= straggler)
    }
}

impl Press {
    fn ticks(&self) -> u32 {
        self.before.saturating_add(self.duration.into())
    }

    /// Whether a packet belongs to this press while no end of it has arrived, even if it is older than the press so far.
    fn meets(&self, packet: &Press, line_ticks: u32) -> bool {
        let leads = self.began.wrapping_sub(packet.timestamp) <= u32::from(packet.duration);
        self.reaches(packet, line_ticks) || (packet.event == self.event && leads)
    }

    /// Whether a packet touches the known part of this press, is its next segment (RFC 4733 §2.5.1.3), or has grown by as
    /// much as it has moved.
    fn reaches(&self, packet: &Press, line_ticks: u32) -> bool {
        let known = self.timestamp.wrapping_sub(self.began).saturating_add(self.duration.into());
        let step = packet.timestamp.wrapping_sub(self.timestamp);
        let follows = packet.timestamp.wrapping_sub(self.began) <= known || step == u32::from(SEGMENT);
        let grown = u32::from(packet.duration.saturating_sub(self.duration));
        let grows = grown > 0 && step <= grown * line_ticks && self.is_fresh(packet);
        packet.event == self.event && (follows || grows)
    }

    /// Whether a packet belongs to this press after an end of it has arrived: it begins before that end, or is a copy of
    /// the end with a timestamp of its own.
    fn covers(&self, packet: &Press, is_end: bool, line_ticks: u32) -> bool {
        let is_within = packet.timestamp.wrapping_sub(self.began) < self.ticks();
        let (step, duration) = (packet.timestamp.wrapping_sub(self.timestamp), u32::from(self.duration));
        let is_same_end = packet.duration == self.duration && step < duration * line_ticks && self.is_fresh(packet);
        is_within || (is_end && (step < duration || is_same_end))
    }

    fn is_fresh(&self, packet: &Press) -> bool {
        packet.updated_at.saturating_duration_since(self.updated_at) < FRESH
    }

    /// This press with one more packet taken into account.
    fn and(&self, packet: &Press) -> Press {
        let step = packet.timestamp.wrapping_sub(self.timestamp);
        let is_later = !is_older(packet.timestamp, self.timestamp);
        // Timestamps that move within a press leave its duration growing; in a new segment it restarts.
        let begins_anew = step >= u32::from(self.duration) && packet.duration <= self.duration;
        let is_segment = is_later && step > 0 && (step == u32::from(SEGMENT) || begins_anew);
        let is_earlier_segment = !is_later && self.before > 0;
        let mut press = Press { updated_at: packet.updated_at, ..*self };
        if is_segment {
            press.before = self.before.saturating_add(step);
            press.duration = packet.duration;
        } else if !is_earlier_segment {
            press.duration = self.duration.max(packet.duration);
        }
        if is_later {
            press.timestamp = packet.timestamp;
        } else if is_older(packet.timestamp, self.began) {
            press.began = packet.timestamp;
        }
        press
    }
}

fn is_older(timestamp: u32, than: u32) -> bool {
    (timestamp.wrapping_sub(than) as i32) < 0
}

/// Keys to be sent: 100 ms each, with 60 ms in between.
///
/// A [`KeyPacket`] takes the place of a frame's audio: it has the payload type of telephone-event, and the line's SSRC and
/// next sequence number. All packets of one press have one RTP timestamp (RFC 4733 §2.2), that of the frame at which the
/// press began, while the line's own clock advances by one frame each.
#[derive(Debug)]
pub struct KeySender {
    ticks_per_frame: u32,
    waiting: VecDeque<u8>,
    state: Sending,
}

#[derive(Debug, Clone, Copy)]
enum Sending {
    Idle,
    /// `frame` counts from the start of the press.
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
    /// Marker bit of the RTP header: the first packet of a press.
    pub marker: bool,
    /// How far the start of the press lies before this frame, in ticks of the event's clock.
    pub timestamp_offset_ticks: u32,
}

/// Why keys were refused. None of them is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// More than [`MAX_QUEUED_KEYS`] would wait.
    #[error("more than {MAX_QUEUED_KEYS} keys are waiting to be sent")]
    TooMany,
    /// No telephone has such a key.
    #[error("{0:?} is not a key: use 0-9, *, #, A-D")]
    NotAKey(char),
}

impl KeySender {
    /// A sender of events whose clock has `ticks_per_ms`, see [`KeyReader::new`].
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

    /// Whether a key is being sent or waits.
    pub fn is_busy(&self) -> bool {
        !matches!(self.state, Sending::Idle) || !self.waiting.is_empty()
    }

    /// Drops the keys that wait. One that is being sent is finished, or the remote would take it as held down.
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
            Sending::Idle | Sending::Gap { .. } => (self.waiting.pop_front()?, 0),
        };
        let is_end = frame + 1 >= TONE_FRAMES;
        let is_last = frame + 1 == TONE_FRAMES + END_PACKETS - 1;
        self.state = match is_last {
            // The copies of the end are part of the gap.
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
