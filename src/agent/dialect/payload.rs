//! Payload: sound as the foreign protocols carry it, bare or as base64 in JSON.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use patchcord_media::g711::Law;
use patchcord_media::opus::SampleRate;

use crate::agent::{Encoding, SoundFormat};

/// Some apps leave out the padding, or bits of the last byte.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// How sound is encoded on the wire. The call's side is PCM, 16-bit little-endian, except for Opus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Payload {
    /// mu-law at 8 kHz.
    #[default]
    Mulaw,
    /// PCM, 16-bit little-endian.
    L16,
    /// One Opus packet.
    Opus,
}

impl Payload {
    /// What carries this format: mu-law at 8 kHz, which every app of these protocols takes, and PCM at higher rates.
    pub fn of(format: SoundFormat) -> Self {
        match (format.encoding, format.sample_rate) {
            (Encoding::Opus, _) => Self::Opus,
            (Encoding::PcmS16le, SampleRate::Hz8000) => Self::Mulaw,
            (Encoding::PcmS16le, _) => Self::L16,
        }
    }

    /// From the call to the wire.
    pub fn encode(self, sound: Bytes) -> Bytes {
        match self {
            Self::Mulaw => samples(&sound).map(|sample| Law::Mu.encode(sample)).collect(),
            Self::L16 | Self::Opus => sound,
        }
    }

    /// From the wire to the call.
    pub fn decode(self, payload: Bytes) -> Bytes {
        match self {
            Self::Mulaw => {
                let samples = payload.iter().map(|byte| Law::Mu.decode(*byte).to_le_bytes());
                samples.collect::<Vec<_>>().into_flattened().into()
            }
            Self::L16 | Self::Opus => payload,
        }
    }

    /// From the call to a string of a JSON message.
    pub fn to_base64(self, sound: Bytes) -> String {
        BASE64.encode(self.encode(sound))
    }

    /// From a string of a JSON message to the call. The error is a sentence for the agent's developer.
    pub fn of_base64(self, text: &str) -> Result<Bytes, String> {
        let payload = BASE64.decode(text).or_else(|_| BASE64.decode(plain(text)));
        let payload = payload.map_err(|error| format!("the payload is not base64: {error}"))?;
        Ok(self.decode(payload.into()))
    }
}

/// Some encoders break lines, and some have the alphabet for URLs (RFC 4648 §5).
fn plain(text: &str) -> String {
    let standard = |letter| match letter {
        '-' => '+',
        '_' => '/',
        other => other,
    };
    text.chars().filter(|letter| !letter.is_ascii_whitespace()).map(standard).collect()
}

fn samples(sound: &[u8]) -> impl Iterator<Item = i16> {
    sound.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_encoding_is_its_own_inverse() {
        // Values that mu-law has exactly.
        let sound: Bytes = [0i16, 132, -132, 32124, -32124].into_iter().flat_map(i16::to_le_bytes).collect();
        for payload in [Payload::Mulaw, Payload::L16, Payload::Opus] {
            let text = payload.to_base64(sound.clone());
            assert_eq!(payload.of_base64(&text), Ok(sound.clone()), "{payload:?}");
            assert_eq!(payload.of_base64(text.trim_end_matches('=')), Ok(sound.clone()), "without padding");
        }
        assert!(Payload::Mulaw.of_base64("§").unwrap_err().contains("base64"));
    }

    #[test]
    fn base64_is_read_as_encoders_differ() {
        let sound = Bytes::from_static(&[0xfb, 0xff, 0xbe, 0xff]);
        for text in ["+/++/w==", "+/++/w", "+/+\r\n+/w==\n", "-_--_w", "+/++/x"] {
            assert_eq!(Payload::L16.of_base64(text), Ok(sound.clone()), "{text:?}");
        }
        assert_eq!(Payload::L16.of_base64(""), Ok(Bytes::new()));
    }
}
