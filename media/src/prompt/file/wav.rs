//! WAV: chunks read by the bytes that are there, whatever their announced sizes (RIFF; RF64 and BW64 of EBU Tech 3306).
//!
//! An encoder that writes to a pipe cannot fill in a length afterwards: it leaves 0, the highest number, or a guess.

use symphonia::core::audio::Channels;
use symphonia::core::codecs::audio::well_known::{
    CODEC_ID_PCM_ALAW, CODEC_ID_PCM_F32LE, CODEC_ID_PCM_F64LE, CODEC_ID_PCM_MULAW, CODEC_ID_PCM_S16LE,
    CODEC_ID_PCM_S24LE, CODEC_ID_PCM_S32LE, CODEC_ID_PCM_U8,
};
use symphonia::core::codecs::audio::{AudioCodecId, AudioCodecParameters};

use super::sound::{Sound, Stream};
use super::{Sounds, Work, mp3};
use crate::prompt::{MAX_CHANNELS, MAX_FILE_BYTES, PromptError};

/// Frames decoded at once.
const FRAMES_PER_PACKET: usize = 1024;

/// Bytes after the samples that are not a chunk count as audio after a wrong size, if they are at least this share of the
/// file. Fewer are stray bytes.
const STRAY_SHARE: usize = 5;

/// Tolerance for the announced size of the whole file.
const SIZE_TOLERANCE: usize = 16;

/// Samples as stored in the file.
pub(super) struct Samples<'a> {
    data: &'a [u8],
    frame_bytes: usize,
}

impl<'a> Samples<'a> {
    pub(super) fn packets(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let whole = self.data.len() / self.frame_bytes * self.frame_bytes;
        self.data[..whole].chunks(self.frame_bytes * FRAMES_PER_PACKET)
    }
}

/// True where a RIFF file of type WAVE starts.
pub(super) fn is_wav(bytes: &[u8]) -> bool {
    let is_riff = [b"RIFF", b"RF64", b"BW64"].iter().any(|id| bytes.starts_with(*id));
    is_riff && bytes.get(8..12) == Some(b"WAVE")
}

/// The streams of a file: each data chunk, and each RIFF joined to another.
pub(super) fn sounds<'a>(bytes: &'a [u8], work: &mut Work) -> Result<Sounds<'a>, PromptError> {
    let mut sounds = Vec::new();
    let mut rest = bytes;
    while is_wav(rest) {
        let riff = Riff::walk(rest, work)?;
        rest = riff.behind;
        sounds.append(&mut riff.sounds(work)?);
    }
    Ok(sounds)
}

/// One RIFF, read.
struct Riff<'a> {
    format: Option<&'a [u8]>,
    data: Vec<Data<'a>>,
    /// What follows it, if it is another RIFF.
    behind: &'a [u8],
}

/// The samples of one data chunk.
struct Data<'a> {
    bytes: &'a [u8],
    /// Their announced length, where it is plausible.
    announced: Option<usize>,
}

/// A chunk's header and the rest of the file from there.
struct Chunk<'a> {
    id: [u8; 4],
    size: usize,
    content: &'a [u8],
}

impl<'a> Riff<'a> {
    fn walk(bytes: &'a [u8], work: &mut Work) -> Result<Self, PromptError> {
        work.spend_sound()?;
        let mut riff = Self { format: None, data: Vec::new(), behind: &[] };
        let whole_size = size_at(bytes, 4).map_or(0, |size| size.saturating_add(8));
        let is_whole = whole_size.abs_diff(bytes.len()) <= SIZE_TOLERANCE;
        let mut long_size = None;
        let mut rest = &bytes[12..];
        while let Some(chunk) = Chunk::read(rest) {
            if is_wav(rest) {
                riff.behind = rest;
                break;
            }
            let mut length = chunk.size.min(chunk.content.len());
            match &chunk.id {
                b"fmt " if riff.format.is_none() => riff.format = Some(&chunk.content[..length]),
                // A 64-bit size of the data is in a chunk of its own.
                b"ds64" => long_size = size_at(chunk.content, 8).filter(|_| size_at(chunk.content, 12) == Some(0)),
                b"data" => {
                    work.spend_sound()?;
                    let data = Data::read(&chunk, long_size.take(), is_whole);
                    length = data.bytes.len();
                    riff.data.push(data);
                }
                _ => {}
            }
            rest = behind(chunk.content, length);
        }
        riff.repair(&bytes[..bytes.len() - riff.behind.len()]);
        Ok(riff)
    }

    /// A chunk with a wrong size hides those after it: then they are searched for by name.
    fn repair(&mut self, bytes: &'a [u8]) {
        let find = |id: &[u8; 4], from: usize| {
            let at = bytes.get(from..)?.windows(4).position(|window| window == id)?;
            Chunk::read(&bytes[from + at..])
        };
        if self.format.is_none() {
            self.format = find(b"fmt ", 12).map(|chunk| &chunk.content[..chunk.size.min(chunk.content.len())]);
        }
        if self.data.is_empty() {
            self.data.extend(find(b"data", 12).map(|chunk| Data::read(&chunk, None, true)));
        }
    }

    fn sounds(self, work: &mut Work) -> Result<Sounds<'a>, PromptError> {
        let Some(format) = self.format.and_then(Format::read) else {
            let reason = "the WAV file does not say how its samples are written";
            return Ok(vec![Err(PromptError::Undecodable(reason.into()))]);
        };
        if self.data.is_empty() {
            return Ok(vec![Err(PromptError::NoSound)]);
        }
        let sounds = |data: &Data<'a>| match format.tag {
            MP3_IN_WAV => mp3::sounds(data.bytes, work),
            _ => Ok(vec![format.sound(data)]),
        };
        let sounds: Vec<Sounds<'a>> = self.data.iter().map(sounds).collect::<Result<_, _>>()?;
        Ok(sounds.into_iter().flatten().collect())
    }
}

impl<'a> Chunk<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let id = *bytes.first_chunk::<4>()?;
        Some(Self { id, size: size_at(bytes, 4)?, content: bytes.get(8..)? })
    }

    /// False for samples in the place of a chunk.
    fn is_plausible(&self) -> bool {
        self.id.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') && self.size <= self.content.len()
    }
}

impl<'a> Data<'a> {
    fn read(chunk: &Chunk<'a>, long_size: Option<usize>, is_whole: bool) -> Self {
        let there = chunk.content.len();
        let size = long_size.unwrap_or(chunk.size);
        // Zero, or more than the largest file: written before the length was known.
        if size == 0 && !is_empty(chunk.content) || size > MAX_FILE_BYTES {
            return Self { bytes: chunk.content, announced: None };
        }
        if size > there {
            // Where the size of the whole file is right, nothing is missing, and this size is wrong.
            return Self { bytes: chunk.content, announced: Some(size).filter(|_| !is_whole) };
        }
        let stray = behind(chunk.content, size);
        let is_sound = stray.len() > there / STRAY_SHARE && !is_wav(stray);
        if is_sound && Chunk::read(stray).is_none_or(|next| !next.is_plausible()) {
            return Self { bytes: chunk.content, announced: None };
        }
        Self { bytes: &chunk.content[..size], announced: Some(size) }
    }
}

/// True if chunks follow, or nothing.
fn is_empty(content: &[u8]) -> bool {
    content.is_empty() || Chunk::read(content).is_some_and(|next| next.is_plausible())
}

/// The bytes after a chunk. One of odd length is padded by a byte, which some writers omit.
fn behind(content: &[u8], length: usize) -> &[u8] {
    let rest = &content[length..];
    match rest {
        [0, padded @ ..] if length % 2 == 1 => padded,
        _ => rest,
    }
}

fn size_at(bytes: &[u8], at: usize) -> Option<usize> {
    let size = bytes.get(at..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*size)).ok()
}

/// The format chunk. Its first 16 bytes are enough for all but WAVE_FORMAT_EXTENSIBLE.
struct Format {
    tag: u16,
    channels: usize,
    rate: u32,
    frame_bytes: usize,
    bits: usize,
}

/// The sample type is in the first bytes of a GUID.
const EXTENSIBLE: u16 = 0xfffe;

/// A whole MP3 in the place of samples.
const MP3_IN_WAV: u16 = 0x55;

impl Format {
    fn read(chunk: &[u8]) -> Option<Self> {
        let short = |at: usize| chunk.get(at..)?.first_chunk::<2>().copied().map(u16::from_le_bytes);
        let rate = chunk.get(4..)?.first_chunk::<4>().copied().map(u32::from_le_bytes)?;
        let tag = match short(0)? {
            EXTENSIBLE => short(24).unwrap_or(1),
            tag => tag,
        };
        Some(Self {
            tag,
            channels: usize::from(short(2)?),
            rate,
            frame_bytes: usize::from(short(12)?),
            bits: usize::from(short(14)?),
        })
    }

    fn sound<'a>(&self, data: &Data<'a>) -> Result<Sound<'a>, PromptError> {
        if !(1..=MAX_CHANNELS).contains(&self.channels) {
            return Err(PromptError::Channels(self.channels));
        }
        let (codec, bytes) = self.codec()?;
        let frame_bytes = bytes * self.channels;
        let mut parameters = AudioCodecParameters::new();
        parameters.for_codec(codec).with_sample_rate(self.rate).with_channels(Channels::Discrete(self.channels as u16));
        Ok(Sound {
            parameters,
            stream: Stream::Wav(Samples { data: data.bytes, frame_bytes }),
            lead: 0,
            tail: 0,
            announced: data.announced.map(|size| (size / frame_bytes) as u64),
            is_cut: false,
        })
    }

    /// The sample type, and the bytes per sample: its width in a frame, where that is plausible.
    fn codec(&self) -> Result<(AudioCodecId, usize), PromptError> {
        let by_frame = Some(self.frame_bytes / self.channels).filter(|bytes| bytes * self.channels == self.frame_bytes);
        let bytes = by_frame.filter(|bytes| *bytes * 8 >= self.bits && *bytes > 0).unwrap_or(self.bits.div_ceil(8));
        match (self.tag, bytes) {
            (1, 1) => Ok((CODEC_ID_PCM_U8, 1)),
            (1, 2) => Ok((CODEC_ID_PCM_S16LE, 2)),
            (1, 3) => Ok((CODEC_ID_PCM_S24LE, 3)),
            (1, 4) => Ok((CODEC_ID_PCM_S32LE, 4)),
            (3, 4) => Ok((CODEC_ID_PCM_F32LE, 4)),
            (3, 8) => Ok((CODEC_ID_PCM_F64LE, 8)),
            (6, _) => Ok((CODEC_ID_PCM_ALAW, 1)),
            (7, _) => Ok((CODEC_ID_PCM_MULAW, 1)),
            (tag, _) => {
                let bits = self.bits;
                Err(PromptError::Undecodable(format!(
                    "WAV with samples of kind {tag:#06x} and {bits} bits is not read"
                )))
            }
        }
    }
}
