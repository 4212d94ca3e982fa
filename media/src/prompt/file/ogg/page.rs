//! Page: the unit of an Ogg file, with a checksum of its own (RFC 3533 §6).

use symphonia::core::checksum::Crc32;
use symphonia::core::io::Monitor;

use crate::prompt::file::sound::Damaged;

const CAPTURE: &[u8] = b"OggS";

const HEADER_BYTES: usize = 27;

/// Position of the checksum in the header.
const CRC: std::ops::Range<usize> = 22..26;

const CONTINUED: u8 = 1;
const FIRST: u8 = 2;
const LAST: u8 = 4;

/// No packet ends on a page with this position.
const NO_POSITION: u64 = u64::MAX;

/// One whole page.
pub(super) struct Page<'a> {
    /// Its position in the file.
    pub start: usize,
    pub serial: u32,
    pub sequence: u32,
    pub body: &'a [u8],
    flags: u8,
    position: u64,
    /// How the body is split into packets.
    lacing: &'a [u8],
}

impl<'a> Page<'a> {
    pub(super) fn begins_stream(&self) -> bool {
        self.flags & FIRST != 0
    }

    pub(super) fn is_continued(&self) -> bool {
        self.flags & CONTINUED != 0
    }

    pub(super) fn is_last(&self) -> bool {
        self.flags & LAST != 0
    }

    /// The granule position, if there is one.
    pub(super) fn position(&self) -> Option<u64> {
        Some(self.position).filter(|position| *position != NO_POSITION)
    }

    /// Packets, and false with the last if it continues on the next page.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&'a [u8], bool)> + use<'a> {
        let mut body = self.body;
        // A packet ends with the first value below 255.
        self.lacing.split_inclusive(|size| *size < 255).map(move |sizes| {
            let length: usize = sizes.iter().map(|size| usize::from(*size)).sum();
            let (part, rest) = body.split_at(length);
            body = rest;
            (part, sizes.last().is_some_and(|size| *size < 255))
        })
    }
}

/// The pages of a file, found by their capture pattern. Other bytes are skipped.
#[derive(Clone)]
pub(super) struct Pages<'a> {
    bytes: &'a [u8],
    at: usize,
    /// True once a page is found to be truncated.
    pub is_cut: bool,
}

impl<'a> Pages<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, is_cut: false }
    }
}

impl<'a> Iterator for Pages<'a> {
    type Item = Result<Page<'a>, Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rest = self.bytes.get(self.at..)?;
            let start = self.at + rest.windows(CAPTURE.len()).position(|window| window == CAPTURE)?;
            let Some((page, length)) = page_at(self.bytes, start) else {
                self.is_cut = true;
                self.at = start + CAPTURE.len();
                continue;
            };
            self.is_cut = false;
            if !is_intact(&self.bytes[start..start + length]) {
                // Its length may be damaged.
                self.at = start + CAPTURE.len();
                return Some(Err(Damaged));
            }
            self.at = start + length;
            return Some(Ok(page));
        }
    }
}

/// The page that starts here, and its length. None if the file ends before it does.
fn page_at(bytes: &[u8], start: usize) -> Option<(Page<'_>, usize)> {
    let header = bytes.get(start..)?.first_chunk::<HEADER_BYTES>()?;
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let after_header = start + HEADER_BYTES;
    let lacing = bytes.get(after_header..after_header + usize::from(header[26]))?;
    let body_at = after_header + lacing.len();
    let body_bytes: usize = lacing.iter().map(|size| usize::from(*size)).sum();
    let body = bytes.get(body_at..body_at + body_bytes)?;
    let page = Page {
        start,
        serial: number(14),
        sequence: number(18),
        body,
        flags: header[5],
        position: u64::from(number(6)) | u64::from(number(10)) << 32,
        lacing,
    };
    Some((page, body_at + body_bytes - start))
}

/// The checksum is that of the page with zeros in its place.
fn is_intact(page: &[u8]) -> bool {
    let mut crc = Crc32::new(0);
    crc.process_buf_bytes(&page[..CRC.start]);
    crc.process_buf_bytes(&[0; 4]);
    crc.process_buf_bytes(&page[CRC.end..]);
    crc.crc().to_le_bytes() == page[CRC]
}
