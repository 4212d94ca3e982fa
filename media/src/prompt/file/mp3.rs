//! MP3: frames found whatever precedes and separates them (ISO 11172-3 §2.4, 13818-3 §2.4).

use std::ops::Range;

use symphonia::core::audio::{Channels, Position};
use symphonia::core::codecs::audio::AudioCodecParameters;
use symphonia::core::codecs::audio::well_known::CODEC_ID_MP3;

use super::sound::{Sound, Stream};
use super::{Sounds, Work, id3_size};
use crate::prompt::PromptError;

/// How far the first frame is searched for, tags aside.
const JUNK_AT_MOST: usize = 64 * 1024;

/// Consecutive frames that prove the start of a frame.
const FRAMES_IN_A_ROW: usize = 3;

/// The decoder's delay, which adds to the encoder's.
const DECODER_DELAY: u64 = 529;

const KBITS_MPEG_1: [usize; 15] = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
const KBITS_MPEG_2: [usize; 15] = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];

/// The streams of a file, split where a header frame or another rate starts a new one.
pub(super) fn sounds<'a>(bytes: &'a [u8], work: &mut Work) -> Result<Sounds<'a>, PromptError> {
    let mut frames = Frames::new(bytes);
    let mut spans: Vec<Span> = Vec::new();
    for frame in frames.by_ref() {
        let tag = Tag::read(&frame);
        match spans.last_mut().filter(|span| tag.is_none() && span.header.is_like(&frame.header)) {
            Some(span) => span.range.end = frame.range.end,
            None => {
                work.spend_sound()?;
                spans.push(Span::begin(&frame, tag));
            }
        }
    }
    let last = spans.len().saturating_sub(1);
    let sound = |(index, span): (usize, Span)| Ok(span.sound(bytes, frames.is_cut && index == last));
    Ok(spans.into_iter().enumerate().map(sound).collect())
}

/// Consecutive frames of layer III; other bytes between them are skipped.
#[derive(Clone)]
pub(super) struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The previous frame, if the next one should start at its end.
    before: Option<Header>,
    has_begun: bool,
    /// True once the last frame is found to be truncated.
    is_cut: bool,
}

/// A frame and its position.
pub(super) struct Frame<'a> {
    pub bytes: &'a [u8],
    header: Header,
    range: Range<usize>,
}

impl<'a> Frames<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, before: None, has_begun: false, is_cut: false }
    }

    fn header_at(&self, at: usize) -> Option<Header> {
        self.bytes.get(at..)?.first_chunk().and_then(Header::read)
    }

    /// True if enough consecutive frames follow here, or fewer up to the end of the file.
    fn is_row(&self, mut at: usize, first: Header) -> bool {
        let mut header = first;
        for _ in 1..FRAMES_IN_A_ROW {
            at += header.bytes;
            match self.header_at(at) {
                Some(next) if next.is_like(&header) => header = next,
                // The only frames of a file, up to its end or to a tag at its end.
                _ => return at >= self.bytes.len().saturating_sub(3) || self.bytes[at..].starts_with(b"TAG"),
            }
        }
        true
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        while self.at < self.bytes.len() && (self.has_begun || self.at < JUNK_AT_MOST) {
            if let Some(size) = id3_size(&self.bytes[self.at..]).filter(|size| self.at + size < self.bytes.len()) {
                self.at += size;
                self.before = None;
                continue;
            }
            let header = self.header_at(self.at);
            let believed = |header: &Header| {
                self.before.is_some_and(|before| before.is_like(header)) || self.is_row(self.at, *header)
            };
            let Some(header) = header.filter(believed) else {
                self.before = None;
                self.at += 1;
                continue;
            };
            let range = self.at..self.at + header.bytes;
            self.at = range.end;
            let Some(bytes) = self.bytes.get(range.clone()) else {
                self.is_cut = self.before.is_some();
                return None;
            };
            self.has_begun = true;
            self.before = Some(header);
            return Some(Frame { bytes, header, range });
        }
        None
    }
}

/// The four header bytes of a frame.
#[derive(Debug, Clone, Copy)]
struct Header {
    is_mpeg_1: bool,
    rate: u32,
    channels: usize,
    /// Length of the whole frame, with these four.
    bytes: usize,
    /// Audio frames.
    samples: u64,
}

impl Header {
    fn read(header: &[u8; 4]) -> Option<Self> {
        let [0xff, kind, rates, mode] = *header else { return None };
        let is_layer_3 = kind & 0b1110_0110 == 0b1110_0010;
        let rate = [44_100, 48_000, 32_000].get(usize::from(rates >> 2 & 0b11)).filter(|_| is_layer_3)?;
        let (is_mpeg_1, rate) = match kind >> 3 & 0b11 {
            0b11 => (true, *rate),
            0b10 => (false, rate / 2),
            0b00 => (false, rate / 4),
            _ => return None,
        };
        let (kbits, samples) = if is_mpeg_1 { (KBITS_MPEG_1, 1152) } else { (KBITS_MPEG_2, 576) };
        // Bit rate 0 means free format, in which the length of a frame is unknown.
        let kbits = kbits.get(usize::from(rates >> 4)).filter(|kbits| **kbits > 0)?;
        let padding = usize::from(rates >> 1 & 1);
        let bytes = samples as usize / 8 * kbits * 1000 / rate as usize + padding;
        let channels = if mode >> 6 == 0b11 { 1 } else { 2 };
        Some(Self { is_mpeg_1, rate, channels, bytes, samples })
    }

    fn is_like(&self, other: &Self) -> bool {
        (self.is_mpeg_1, self.rate, self.channels) == (other.is_mpeg_1, other.rate, other.channels)
    }

    /// Bytes between the header and the audio's bits.
    fn side_bytes(&self) -> usize {
        match (self.is_mpeg_1, self.channels) {
            (true, 1) | (false, 2) => 17,
            (true, _) => 32,
            (false, _) => 9,
        }
    }
}

/// The encoder's description of the frames that follow, in a frame of its own: "Xing", "Info" or "VBRI".
struct Tag {
    frames: Option<u64>,
    delay: u64,
    padding: u64,
}

impl Tag {
    fn read(frame: &Frame<'_>) -> Option<Self> {
        let number = |at: usize| frame.bytes.get(at..)?.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
        // A CRC may precede the side information; writers of the tag do not count it.
        let xing = 4 + frame.header.side_bytes();
        let vbri = 4 + 32;
        match frame.bytes.get(xing..xing + 4)? {
            b"Xing" | b"Info" => {}
            _ if frame.bytes.get(vbri..vbri + 4) == Some(b"VBRI") => {
                return Some(Self { frames: number(vbri + 14).map(u64::from), delay: 0, padding: 0 });
            }
            _ => return None,
        }
        let flags = number(xing + 4)?;
        let frames = if flags & 1 != 0 { number(xing + 8).map(u64::from) } else { None };
        let fields = [(1, 4), (2, 4), (4, 100), (8, 4)];
        let lame = xing + 8 + fields.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, size)| size).sum::<usize>();
        let is_known = |name: &[u8]| [b"LAME", b"Lavf", b"Lavc"].iter().any(|known| name == *known);
        let trim = number(lame + 20).filter(|_| frame.bytes.get(lame..lame + 4).is_some_and(is_known));
        let (delay, padding) = trim.map_or((0, 0), |trim| {
            // Twelve bits each, after the byte of the bit rate.
            let (delay, padding) = (u64::from(trim >> 12 & 0xfff), u64::from(trim & 0xfff));
            (delay + DECODER_DELAY, padding.saturating_sub(DECODER_DELAY))
        });
        Some(Self { frames, delay, padding })
    }
}

/// The position of one stream, and its tag.
struct Span {
    range: Range<usize>,
    header: Header,
    tag: Option<Tag>,
}

impl Span {
    /// A frame with a tag has no audio.
    fn begin(frame: &Frame<'_>, tag: Option<Tag>) -> Self {
        let start = if tag.is_some() { frame.range.end } else { frame.range.start };
        Self { range: start..frame.range.end, header: frame.header, tag }
    }

    fn sound<'a>(self, bytes: &'a [u8], is_cut: bool) -> Sound<'a> {
        let channels = match self.header.channels {
            1 => Position::FRONT_LEFT,
            _ => Position::FRONT_LEFT | Position::FRONT_RIGHT,
        };
        let mut parameters = AudioCodecParameters::new();
        parameters
            .for_codec(CODEC_ID_MP3)
            .with_sample_rate(self.header.rate)
            .with_channels(Channels::Positioned(channels));
        let (lead, tail) = self.tag.as_ref().map_or((0, 0), |tag| (tag.delay, tag.padding));
        let frames = self.tag.and_then(|tag| tag.frames);
        let announced = frames.map(|frames| (frames * self.header.samples).saturating_sub(lead + tail));
        let mut frames = Frames::new(&bytes[self.range]);
        // The stream starts with a frame, however few follow.
        frames.before = Some(self.header);
        Sound { parameters, stream: Stream::Mp3(frames), lead, tail, announced, is_cut }
    }
}
