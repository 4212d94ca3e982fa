//! Measures the usable part of a truncated file.

use std::io::{self, Read};
use std::time::Duration;

use super::container::PRE_SKIP_TICKS;

/// A page's header without its segment table (RFC 3533 §6).
const HEADER_BYTES: usize = 27;

/// "Last page", among the header's flags.
const END_OF_STREAM: u8 = 0x04;

/// A granule position that says "no packet ends here".
const NO_GRANULE: u64 = u64::MAX;

/// The part of a file up to its last whole page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measured {
    /// Bytes up to the end of the last whole page. The rest is to be truncated.
    pub whole_bytes: u64,
    /// Duration of the audio in them.
    pub duration: Duration,
    /// The stream has its last page.
    pub is_ended: bool,
}

/// Reads a file that a [`Recorder`](super::Recorder) wrote, page by page, up to its end or to the first bytes that
/// are not a page. Checksums are not verified: a crash leaves a short file, not a wrong one.
pub fn measure(mut file: impl Read) -> io::Result<Measured> {
    let mut measured = Measured::default();
    while let Some(page) = read_page(&mut file)? {
        measured.whole_bytes += page.bytes;
        if page.granule != NO_GRANULE {
            let ticks = page.granule.saturating_sub(u64::from(PRE_SKIP_TICKS));
            measured.duration = Duration::from_nanos(u64::try_from(u128::from(ticks) * 62_500 / 3).unwrap_or(u64::MAX));
        }
        measured.is_ended = page.flags & END_OF_STREAM != 0;
    }
    Ok(measured)
}

struct Page {
    bytes: u64,
    granule: u64,
    flags: u8,
}

fn read_page(file: &mut impl Read) -> io::Result<Option<Page>> {
    let mut header = [0; HEADER_BYTES];
    let mut sizes = [0; 255];
    if !read_whole(file, &mut header)? || header[..5] != *b"OggS\0" {
        return Ok(None);
    }
    let sizes = &mut sizes[..usize::from(header[26])];
    if !read_whole(file, sizes)? {
        return Ok(None);
    }
    let body = sizes.iter().map(|size| u64::from(*size)).sum();
    if io::copy(&mut file.take(body), &mut io::sink())? < body {
        return Ok(None);
    }
    let granule = header[6..14].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    Ok(Some(Page { bytes: (HEADER_BYTES + sizes.len()) as u64 + body, granule, flags: header[5] }))
}

/// Returns false when the file ends before the buffer is full.
fn read_whole(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
