//! The frames of AudioSocket: one byte of kind, two of length in network byte order, the payload. Pure.
//!
//! As Asterisk's `res_audiosocket.c` has them; docs.asterisk.org, "AudioSocket".

use bytes::{Buf, BufMut, Bytes, BytesMut};
use patchcord_media::opus::SampleRate;

const HEADER_BYTES: usize = 3;

const HANG_UP: u8 = 0x00;
const ID: u8 = 0x01;
const DTMF: u8 = 0x03;
const ERROR: u8 = 0xff;
/// The kinds of audio by their rates in Hz: 16-bit little-endian samples, mono.
const AUDIO: [(u8, u32); 9] = [
    (0x10, 8_000),
    (0x11, 12_000),
    (0x12, 16_000),
    (0x13, 24_000),
    (0x14, 32_000),
    (0x15, 44_100),
    (0x16, 48_000),
    (0x17, 96_000),
    (0x18, 192_000),
];

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The end of the call.
    HangUp,
    /// The call's UUID: the first frame of the platform.
    Id([u8; 16]),
    /// A key.
    Dtmf(char),
    /// Samples at so many Hz.
    Audio {
        /// The samples per second.
        hz: u32,
        /// 16-bit little-endian, mono.
        samples: Bytes,
    },
    /// Something failed; the codes are the application's own.
    Error(Option<u8>),
}

/// Why bytes are no frame. The texts are for the agent's developer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A kind that the protocol does not have.
    #[error("it sent a frame of the kind {0:#04x}, which AudioSocket does not have")]
    UnknownKind(u8),
    /// A length that the kind cannot have.
    #[error("it sent a frame of the kind {kind:#04x} with {length} bytes")]
    WrongLength {
        /// The kind of the frame.
        kind: u8,
        /// What its header says.
        length: u16,
    },
    /// A key that no phone has.
    #[error("it sent a key that no phone has")]
    UnknownKey,
}

/// Finds the frames in a stream of bytes. It holds one incomplete frame at most, so less than 64 KiB.
#[derive(Debug, Default)]
pub struct FrameReader {
    unread: BytesMut,
}

impl FrameReader {
    /// Where the next bytes of the stream belong.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.unread
    }

    /// The next whole frame; None while it is incomplete. After an error nothing more can be read.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((&[kind, high, low], rest)) = self.unread.split_first_chunk() else { return Ok(None) };
        let length = u16::from_be_bytes([high, low]);
        // Before the payload has come: an attacker must not have us wait for it.
        check(kind, length)?;
        if rest.len() < usize::from(length) {
            return Ok(None);
        }
        self.unread.advance(HEADER_BYTES);
        let payload = self.unread.split_to(length.into()).freeze();
        frame_of(kind, payload).map(Some)
    }
}

impl Frame {
    /// Appends the frame's bytes. Audio at a rate that the protocol does not have, and audio of 64 KiB, are left out.
    pub fn write(&self, out: &mut BytesMut) {
        let key_byte;
        let (kind, payload): (u8, &[u8]) = match self {
            Self::HangUp => (HANG_UP, &[]),
            Self::Id(id) => (ID, id),
            Self::Dtmf(key) => {
                key_byte = [u8::try_from(*key).unwrap_or(b'?')];
                (DTMF, &key_byte)
            }
            Self::Audio { hz, samples } => match AUDIO.iter().find(|(_, rate)| rate == hz) {
                Some((kind, _)) => (*kind, samples),
                None => return,
            },
            Self::Error(code) => (ERROR, code.as_slice()),
        };
        let Ok(length) = u16::try_from(payload.len()) else { return };
        out.put_u8(kind);
        out.put_u16(length);
        out.put_slice(payload);
    }

    /// Audio at a rate of ours, which the protocol has all of.
    pub fn audio(rate: SampleRate, samples: Bytes) -> Self {
        Self::Audio { hz: rate.hz(), samples }
    }
}

fn check(kind: u8, length: u16) -> Result<(), FrameError> {
    let is_possible = match kind {
        HANG_UP => length == 0,
        ID => length == 16,
        DTMF => length == 1,
        ERROR => length <= 1,
        _ if rate_of(kind).is_some() => true,
        _ => return Err(FrameError::UnknownKind(kind)),
    };
    if is_possible { Ok(()) } else { Err(FrameError::WrongLength { kind, length }) }
}

/// The length has been checked.
fn frame_of(kind: u8, payload: Bytes) -> Result<Frame, FrameError> {
    let wrong_length = || FrameError::WrongLength { kind, length: payload.len() as u16 };
    match (kind, rate_of(kind)) {
        (HANG_UP, _) => Ok(Frame::HangUp),
        (ID, _) => payload[..].try_into().map(Frame::Id).map_err(|_| wrong_length()),
        (DTMF, _) => match payload.first().map(|key| char::from(*key)) {
            Some(key) if matches!(key, '0'..='9' | '*' | '#' | 'A'..='D') => Ok(Frame::Dtmf(key)),
            Some(_) => Err(FrameError::UnknownKey),
            None => Err(wrong_length()),
        },
        (ERROR, _) => Ok(Frame::Error(payload.first().copied())),
        (_, Some(hz)) => Ok(Frame::Audio { hz, samples: payload }),
        (_, None) => Err(FrameError::UnknownKind(kind)),
    }
}

fn rate_of(kind: u8) -> Option<u32> {
    AUDIO.iter().find(|(one, _)| *one == kind).map(|(_, hz)| *hz)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> (Vec<Frame>, Option<FrameError>) {
        let mut reader = FrameReader::default();
        reader.buffer().extend_from_slice(bytes);
        let mut frames = Vec::new();
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return (frames, None),
                Err(error) => return (frames, Some(error)),
            }
        }
    }

    #[test]
    fn frames_have_the_bytes_of_asterisks() {
        let mut out = BytesMut::new();
        Frame::Id(*b"0123456789abcdef").write(&mut out);
        Frame::audio(SampleRate::Hz8000, Bytes::from_static(&[1, 2])).write(&mut out);
        Frame::Dtmf('5').write(&mut out);
        Frame::HangUp.write(&mut out);
        let wanted = b"\x01\x00\x100123456789abcdef\x10\x00\x02\x01\x02\x03\x00\x015\x00\x00\x00";
        assert_eq!(&out[..], wanted);
    }

    #[test]
    fn an_incomplete_frame_waits_and_a_wrong_one_is_told_at_its_header() {
        assert_eq!(read(b"\x10\x01"), (vec![], None));
        assert_eq!(read(b"\x10\x00\x04\x00\x00"), (vec![], None));
        assert_eq!(read(b"\x00\x00\x00\x10"), (vec![Frame::HangUp], None));
        assert_eq!(read(b"\x42\xff\xff").1, Some(FrameError::UnknownKind(0x42)));
        assert_eq!(read(b"\x01\x00\x11").1, Some(FrameError::WrongLength { kind: 1, length: 17 }));
        assert_eq!(read(b"\x03\x00\x01x").1, Some(FrameError::UnknownKey));
        assert_eq!(read(b"\xff\x00\x01\x04\xff\x00\x00").0, [Frame::Error(Some(4)), Frame::Error(None)]);
        let error = FrameError::WrongLength { kind: 0, length: 9 };
        assert_eq!(error.to_string(), "it sent a frame of the kind 0x00 with 9 bytes");
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let audio = (0..AUDIO.len(), prop::collection::vec(any::<u8>(), 0..2000))
            .prop_map(|(rate, samples)| Frame::Audio { hz: AUDIO[rate].1, samples: samples.into() });
        prop_oneof![
            Just(Frame::HangUp),
            any::<[u8; 16]>().prop_map(Frame::Id),
            prop::sample::select(('0'..='9').collect::<Vec<_>>()).prop_map(Frame::Dtmf),
            audio,
            any::<Option<u8>>().prop_map(Frame::Error),
        ]
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_however_the_stream_is_cut(
            frames in prop::collection::vec(any_frame(), 0..8),
            piece in 1_usize..700,
        ) {
            let mut bytes = BytesMut::new();
            frames.iter().for_each(|frame| frame.write(&mut bytes));
            let (mut reader, mut found) = (FrameReader::default(), Vec::new());
            for piece in bytes.chunks(piece) {
                reader.buffer().extend_from_slice(piece);
                while let Some(frame) = reader.next_frame().unwrap() {
                    found.push(frame);
                }
            }
            prop_assert_eq!(found, frames);
        }

        #[test]
        fn any_bytes_are_frames_up_to_an_error_and_are_written_as_they_were_read(
            bytes in prop::collection::vec(prop_oneof![Just(0), Just(1), Just(3), 0x10_u8..=0x18, any::<u8>()], 0..300),
        ) {
            let (frames, _) = read(&bytes);
            let mut written = BytesMut::new();
            frames.iter().for_each(|frame| frame.write(&mut written));
            prop_assert!(bytes.starts_with(&written));
        }
    }
}
