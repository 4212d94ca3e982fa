//! What a phone sends: speech as Opus every 20 ms of its own clock, and digits of the keypad in between.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::phone::{FRAME, OPUS, TELEPHONE_EVENT, TICKS_PER_FRAME};
use crate::speech::Speech;

/// Digits that may wait; more are refused by dropping them (a person cannot press that fast).
const MOST_DIGITS: usize = 64;
/// Packets of presses that may wait; more are dropped.
const MOST_KEY_PACKETS: usize = 256;
/// Frames a digit lasts: 100 ms, and then as long a pause as people make between keys.
const DIGIT_FRAMES: u16 = 5;
const PAUSE_FRAMES: u16 = 3;
/// RFC 4733 §2.5.1.4: the end of an event is sent three times.
const END_PACKETS: usize = 3;
/// DTX as libopus does it: after 200 ms of silence nothing is sent but a packet every 400 ms.
const QUIET_BEFORE_DTX: u32 = 10;
const DTX_REFRESH: u32 = 20;
/// A packet of so few bytes is silence: up to about 10, with redundancy 20.
const QUIET_BYTES: usize = 28;
/// When the process slept, at most this much is caught up in one go; the rest of the time is skipped.
const MOST_CATCH_UP: Duration = Duration::from_millis(500);

/// One packet to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VoicePacket {
    pub(crate) payload_type: u8,
    pub(crate) marker: bool,
    pub(crate) sequence: u64,
    pub(crate) timestamp: u32,
    pub(crate) payload: Arc<[u8]>,
}

/// One telephone-event packet, sent in place of a frame of sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPacket {
    /// Its RTP timestamp, counted from that of the first packet of the press.
    pub timestamp_offset: u32,
    /// RFC 4733 §2.3.
    pub payload: [u8; 4],
}

/// The sending half of the phone: pure, driven by [`Voice::speak`].
#[derive(Debug)]
pub(crate) struct Voice {
    speech: Speech,
    position: usize,
    frame_every: Duration,
    next_at: Option<Instant>,
    sequence: u64,
    timestamp: u32,
    marker_due: bool,
    digits: VecDeque<char>,
    pressing: Option<Pressing>,
    /// Packets of a press as they were asked for, and its timestamp once the first has left.
    key_packets: VecDeque<KeyPacket>,
    key_timestamp: Option<u32>,
    dtx: bool,
    /// Frames of silence in a row.
    quiet: u32,
}

#[derive(Debug)]
struct Pressing {
    event: u8,
    timestamp: u32,
    frames: u16,
}

impl Voice {
    pub(crate) fn new(speech: Speech, clock_drift_ppm: i32, sequence: u16, timestamp: u32) -> Self {
        let nanos = i64::try_from(FRAME.as_nanos()).unwrap_or(20_000_000);
        let nanos = nanos - nanos * i64::from(clock_drift_ppm) / 1_000_000;
        Self {
            speech,
            position: 0,
            frame_every: Duration::from_nanos(nanos.max(1).unsigned_abs()),
            next_at: None,
            sequence: u64::from(sequence),
            timestamp,
            marker_due: true,
            digits: VecDeque::new(),
            pressing: None,
            key_packets: VecDeque::new(),
            key_timestamp: None,
            dtx: false,
            quiet: 0,
        }
    }

    /// Whether silence is left out.
    pub(crate) fn set_dtx(&mut self, dtx: bool) {
        self.dtx = dtx;
    }

    /// The next sequence number and timestamp.
    pub(crate) fn line(&self) -> (u64, u32) {
        (self.sequence, self.timestamp)
    }

    /// Goes on with other numbers, as another sender does.
    pub(crate) fn set_line(&mut self, (sequence, timestamp): (u64, u32)) {
        self.sequence = sequence;
        self.timestamp = timestamp;
        self.marker_due = true;
    }

    pub(crate) fn start(&mut self, now: Instant) {
        self.next_at.get_or_insert(now);
    }

    pub(crate) fn stop(&mut self) {
        self.next_at = None;
    }

    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.next_at
    }

    /// Says something else from the next frame on.
    pub(crate) fn say(&mut self, speech: Speech) {
        self.speech = speech;
        self.position = 0;
    }

    pub(crate) fn press(&mut self, digits: &str) {
        let room = MOST_DIGITS.saturating_sub(self.digits.len());
        self.digits.extend(digits.chars().filter(|digit| event_of(*digit).is_some()).take(room));
    }

    /// Sends these in place of the next frames, whatever a phone would do.
    pub(crate) fn press_packets(&mut self, packets: &[KeyPacket]) {
        let room = MOST_KEY_PACKETS.saturating_sub(self.key_packets.len());
        self.key_packets.extend(packets.iter().take(room));
    }

    /// The packets that are due by `now`, none if the next frame's time has not come.
    pub(crate) fn speak(&mut self, now: Instant) -> Vec<VoicePacket> {
        let mut packets = Vec::new();
        while let Some(at) = self.next_at.filter(|at| *at <= now) {
            let behind = now.saturating_duration_since(at);
            if behind > MOST_CATCH_UP {
                self.skip(behind.saturating_sub(MOST_CATCH_UP));
                continue;
            }
            self.frame(&mut packets);
            self.next_at = Some(at + self.frame_every);
        }
        packets
    }

    /// Time in which nothing was sent: the timestamps run on, the sequence numbers do not.
    fn skip(&mut self, behind: Duration) {
        let frames = (behind.as_nanos() / self.frame_every.as_nanos().max(1)) as u32 + 1;
        self.timestamp = self.timestamp.wrapping_add(frames.wrapping_mul(TICKS_PER_FRAME));
        self.position += frames as usize;
        self.marker_due = true;
        self.next_at = self.next_at.map(|at| at + self.frame_every * frames);
    }

    fn frame(&mut self, packets: &mut Vec<VoicePacket>) {
        let sound = self.speech.frame(self.position);
        self.position += 1;
        if self.pressing.is_none()
            && let Some(event) = self.digits.pop_front().and_then(event_of)
        {
            self.pressing = Some(Pressing { event, timestamp: self.timestamp, frames: 0 });
        }
        if let Some(key) = self.key_packets.pop_front() {
            let began = *self.key_timestamp.get_or_insert(self.timestamp);
            let timestamp = began.wrapping_add(key.timestamp_offset);
            self.packet(TELEPHONE_EVENT, began == self.timestamp, timestamp, key.payload.into(), packets);
            self.timestamp = self.timestamp.wrapping_add(TICKS_PER_FRAME);
            return;
        }
        self.key_timestamp = None;
        if self.pressing.is_none() && self.leaves_out(&sound) {
            self.marker_due = true;
            self.timestamp = self.timestamp.wrapping_add(TICKS_PER_FRAME);
            return;
        }
        match self.pressing.take() {
            Some(pressing) if pressing.frames < DIGIT_FRAMES => self.digit_frame(&pressing, packets),
            pressing => {
                let marker = std::mem::take(&mut self.marker_due);
                let timestamp = self.timestamp;
                self.packet(OPUS, marker, timestamp, sound, packets);
                self.pressing = pressing
                    .map(|p| Pressing { frames: p.frames + 1, ..p })
                    .filter(|p| p.frames < DIGIT_FRAMES + PAUSE_FRAMES);
            }
        }
        self.timestamp = self.timestamp.wrapping_add(TICKS_PER_FRAME);
    }

    fn leaves_out(&mut self, sound: &[u8]) -> bool {
        self.quiet = if sound.len() <= QUIET_BYTES { self.quiet + 1 } else { 0 };
        let in_dtx = self.quiet.saturating_sub(QUIET_BEFORE_DTX);
        self.dtx && !in_dtx.is_multiple_of(DTX_REFRESH)
    }

    /// RFC 4733: one timestamp for the whole event, a growing duration in 8000 Hz units, the end thrice.
    fn digit_frame(&mut self, pressing: &Pressing, packets: &mut Vec<VoicePacket>) {
        let frames = pressing.frames + 1;
        let is_end = frames == DIGIT_FRAMES;
        let duration = (frames * 160).to_be_bytes();
        let volume = 10 | if is_end { 0x80 } else { 0 };
        let payload: Arc<[u8]> = Arc::from([pressing.event, volume, duration[0], duration[1]]);
        for _ in 0..if is_end { END_PACKETS } else { 1 } {
            self.packet(TELEPHONE_EVENT, frames == 1, pressing.timestamp, payload.clone(), packets);
        }
        self.pressing = Some(Pressing { frames, event: pressing.event, timestamp: pressing.timestamp });
    }

    fn packet(
        &mut self,
        payload_type: u8,
        marker: bool,
        timestamp: u32,
        payload: Arc<[u8]>,
        packets: &mut Vec<VoicePacket>,
    ) {
        packets.push(VoicePacket { payload_type, marker, sequence: self.sequence, timestamp, payload });
        self.sequence += 1;
    }
}

/// RFC 4733 §3.2: the events of the sixteen keys.
fn event_of(digit: char) -> Option<u8> {
    "0123456789*#ABCD".chars().position(|key| key == digit.to_ascii_uppercase()).and_then(|at| u8::try_from(at).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_fifty_packets_of_one_unbroken_line() {
        let start = Instant::now();
        let mut voice = Voice::new(Speech::silence(), 0, u16::MAX - 3, 0);
        voice.start(start);
        let packets: Vec<VoicePacket> =
            (0..1000).flat_map(|ms| voice.speak(start + Duration::from_millis(ms))).collect();
        assert_eq!(packets.len(), 50);
        assert!(
            packets
                .windows(2)
                .all(|two| two[1].sequence == two[0].sequence + 1 && two[1].timestamp == two[0].timestamp + 960)
        );
        assert!(packets[0].marker && packets[1..].iter().all(|packet| !packet.marker));
    }

    #[test]
    fn a_fast_clock_sends_more_packets() {
        let start = Instant::now();
        let mut voice = Voice::new(Speech::silence(), 1000, 0, 0);
        voice.start(start);
        let packets: usize = (0..100_000).map(|ms| voice.speak(start + Duration::from_millis(ms)).len()).sum();
        assert_eq!(packets, 5005);
    }

    #[test]
    fn a_digit_has_one_timestamp_growing_duration_and_three_ends() {
        let start = Instant::now();
        let mut voice = Voice::new(Speech::silence(), 0, 0, 0);
        voice.start(start);
        voice.press("5#x");
        let packets: Vec<VoicePacket> =
            (0..320).flat_map(|ms| voice.speak(start + Duration::from_millis(ms))).collect();
        let events: Vec<_> = packets.iter().filter(|packet| packet.payload_type == TELEPHONE_EVENT).collect();
        assert_eq!(events.len(), 2 * 7);
        assert_eq!(&*events[0].payload, &[5, 10, 0, 160]);
        assert_eq!(&*events[6].payload, &[5, 0x8a, 3, 32]);
        assert!(events[..7].iter().all(|packet| packet.timestamp == 0));
        assert_eq!((events[7].payload[0], events[7].timestamp), (11, 8 * 960));
        assert!(packets.windows(2).all(|two| two[1].sequence == two[0].sequence + 1));
    }

    #[test]
    fn silence_is_left_out_but_for_a_packet_every_400_ms_and_the_timestamps_run_on() {
        let start = Instant::now();
        let mut voice = Voice::new(Speech::silence(), 0, 0, 0);
        voice.set_dtx(true);
        voice.start(start);
        let packets: Vec<VoicePacket> =
            (0..1400).flat_map(|ms| voice.speak(start + Duration::from_millis(ms))).collect();
        let frames: Vec<u32> = packets.iter().map(|packet| packet.timestamp / 960).collect();
        assert_eq!(frames, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 29, 49, 69]);
        assert!(packets.windows(2).all(|two| two[1].sequence == two[0].sequence + 1));
    }

    #[test]
    fn packets_of_a_press_are_sent_as_they_are_asked_for() {
        let start = Instant::now();
        let mut voice = Voice::new(Speech::silence(), 0, 0, 0);
        voice.start(start);
        voice.speak(start);
        let asked = [(0, [8, 10, 0, 160]), (160, [8, 0x8a, 1, 64])];
        voice.press_packets(&asked.map(|(timestamp_offset, payload)| KeyPacket { timestamp_offset, payload }));
        let packets = voice.speak(start + Duration::from_millis(79));
        let sent: Vec<_> = packets.iter().map(|packet| (packet.payload_type, packet.timestamp)).collect();
        assert_eq!(sent, [(TELEPHONE_EVENT, 960), (TELEPHONE_EVENT, 1120), (OPUS, 2880)]);
        assert_eq!(&*packets[1].payload, &asked[1].1);
    }

    #[test]
    fn after_a_long_sleep_time_is_skipped_instead_of_a_flood() {
        let start = Instant::now();
        let mut voice = Voice::new(Speech::silence(), 0, 0, 0);
        voice.start(start);
        voice.speak(start);
        let packets = voice.speak(start + Duration::from_secs(60));
        assert!(packets.len() <= 26, "{} packets at once", packets.len());
        assert_eq!(packets.last().unwrap().timestamp, 3000 * 960);
    }
}
