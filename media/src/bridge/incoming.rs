//! The caller's packets on their way to everybody who listens, and what it means when none comes.

use std::time::{Duration, Instant};

use super::{Bridge, BridgeEvent, FRAME};
use crate::opus::inspect;
use crate::reorder::Slot;
use crate::rtp::RtpPacket;
use crate::timeline::duration_of;

/// What a packet of a key, or of anything else, counts for beside the sound: 200 a second are more than anybody sends.
const OTHER_PACKET: Duration = Duration::from_millis(5);

impl Bridge {
    pub(super) fn hear(&mut self, packet: RtpPacket, now: Instant) {
        if self.next_frame_at.is_none() {
            // Nobody has answered the call yet.
            return;
        }
        if !self.intake.spend(self.sound_in(&packet), now) {
            self.excess += 1;
            return;
        }
        if packet.payload_type == self.options.opus_payload_type {
            self.follow(packet.ssrc, now);
            self.reorder.push(packet.sequence, packet.timestamp, packet.payload, now);
        } else {
            if self.caller_ssrc == Some(packet.ssrc) {
                self.reorder.skip(packet.sequence, now);
            }
            if Some(packet.payload_type) == self.options.telephone_event_payload_type {
                self.hear_keys(&packet, now);
            }
        }
        self.drain_reorder(now);
    }

    /// What a packet costs its sender of what may come.
    fn sound_in(&self, packet: &RtpPacket) -> Duration {
        match packet.payload_type == self.options.opus_payload_type {
            true => inspect(&packet.payload).map_or(FRAME, |facts| duration_of(facts.duration)),
            false => OTHER_PACKET,
        }
    }

    /// Another SSRC is another sender: nothing of the old line leads into the new one.
    fn follow(&mut self, ssrc: u32, now: Instant) {
        if self.caller_ssrc.replace(ssrc).is_some_and(|before| before != ssrc) {
            self.reorder.reset();
            self.agent_audio.restart(now);
            if let Some(recorder) = &mut self.recorder {
                recorder.caller_restarts();
            }
        }
    }

    pub(super) fn drain_reorder(&mut self, now: Instant) {
        while let Some(slot) = self.reorder.poll(now) {
            self.hear_slot(slot, now);
        }
    }

    /// Everybody who listens to the caller hears what comes next.
    fn hear_slot(&mut self, slot: Slot, now: Instant) {
        if let Some(recorder) = &mut self.recorder {
            recorder.caller(&slot, now);
        }
        if let Some(event) = self.speech.as_mut().and_then(|speech| speech.hear(&slot)) {
            self.events.push_back(BridgeEvent::Speech(event));
        }
        if let Some(mixer) = &mut self.mixer {
            mixer.push_caller(&slot);
        }
        if !self.agent_audio.is_mixed() && self.agent_hears_caller() {
            self.agent_audio.push(slot, now);
        }
    }

    /// Before the call is accepted nobody needs to send anything, but the checks are answered.
    pub(super) fn tell_silence(&mut self, now: Instant) {
        if self.is_over {
            return;
        }
        let silent_for = now.saturating_duration_since(self.liveness.heard_at);
        let sends_nothing = self.next_frame_at.is_some() && silent_for >= self.options.silence_warn_after;
        let is_silent = self.liveness.is_unanswered || sends_nothing;
        if std::mem::replace(&mut self.liveness.is_silent, is_silent) != is_silent {
            self.events.push_back(BridgeEvent::MediaSilent(is_silent));
        }
    }
}
