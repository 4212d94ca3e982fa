//! AudioTerms: the codec, payload types and packet length on which the two ends of an RTP line have agreed.

use std::time::Duration;

/// A codec of an RTP line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Relayed as it is (RFC 7587).
    Opus,
    /// G.711 mu-law.
    Pcmu,
    /// G.711 A-law.
    Pcma,
}

/// The payload types of one format: each side names the one that it wants to receive (RFC 3264 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadTypes {
    /// In what we send.
    pub send: u8,
    /// In what we receive.
    pub receive: u8,
}

/// Telephone-event (RFC 4733) as agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TelephoneEvent {
    /// Its payload types.
    pub payload_types: PayloadTypes,
    /// The clock of its durations: 8000 or 48000.
    pub clock_hz: u32,
}

/// What was agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioTerms {
    /// The codec of both directions.
    pub codec: Codec,
    /// Its payload types.
    pub payload_types: PayloadTypes,
    /// None if the remote takes no keys.
    pub telephone_event: Option<TelephoneEvent>,
    /// Payload type of comfort noise (RFC 3389), which the remote may send in its pauses.
    pub comfort_noise: Option<u8>,
    /// Length of the packets that we send: a multiple of 10 ms from 10 to 60 ms. Opus packets keep their own length.
    pub packet_length: Duration,
}

impl Codec {
    /// All of them, in our order of preference: Opus needs no transcoding.
    pub const ALL: [Self; 3] = [Self::Opus, Self::Pcmu, Self::Pcma];

    /// Ticks a second of its RTP timestamps.
    pub fn clock_hz(self) -> u32 {
        match self {
            Self::Opus => 48_000,
            Self::Pcmu | Self::Pcma => 8_000,
        }
    }

    /// As in an `a=rtpmap` line.
    pub fn rtpmap(self) -> &'static str {
        match self {
            Self::Opus => "opus/48000/2",
            Self::Pcmu => "PCMU/8000",
            Self::Pcma => "PCMA/8000",
        }
    }
}

impl PayloadTypes {
    /// The same number in both directions.
    pub fn both(payload_type: u8) -> Self {
        Self { send: payload_type, receive: payload_type }
    }
}

impl AudioTerms {
    /// Whether the remote may send this payload type.
    pub fn receives(&self, payload_type: u8) -> bool {
        self.payload_types.receive == payload_type
            || self.comfort_noise == Some(payload_type)
            || self.telephone_event.is_some_and(|event| event.payload_types.receive == payload_type)
    }

    /// Opus packets of 20 ms, as WebRTC negotiates them: one payload type for both directions, keys on an 8 kHz clock.
    pub fn webrtc(opus: u8, telephone_event: Option<u8>) -> Self {
        Self {
            codec: Codec::Opus,
            payload_types: PayloadTypes::both(opus),
            telephone_event: telephone_event
                .map(|number| TelephoneEvent { payload_types: PayloadTypes::both(number), clock_hz: 8_000 }),
            comfort_noise: None,
            packet_length: Duration::from_millis(20),
        }
    }
}
