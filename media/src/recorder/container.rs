//! The Ogg file around the packets: headers, a page every 700 ms, granule positions, the end (RFC 3533, RFC 7845).

use std::collections::VecDeque;

use bytes::Bytes;

use super::page::Page;
use crate::timeline::TICKS_PER_FRAME;

/// What a listener's decoder gives before the first real sample, in 48 kHz ticks: the 6.5 ms of a SILK encoder.
pub(super) const PRE_SKIP_TICKS: u16 = 312;

/// 700 ms a page. With the 300 ms that a frame may wait for its caller, a second is all that a sudden end costs.
pub(super) const FRAMES_PER_PAGE: u32 = 35;

/// Pages made and not yet taken, about 90 s. Over it the newest is dropped and counted: whoever takes none for so
/// long has stopped recording.
const MAX_READY: usize = 128;

/// Makes pages of packets, each of which holds one frame of both channels.
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

    /// Ends the stream. The packet is one more frame of silence, which pushes the last sound out of a decoder; the
    /// granule position says that no more than that is to be played (RFC 7845 §4.4).
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

    /// Pages that nobody took in time.
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

/// OpusTags (RFC 7845 §5.2), without comments: a recording says nothing of who speaks.
fn comment_header() -> Vec<u8> {
    const VENDOR: &[u8] = b"Patchcord";
    let mut header = b"OpusTags".to_vec();
    header.extend((VENDOR.len() as u32).to_le_bytes());
    header.extend(VENDOR);
    header.extend(0_u32.to_le_bytes());
    header
}
