//! Ogg: pages, the packets in them, and where their audio starts and ends (RFC 3533, RFC 7845, Vorbis I).
//!
//! A length is a difference of granule positions and never exceeds what was decoded: a stream cut from a longer one does not
//! start at zero, and recorders of voice notes omit the last position.

mod page;

use std::borrow::Cow;
use std::collections::VecDeque;

use symphonia::core::audio::{Channels, Position};
use symphonia::core::codecs::audio::AudioCodecParameters;
use symphonia::core::codecs::audio::well_known::{CODEC_ID_OPUS, CODEC_ID_VORBIS};

use super::sound::{Damaged, Packet, Sound, Stream};
use super::{Sounds, Work, flac};
use crate::prompt::PromptError;
use page::{Page, Pages};

/// A last page that trims more than this is wrong: an encoder pads one packet, and none is longer.
const PADDING_AT_MOST_SECONDS: u64 = 1;

/// Opus counts at 48 kHz, whatever its input was (RFC 7845 §4).
const OPUS_HZ: u32 = 48_000;

/// Most values in the codebooks of a Vorbis stream. Encoders use some hundred thousand. A decoder allocates a table of all,
/// and a few bytes of header can ask for gigabytes.
const CODEBOOK_VALUES_AT_MOST: u64 = 4_000_000;

/// A page with a wrong checksum is read to its end, and other pages may start within it.
const DAMAGED_PAGE_WORK: u64 = 32_000;

/// The streams of a file: the links of its chain.
pub(super) fn sounds<'a>(bytes: &'a [u8], work: &mut Work) -> Result<Sounds<'a>, PromptError> {
    let links = Link::all(bytes, work)?;
    if links.is_empty() {
        return Ok(vec![Err(PromptError::Undecodable("no Ogg stream begins in it".into()))]);
    }
    Ok(links.iter().map(|link| link.sound(work)).collect())
}

/// One stream after another. Of multiplexed streams, the first with audio is used.
struct Link<'a> {
    bytes: &'a [u8],
    stream: Option<(Codec, u32, &'a [u8])>,
    is_cut: bool,
}

/// The codec of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Opus,
    Vorbis,
    Flac,
}

impl<'a> Link<'a> {
    fn all(bytes: &'a [u8], work: &mut Work) -> Result<Vec<Self>, PromptError> {
        let mut links: Vec<(usize, Self)> = Vec::new();
        let mut is_beginning = false;
        let mut pages = Pages::new(bytes);
        for page in pages.by_ref() {
            let Ok(page) = page else {
                work.spend(DAMAGED_PAGE_WORK)?;
                continue;
            };
            if page.begins_stream() && !is_beginning {
                work.spend_sound()?;
                if let Some((start, link)) = links.last_mut() {
                    link.bytes = &bytes[*start..page.start];
                }
                links.push((page.start, Self { bytes: &bytes[page.start..], stream: None, is_cut: false }));
            }
            is_beginning = page.begins_stream();
            if let Some((_, link)) = links.last_mut().filter(|(_, link)| is_beginning && link.stream.is_none()) {
                link.stream = Codec::of(page.body).map(|codec| (codec, page.serial, page.body));
            }
        }
        if let Some((_, last)) = links.last_mut() {
            last.is_cut = pages.is_cut;
        }
        Ok(links.into_iter().map(|(_, link)| link).collect())
    }

    fn sound(&self, work: &mut Work) -> Result<Sound<'a>, PromptError> {
        let Some((codec, serial, head)) = self.stream else {
            return Err(PromptError::Undecodable("its Ogg stream is neither Opus nor Vorbis nor FLAC".into()));
        };
        let packets = Packets::new(self.bytes, serial, codec);
        let (parameters, lead) = match codec {
            Codec::Opus => opus_parameters(head)?,
            Codec::Vorbis => (vorbis_parameters(head, packets.clone(), work)?, 0),
            Codec::Flac => {
                let info = head.get(17..).and_then(|info| info.first_chunk()).ok_or_else(|| broken_header("FLAC"))?;
                (flac::parameters(&flac::agreeing_info(info, &[])), 0)
            }
        };
        Ok(Sound { parameters, stream: Stream::Ogg(packets), lead, tail: 0, announced: None, is_cut: self.is_cut })
    }
}

impl Codec {
    /// The codec whose first packet this is.
    fn of(packet: &[u8]) -> Option<Self> {
        match packet {
            [b'O', b'p', b'u', b's', b'H', b'e', b'a', b'd', ..] => Some(Self::Opus),
            [1, b'v', b'o', b'r', b'b', b'i', b's', ..] => Some(Self::Vorbis),
            [0x7f, b'F', b'L', b'A', b'C', ..] => Some(Self::Flac),
            _ => None,
        }
    }

    /// True for titles and setups, which have no audio.
    fn is_header(self, packet: &[u8]) -> bool {
        match self {
            Self::Opus => packet.starts_with(b"OpusHead") || packet.starts_with(b"OpusTags"),
            Self::Vorbis => packet[0] & 1 == 1,
            Self::Flac => packet[0] != 0xff,
        }
    }
}

fn broken_header(codec: &str) -> PromptError {
    PromptError::Undecodable(format!("its {codec} header is not whole"))
}

/// The decoder's parameters, and the frames to skip at the start (RFC 7845 §5.1).
fn opus_parameters(head: &[u8]) -> Result<(AudioCodecParameters, u64), PromptError> {
    let (Some(&channels), Some(&[low, high])) = (head.get(9), head.get(10..12).and_then(|skip| skip.first_chunk()))
    else {
        return Err(broken_header("Opus"));
    };
    let positions = match channels {
        1 => Position::FRONT_LEFT,
        2 => Position::FRONT_LEFT | Position::FRONT_RIGHT,
        _ => return Err(PromptError::Undecodable(format!("Ogg Opus with {channels} channels is not read"))),
    };
    let mut parameters = AudioCodecParameters::new();
    parameters.for_codec(CODEC_ID_OPUS).with_sample_rate(OPUS_HZ).with_channels(Channels::Positioned(positions));
    Ok((parameters, u64::from(u16::from_le_bytes([low, high]))))
}

/// The decoder takes the first header and the third (Vorbis I §4.2).
fn vorbis_parameters(
    head: &[u8],
    mut packets: Packets<'_>,
    work: &mut Work,
) -> Result<AudioCodecParameters, PromptError> {
    let setup = loop {
        match packets.next_of_any_kind() {
            Some(Ok(Packet { data: Some(data), .. })) if data.starts_with(b"\x05vorbis") => break data,
            Some(_) => work.spend(1)?,
            None => return Err(broken_header("Vorbis")),
        }
    };
    work.spend(8 * setup.len() as u64)?;
    let values = codebook_values(&setup);
    if values > CODEBOOK_VALUES_AT_MOST {
        return Err(PromptError::TooMuchWork);
    }
    work.spend(values)?;
    let mut parameters = AudioCodecParameters::new();
    parameters.for_codec(CODEC_ID_VORBIS).with_extra_data([head, &*setup].concat().into());
    Ok(parameters)
}

/// Dimensions times entries of every codebook. Each starts, at any bit, with a pattern that occurs elsewhere only by a
/// chance of one in sixteen million (Vorbis I §3.2.1).
fn codebook_values(setup: &[u8]) -> u64 {
    const PATTERN: u128 = 0x56_4342;
    let values_at = |bytes: &[u8]| {
        let mut window = [0; 16];
        window[..bytes.len()].copy_from_slice(bytes);
        let window = u128::from_le_bytes(window);
        let books = (0..8).map(|shift| window >> shift).filter(|bits| bits & 0xff_ffff == PATTERN);
        books.map(|bits| ((bits >> 24 & 0xffff) * (bits >> 40 & 0xff_ffff)) as u64).sum::<u64>()
    };
    (0..setup.len()).map(|at| values_at(&setup[at..setup.len().min(at + 9)])).sum()
}

/// The end of a page in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageEnd {
    /// The granule position: samples since the start of the stream.
    position: u64,
    is_last: bool,
}

/// The packets of one stream of one link, without its headers.
#[derive(Clone)]
pub(super) struct Packets<'a> {
    pages: Pages<'a>,
    serial: u32,
    codec: Codec,
    ready: VecDeque<Packet<'a>>,
    /// A packet that continues on the next page.
    begun: Option<Vec<u8>>,
    sequence: Option<u32>,
}

impl<'a> Packets<'a> {
    fn new(bytes: &'a [u8], serial: u32, codec: Codec) -> Self {
        Self { pages: Pages::new(bytes), serial, codec, ready: VecDeque::new(), begun: None, sequence: None }
    }

    fn next_of_any_kind(&mut self) -> Option<Result<Packet<'a>, Damaged>> {
        loop {
            if let Some(packet) = self.ready.pop_front() {
                return Some(Ok(packet));
            }
            match self.pages.next()? {
                Ok(page) if page.serial == self.serial => self.read(&page),
                Ok(_) => {}
                Err(damaged) => return Some(Err(damaged)),
            }
        }
    }

    fn read(&mut self, page: &Page<'a>) {
        let is_next = self.sequence.is_none_or(|before| before.wrapping_add(1) == page.sequence);
        self.sequence = Some(page.sequence);
        if !page.is_continued() || !is_next {
            self.begun = None;
        }
        // The start of its first packet is lost.
        let mut is_torn = page.is_continued() && self.begun.is_none();
        for (part, is_complete) in page.parts() {
            if is_torn {
                is_torn = !is_complete;
                continue;
            }
            let data = match self.begun.take() {
                Some(mut begun) => {
                    begun.extend_from_slice(part);
                    Cow::Owned(begun)
                }
                None => Cow::Borrowed(part),
            };
            match is_complete {
                // An empty packet counts as lost.
                true if data.is_empty() => {}
                true => self.ready.push_back(Packet { data: Some(data), page_end: None }),
                false => self.begun = Some(data.into_owned()),
            }
        }
        let page_end = page.position().map(|position| PageEnd { position, is_last: page.is_last() });
        match self.ready.back_mut() {
            Some(last) => last.page_end = page_end,
            None if page.is_last() => self.ready.push_back(Packet { data: None, page_end }),
            None => {}
        }
    }
}

impl<'a> Iterator for Packets<'a> {
    type Item = Result<Packet<'a>, Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let next = self.next_of_any_kind()?;
            let is_header = |packet: &Packet<'_>| packet.data.as_ref().is_some_and(|data| self.codec.is_header(data));
            if !next.as_ref().is_ok_and(is_header) {
                return Some(next);
            }
        }
    }
}

/// Compares granule positions with the frames decoded.
#[derive(Debug, Default)]
pub(super) struct Clock {
    first: Option<Mark>,
    last: Option<Mark>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    end: PageEnd,
    decoded: u64,
}

impl Clock {
    /// A page with a position has ended, after this many decoded frames.
    pub(super) fn page_ends(&mut self, end: PageEnd, decoded: u64) {
        let mark = Mark { end, decoded };
        self.first.get_or_insert(mark);
        self.last = Some(mark);
    }

    /// How many of the decoded frames only pad the last packet (RFC 7845 §4.4, Vorbis I §A.2).
    ///
    /// Positions count from that of the first page, wherever the stream starts. A stream on a single page starts at zero,
    /// unless its position exceeds what was decoded.
    pub(super) fn padding(&self, decoded: u64, hz: u32) -> u64 {
        let (Some(first), Some(last)) = (self.first, self.last) else { return 0 };
        if !last.end.is_last || last.decoded != decoded {
            return 0;
        }
        let length = match first == last {
            true => Some(last.end.position),
            false => last.end.position.checked_sub(first.end.position).map(|later| first.decoded.saturating_add(later)),
        };
        let padding = length.map_or(0, |length| decoded.saturating_sub(length));
        if padding <= PADDING_AT_MOST_SECONDS * u64::from(hz) { padding } else { 0 }
    }
}
