//! The Ogg file around the packets: headers, a page every 700 ms, granule positions, the end (RFC 3533, RFC 7845).

use std::collections::VecDeque;

use bytes::Bytes;

use super::page::Page;
use crate::timeline::TICKS_PER_FRAME;

/// Pre-skip in 48 kHz ticks: the 6.5 ms by which a SILK encoder lags.
pub(super) const PRE_SKIP_TICKS: u16 = 312;

/// 700 ms per page. With the 300 ms that a frame may wait for the caller, a crash loses a second at most.
pub(super) const FRAMES_PER_PAGE: u32 = 35;

/// Pages not taken yet, about 90 s. Overflow drops the newest and counts it: by then the disk has stopped.
const MAX_READY: usize = 128;

/// Writes packets into pages. Each packet holds one frame of both channels.
pub(super) struct Container {
    page: Page,
    frames: u64,
    frames_in_page: u32,
    ready: VecDeque<Bytes>,
    pages_dropped: u64,
}

impl Container {
    /// Starts with the two header pages.
    pub(super) fn new(serial: u32) -> Self {
        let mut page = Page::first(serial);
        let mut headers = Vec::new();
        for header in [identification_header(), comment_header()] {
            page.add([&header, &[]]);
            page.close(0, false, &mut headers);
        }
        Self { page, frames: 0, frames_in_page: 0, ready: VecDeque::from([headers.into()]), pages_dropped: 0 }
    }

    /// Adds the packet of the next frame: that of the caller, self-delimited, and that of the agent.
    pub(super) fn push(&mut self, caller: &[u8], agent: &[u8]) {
        if !self.page.has_room(caller.len() + agent.len()) {
            self.close_page(false);
        }
        self.page.add([caller, agent]);
        self.frames += 1;
        self.frames_in_page += 1;
        if self.frames_in_page == FRAMES_PER_PAGE {
            self.close_page(false);
        }
    }

    /// Ends the stream. One more frame of silence flushes the last audio out of a decoder; the granule position trims the
    /// rest (RFC 7845 §4.4).
    pub(super) fn finish(&mut self, caller: &[u8], agent: &[u8]) {
        if !self.page.has_room(caller.len() + agent.len()) {
            self.close_page(false);
        }
        self.page.add([caller, agent]);
        self.close_page(true);
    }

    /// The next bytes of the file: whole pages.
    pub(super) fn poll_page(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }

    /// Pages dropped because they were not taken in time.
    pub(super) fn pages_dropped(&self) -> u64 {
        self.pages_dropped
    }

    fn close_page(&mut self, is_last: bool) {
        let end = if is_last { u64::from(PRE_SKIP_TICKS) } else { 0 };
        let granule = self.frames * u64::from(TICKS_PER_FRAME) + end;
        let mut page = Vec::new();
        self.page.close(granule, is_last, &mut page);
        self.frames_in_page = 0;
        if self.ready.len() < MAX_READY {
            self.ready.push_back(page.into());
        } else {
            self.pages_dropped += 1;
        }
    }
}

/// OpusHead (RFC 7845 §5.1): channel mapping family 1, two channels in two uncoupled mono streams.
fn identification_header() -> Vec<u8> {
    let mut header = b"OpusHead".to_vec();
    header.extend([1, 2]);
    header.extend(PRE_SKIP_TICKS.to_le_bytes());
    header.extend(16_000_u32.to_le_bytes());
    header.extend(0_i16.to_le_bytes());
    header.extend([1, 2, 0, 0, 1]);
    header
}

/// OpusTags (RFC 7845 §5.2), without comments: a recording does not name the speakers.
fn comment_header() -> Vec<u8> {
    const VENDOR: &[u8] = b"Patchcord";
    let mut header = b"OpusTags".to_vec();
    header.extend((VENDOR.len() as u32).to_le_bytes());
    header.extend(VENDOR);
    header.extend(0_u32.to_le_bytes());
    header
}
