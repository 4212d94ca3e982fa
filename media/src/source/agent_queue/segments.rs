//! Segments: queued audio, one segment per format it arrived in.

use std::collections::VecDeque;

use bytes::Bytes;

use super::pcm::Pcm;
use crate::opus::SampleRate;
use crate::timeline::TICKS_PER_FRAME;

/// Segments that may be queued. An agent settles on one format, and seldom changes it while it speaks.
const MAX_SEGMENTS: usize = 4;

/// Packets for which an Opus segment keeps memory after it has been longer: 160 ms.
const PACKETS_KEPT: usize = 8;

/// Segments in playing order: the first is played, the last is filled.
#[derive(Debug)]
pub(super) struct Segments {
    playing: Segment,
    later: VecDeque<Segment>,
}

#[derive(Debug)]
pub(super) enum Segment {
    Pcm(Pcm),
    /// Whole 20 ms packets.
    Opus(VecDeque<Bytes>),
}

impl Segments {
    /// PCM at `rate`, or Opus packets for None.
    pub fn new(rate: Option<SampleRate>) -> Self {
        Self { playing: Segment::new(rate), later: VecDeque::new() }
    }

    pub fn playing(&self) -> &Segment {
        &self.playing
    }

    pub fn playing_mut(&mut self) -> &mut Segment {
        &mut self.playing
    }

    pub fn last(&self) -> &Segment {
        self.later.back().unwrap_or(&self.playing)
    }

    pub fn last_mut(&mut self) -> &mut Segment {
        self.later.back_mut().unwrap_or(&mut self.playing)
    }

    /// Whether audio of another format still fits.
    pub fn has_room_for(&self, rate: Option<SampleRate>) -> bool {
        let last = self.last();
        last.rate() == rate || last.is_empty() || self.later.len() + 1 < MAX_SEGMENTS
    }

    /// Later audio has this format, and starts with a whole sample.
    pub fn change_to(&mut self, rate: Option<SampleRate>) {
        let last = self.last_mut();
        match last.rate() == rate {
            true => last.drop_odd_byte(),
            false if last.is_empty() => *last = Segment::new(rate),
            false => {
                if let Segment::Pcm(pcm) = last {
                    pcm.finish();
                }
                self.later.push_back(Segment::new(rate));
            }
        }
    }

    /// Moves to the next segment once one is played out.
    pub fn advance(&mut self) {
        while self.playing.is_empty()
            && let Some(next) = self.later.pop_front()
        {
            self.playing = next;
        }
    }

    /// Discards up to 20 ms and returns how much, in 48 kHz ticks.
    pub fn discard_frame(&mut self) -> u64 {
        match &mut self.playing {
            Segment::Pcm(pcm) => pcm.discard_frame(),
            Segment::Opus(packets) => packets.pop_front().map_or(0, |_| u64::from(TICKS_PER_FRAME)),
        }
    }

    /// Drops all audio. The last format stays.
    pub fn clear(&mut self) {
        if let Some(last) = self.later.pop_back() {
            self.playing = last;
            self.later.clear();
        }
        match &mut self.playing {
            Segment::Pcm(pcm) => pcm.clear(),
            Segment::Opus(packets) => *packets = VecDeque::new(),
        }
    }
}

impl Segment {
    fn new(rate: Option<SampleRate>) -> Self {
        rate.map_or_else(|| Self::Opus(VecDeque::new()), |rate| Self::Pcm(Pcm::new(rate)))
    }

    /// Sample rate of PCM; None for Opus.
    pub fn rate(&self) -> Option<SampleRate> {
        match self {
            Self::Pcm(pcm) => Some(pcm.rate),
            Self::Opus(_) => None,
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Pcm(pcm) => pcm.is_empty(),
            Self::Opus(packets) => packets.is_empty(),
        }
    }

    /// The audio so far is complete.
    pub fn drop_odd_byte(&mut self) {
        if let Self::Pcm(pcm) = self {
            pcm.drop_odd_byte();
        }
    }

    /// 20 ms passed without a frame taken.
    pub fn idle(&mut self) {
        if let Self::Pcm(pcm) = self {
            pcm.idle();
        }
    }
}

/// The next packet, if there is one.
pub(super) fn take_packet(packets: &mut VecDeque<Bytes>) -> Option<Bytes> {
    let packet = packets.pop_front();
    give_back_memory(packets, PACKETS_KEPT);
    packet
}

/// One long answer must not pin its megabytes until the call ends, nor a burst its kilobytes. A queue shrinks to twice its
/// length, but never below `kept`.
pub(super) fn give_back_memory<T>(queue: &mut VecDeque<T>, kept: usize) {
    if queue.capacity() > kept && queue.len() * 4 <= queue.capacity() {
        queue.shrink_to((queue.len() * 2).max(kept));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_gives_its_memory_back_while_it_is_played() {
        for (burst, kept) in [(8_000, 1280), (1_920_000, 1280), (6_000, 8)] {
            let mut queue: VecDeque<i16> = VecDeque::new();
            queue.extend(std::iter::repeat_n(1, burst));
            let (mut capacity, mut moves) = (queue.capacity(), 0);
            while queue.pop_front().is_some() {
                give_back_memory(&mut queue, kept);
                moves += usize::from(std::mem::replace(&mut capacity, queue.capacity()) != queue.capacity());
                assert!(capacity <= kept || capacity < 4 * queue.len().max(1) || capacity <= 2 * kept, "{capacity}");
            }
            assert!(capacity <= kept, "{capacity}");
            assert!(moves <= 16, "{moves}");
        }
    }

    #[test]
    fn a_live_agent_needs_no_new_memory() {
        let mut queue = VecDeque::with_capacity(1280);
        for _ in 0..100 {
            queue.extend([1i16; 960]);
            queue.drain(..960);
            give_back_memory(&mut queue, 1280);
            assert!(queue.capacity() >= 1280);
        }
    }
}
