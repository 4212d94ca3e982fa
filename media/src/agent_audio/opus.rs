//! The caller's Opus packets unchanged, with silence packets in its pauses.

use std::time::Instant;

use bytes::Bytes;

use super::Queue;
use super::clock::{Clock, Continuity};
use crate::opus::{SILENCE, inspect};
use crate::reorder::Slot;
use crate::timeline::{TICKS_PER_FRAME, duration_of};

#[derive(Debug)]
pub(super) struct OpusForm {
    clock: Clock,
    /// To be handed over after each slot, with their duration in 48 kHz ticks.
    packets: Vec<(Bytes, u32)>,
    /// Silence still owed, shorter than a packet, in 48 kHz ticks.
    silence: u32,
}

impl OpusForm {
    pub fn new(now: Instant) -> Self {
        Self { clock: Clock::new(now), packets: Vec::new(), silence: 0 }
    }

    pub fn start(&mut self, now: Instant) {
        self.clock.start(now);
    }

    /// Another sender starts.
    pub fn restart(&mut self, now: Instant) {
        let continuity = self.clock.restart(now);
        self.follow(continuity);
    }

    pub fn push(&mut self, slot: Slot, now: Instant) {
        match slot {
            Slot::Packet { timestamp, payload } => {
                let continuity = self.clock.follow(timestamp, now);
                self.follow(continuity);
                let Ok(facts) = inspect(&payload) else { return };
                let ticks = facts.duration;
                let is_pause = super::is_pause(&payload, facts.voice).unwrap_or(false);
                // A packet is cut as a whole or not at all.
                let is_cut = self.clock.spare(ticks, is_pause) == ticks;
                if is_cut {
                    self.clock.cut(ticks);
                } else {
                    self.packets.push((payload, ticks));
                }
                self.clock.packet(timestamp, ticks, if is_cut { 0 } else { ticks }, is_pause, now);
            }
            // The agent's decoder conceals what is missing.
            Slot::Lost { timestamp, duration, .. } => {
                let continuity = self.clock.follow(timestamp, now);
                self.follow(continuity);
                self.clock.lost(timestamp, duration, now);
            }
            Slot::Quiet { timestamp, duration } => {
                let continuity = self.clock.follow(timestamp, now);
                self.follow(continuity);
                let rest = self.clock.quiet(timestamp, duration, now);
                self.push_silence(rest);
            }
        }
    }

    /// Inserts silence in place of late audio.
    pub fn fill(&mut self, now: Instant) {
        let frames = self.clock.fill(now);
        self.push_silence(frames * TICKS_PER_FRAME);
    }

    /// Moves the packets to `queue`.
    pub fn hand_over(&mut self, queue: &mut Queue, now: Instant) {
        for (packet, ticks) in self.packets.drain(..) {
            if queue.push(packet, duration_of(ticks), now) {
                self.clock.dropped();
            }
        }
    }

    fn follow(&mut self, continuity: Continuity) {
        let (Continuity::Continues { silence } | Continuity::Restarts { silence }) = continuity;
        self.push_silence(silence);
    }

    fn push_silence(&mut self, ticks: u32) {
        self.silence += ticks;
        while self.silence >= TICKS_PER_FRAME {
            self.silence -= TICKS_PER_FRAME;
            self.packets.push((Bytes::from_static(&SILENCE), TICKS_PER_FRAME));
        }
    }
}
