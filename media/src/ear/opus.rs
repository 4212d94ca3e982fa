//! The caller's line as Opus packets, as they are, with silent ones in its pauses.

use std::time::Instant;

use bytes::Bytes;

use super::Queue;
use super::clock::{Clock, Joint};
use crate::opus::{SILENCE, inspect};
use crate::reorder::Slot;
use crate::timeline::{TICKS_PER_FRAME, duration_of};

#[derive(Debug)]
pub(super) struct OpusForm {
    clock: Clock,
    /// To be handed over after each slot, with the 48 kHz ticks that each lasts.
    packets: Vec<(Bytes, u32)>,
    /// Silence that is owed and shorter than a packet, in 48 kHz ticks.
    silence: u32,
}

impl OpusForm {
    pub fn new(now: Instant) -> Self {
        Self { clock: Clock::new(now), packets: Vec::new(), silence: 0 }
    }

    pub fn start(&mut self, now: Instant) {
        self.clock.start(now);
    }

    /// The sender is another.
    pub fn restart(&mut self, now: Instant) {
        let joint = self.clock.restart(now);
        self.join(joint);
    }

    pub fn hear(&mut self, slot: Slot, now: Instant) {
        match slot {
            Slot::Packet { timestamp, payload } => {
                let joint = self.clock.follow(timestamp, now);
                self.join(joint);
                let Ok(facts) = inspect(&payload) else { return };
                let ticks = facts.duration;
                let is_pause = super::is_pause(&payload, facts.voice).unwrap_or(false);
                // A packet goes as a whole or not at all.
                let is_cut = self.clock.spare(ticks, is_pause) == ticks;
                if is_cut {
                    self.clock.cut(ticks);
                } else {
                    self.packets.push((payload, ticks));
                }
                self.clock.packet(timestamp, ticks, if is_cut { 0 } else { ticks }, is_pause, now);
            }
            // The agent's decoder conceals what it does not get.
            Slot::Lost { timestamp, duration, .. } => {
                let joint = self.clock.follow(timestamp, now);
                self.join(joint);
                self.clock.lost(timestamp, duration, now);
            }
            Slot::Quiet { timestamp, duration } => {
                let joint = self.clock.follow(timestamp, now);
                self.join(joint);
                let rest = self.clock.quiet(timestamp, duration, now);
                self.be_silent(rest);
            }
        }
    }

    /// Gives silence in place of what is late.
    pub fn fill(&mut self, now: Instant) {
        let frames = self.clock.fill(now);
        self.be_silent(frames * TICKS_PER_FRAME);
    }

    /// Moves the packets to `queue`.
    pub fn hand_over(&mut self, queue: &mut Queue, now: Instant) {
        for (packet, ticks) in self.packets.drain(..) {
            if queue.push(packet, duration_of(ticks), now) {
                self.clock.dropped();
            }
        }
    }

    fn join(&mut self, joint: Joint) {
        let (Joint::GoesOn { silence } | Joint::Anew { silence }) = joint;
        self.be_silent(silence);
    }

    fn be_silent(&mut self, ticks: u32) {
        self.silence += ticks;
        while self.silence >= TICKS_PER_FRAME {
            self.silence -= TICKS_PER_FRAME;
            self.packets.push((Bytes::from_static(&SILENCE), TICKS_PER_FRAME));
        }
    }
}
