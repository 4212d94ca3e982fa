//! The caller's packets in any order, at any time, with any content: slots stay in order and short, and an agent
//! of PCM hears whole frames.
#![no_main]

use std::time::{Duration, Instant};

use bytes::Bytes;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use patchcord_media::agent_audio::AgentAudio;
use patchcord_media::opus::SampleRate;
use patchcord_media::reorder::{DEFAULT_WAIT, Reorder, Slot};

/// One second of 48 kHz ticks.
const SECOND: u32 = 48_000;

#[derive(Debug, Arbitrary)]
enum Step {
    /// A packet where the line would have it, give or take.
    Near {
        sequence: i8,
        timestamp: i16,
        payload: Payload,
    },
    /// A packet from anywhere.
    Anywhere {
        sequence: u16,
        timestamp: u32,
        payload: Payload,
    },
    Key {
        sequence: i8,
    },
    Wait {
        ms: u8,
    },
    NewSender,
}

#[derive(Debug, Arbitrary)]
enum Payload {
    /// A SILK frame of 20 ms that may carry the one before it.
    Frame {
        header: u8,
        rest: [u8; 4],
    },
    Any(Vec<u8>),
}

fuzz_target!(|steps: Vec<Step>| {
    let mut now = Instant::now();
    let mut reorder = Reorder::new(DEFAULT_WAIT);
    let mut audio = AgentAudio::new(now);
    audio.attach_pcm(SampleRate::Hz16000, now).expect("libopus opens a decoder");
    let (mut sequence, mut timestamp) = (0_u16, 0_u32);
    for step in steps {
        match step {
            Step::Near { sequence: off, timestamp: ticks, payload } => {
                sequence = sequence.wrapping_add(1);
                timestamp = timestamp.wrapping_add(960);
                let sequence = sequence.wrapping_add_signed(off.into());
                let timestamp = timestamp.wrapping_add_signed(i32::from(off) * 960 + i32::from(ticks));
                reorder.push(sequence, timestamp, payload.bytes(), now);
            }
            Step::Anywhere { sequence: at, timestamp: ticks, payload } => {
                (sequence, timestamp) = (at, ticks);
                reorder.push(at, ticks, payload.bytes(), now);
            }
            Step::Key { sequence: off } => reorder.skip(sequence.wrapping_add_signed(off.into()), now),
            Step::Wait { ms } => now += Duration::from_millis(ms.into()),
            Step::NewSender => reorder.reset(),
        }
        while let Some(slot) = reorder.poll(now) {
            if let Slot::Lost { duration, .. } | Slot::Quiet { duration, .. } = &slot {
                assert!((1..=SECOND).contains(duration), "{slot:?}");
            }
            audio.push(slot, now);
        }
        if reorder.poll_timeout().is_none() {
            audio.fill(now);
        }
        while let Some(sound) = audio.take() {
            assert_eq!(sound.len(), 640);
        }
        // After a poll nothing is due any more.
        assert!(reorder.poll_timeout().is_none_or(|at| at > now), "polled and still due");
    }
});

impl Payload {
    fn bytes(self) -> Bytes {
        match self {
            Self::Frame { header, rest } => [&[0x48, header], &rest[..]].concat().into(),
            Self::Any(bytes) => bytes.into(),
        }
    }
}
