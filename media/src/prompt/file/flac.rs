//! FLAC: a stream header corrected to agree with the frames after it (RFC 9639).

use std::io::{Cursor, Read};

use symphonia::core::codecs::audio::AudioCodecParameters;
use symphonia::core::codecs::audio::well_known::CODEC_ID_FLAC;
use symphonia::core::errors::Error as DecodeError;
use symphonia::core::formats::{FormatOptions, FormatReader};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions, ReadOnlySource};
use symphonia::default::formats::FlacReader;

use super::sound::{Damaged, Packet, Sound};
use super::{Sounds, Work};
use crate::prompt::PromptError;

const MARKER: &[u8] = b"fLaC";

/// The marker and the header of the first block (§8.1), without its last-block flag.
const BEGINNING: [&[u8]; 2] = [b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22"];

const INFO_BYTES: usize = 34;

/// Length of a rewritten stream header: the marker, a block header, the block.
const HEAD_BYTES: usize = 8 + INFO_BYTES;

/// One stream: its corrected header, and its frames.
pub(super) struct Stream<'a> {
    head: [u8; HEAD_BYTES],
    frames: &'a [u8],
}

/// The streams of a file: several where files were joined.
pub(super) fn sounds<'a>(bytes: &'a [u8], work: &mut Work) -> Result<Sounds<'a>, PromptError> {
    let begins = |at: &usize| BEGINNING.iter().any(|beginning| bytes[*at..].starts_with(beginning));
    let mut sounds = Vec::new();
    let mut start = 0;
    for end in (1..bytes.len()).filter(begins).chain([bytes.len()]) {
        work.spend_sound()?;
        sounds.push(sound(&bytes[start..end]));
        start = end;
    }
    Ok(sounds)
}

fn sound(bytes: &[u8]) -> Result<Sound<'_>, PromptError> {
    let unreadable = || PromptError::Undecodable("its FLAC header is not whole".into());
    let (info, frames) = blocks(&bytes[MARKER.len()..]).ok_or_else(unreadable)?;
    let info = agreeing_info(info, frames);
    // 36 bits, after the sizes of blocks and frames, the rate, the channels and the bits (§8.2).
    let announced = info[13..18].iter().fold(0, |number: u64, byte| number << 8 | u64::from(*byte)) & 0xf_ffff_ffff;
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(BEGINNING[1]);
    head[8..].copy_from_slice(&info);
    Ok(Sound {
        parameters: parameters(&info),
        stream: super::sound::Stream::Flac(Stream { head, frames }),
        lead: 0,
        tail: 0,
        announced: Some(announced),
        is_cut: false,
    })
}

/// The parameters of a FLAC decoder.
pub(super) fn parameters(info: &[u8; INFO_BYTES]) -> AudioCodecParameters {
    let mut parameters = AudioCodecParameters::new();
    parameters.for_codec(CODEC_ID_FLAC).with_extra_data(Box::from(&info[..]));
    parameters
}

/// The stream information, and the frames after all blocks. The other blocks are titles and pictures.
fn blocks(mut rest: &[u8]) -> Option<(&[u8; INFO_BYTES], &[u8])> {
    let mut info = None;
    loop {
        let &[kind, a, b, c, ref content @ ..] = rest else { return None };
        let size = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if kind & 0x7f == 0 && info.is_none() {
            info = content.first_chunk();
        }
        // A block longer than the file has a wrong size: the frames are searched for after its header.
        rest = content.get(size..).unwrap_or(content);
        if kind & 0x80 != 0 || content.len() < size {
            return Some((info?, &rest[first_frame(rest)..]));
        }
    }
}

/// Position of the first frame: 14 bits of ones and a zero, a zero, the blocking strategy (§9.1).
fn first_frame(bytes: &[u8]) -> usize {
    bytes.windows(2).position(|window| window[0] == 0xff && window[1] & 0xfe == 0xf8).unwrap_or(0)
}

/// The stream information, with sizes that agree with all frames.
///
/// Encoders leave 0 for the smallest block, or sizes that the frames exceed. Where all blocks are equal the two sizes must
/// be equal; otherwise the whole range is allowed.
pub(super) fn agreeing_info(info: &[u8; INFO_BYTES], frames: &[u8]) -> [u8; INFO_BYTES] {
    let is_variable = frames.get(1).is_some_and(|byte| byte & 1 == 1);
    let smallest: u16 = if is_variable { 16 } else { u16::MAX };
    let mut agreeing = *info;
    agreeing[..2].copy_from_slice(&smallest.to_be_bytes());
    agreeing[2..4].copy_from_slice(&u16::MAX.to_be_bytes());
    // The smallest and largest frames in bytes: unknown.
    agreeing[4..10].fill(0);
    agreeing
}

impl<'a> Stream<'a> {
    pub(super) fn packets(&self) -> Box<dyn Iterator<Item = Result<Packet<'a>, Damaged>> + 'a> {
        let source = ReadOnlySource::new(Cursor::new(self.head).chain(Cursor::new(self.frames)));
        let stream = MediaSourceStream::new(Box::new(source), MediaSourceStreamOptions::default());
        match FlacReader::try_new(stream, FormatOptions::default()) {
            Ok(reader) => Box::new(Packets { reader }),
            // There is no frame.
            Err(_) => Box::new(std::iter::empty()),
        }
    }
}

struct Packets<'a> {
    reader: FlacReader<'a>,
}

impl<'a> Iterator for Packets<'a> {
    type Item = Result<Packet<'a>, Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.reader.next_packet() {
            Ok(Some(packet)) => Some(Ok(Packet { data: Some(packet.data.into_vec().into()), page_end: None })),
            Err(DecodeError::DecodeError(_)) => Some(Err(Damaged)),
            Ok(None) | Err(_) => None,
        }
    }
}
