//! Audio from the call to the phone.

use std::time::{Duration, Instant};

use crate::audio_terms::{AudioTerms, Codec};
use crate::g711::Law;
use crate::opus::{SILENCE, SampleRate};
use crate::rtp_leg::RtpLeg;

const RATE: SampleRate = SampleRate::Hz8000;

pub(super) enum ToPhone {
    Opus,
    G711(G711Packets),
}

/// PCM on its way into packets of the negotiated length.
pub(super) struct G711Packets {
    law: Law,
    packet_bytes: usize,
    /// Less than one packet.
    encoded: Vec<u8>,
}

impl ToPhone {
    pub fn new(terms: &AudioTerms) -> Self {
        let law = match terms.codec {
            Codec::Opus => return Self::Opus,
            Codec::Pcmu => Law::Mu,
            Codec::Pcma => Law::A,
        };
        Self::G711(G711Packets { law, packet_bytes: packet_bytes(terms.packet_length), encoded: Vec::new() })
    }

    /// Follows another packet length.
    pub fn follow(&mut self, terms: &AudioTerms) {
        match self {
            Self::Opus => {}
            Self::G711(g711) => g711.packet_bytes = packet_bytes(terms.packet_length),
        }
    }

    /// Sends 20 ms of the call's audio.
    pub fn send(&mut self, leg: &mut RtpLeg, audio: &[u8], now: Instant) {
        match self {
            Self::Opus => leg.relay(audio, now),
            Self::G711(g711) => {
                let samples = audio.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]]));
                g711.send(leg, samples, now);
            }
        }
    }

    /// Sends 20 ms of silence.
    pub fn send_silence(&mut self, leg: &mut RtpLeg, now: Instant) {
        match self {
            Self::Opus => leg.relay(&SILENCE, now),
            Self::G711(g711) => g711.send(leg, std::iter::repeat_n(0, RATE.samples_per_frame()), now),
        }
    }
}

impl G711Packets {
    /// A key takes the place of the frame; what waits before it is sent as a shorter packet.
    fn send(&mut self, leg: &mut RtpLeg, samples: impl Iterator<Item = i16>, now: Instant) {
        if leg.has_keys() && !self.encoded.is_empty() {
            leg.send_packet(&self.encoded, true, now);
            self.encoded.clear();
        }
        if leg.send_key(now).is_some() {
            return;
        }
        self.encoded.extend(samples.map(|sample| self.law.encode(sample)));
        while self.encoded.len() >= self.packet_bytes {
            leg.send_packet(&self.encoded[..self.packet_bytes], true, now);
            self.encoded.drain(..self.packet_bytes);
        }
    }
}

/// One byte a sample.
fn packet_bytes(length: Duration) -> usize {
    RATE.samples_in(length.clamp(Duration::from_millis(10), Duration::from_millis(60)))
}
