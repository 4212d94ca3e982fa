//! Sender: whose packets are taken, when the phone's address sends more than one stream.

use crate::rtp::RtpHeader;

/// A new SSRC is followed at its second packet in a row (RFC 3550 §A.1) if the old one is silent in between. Packets that
/// interleave, such as a PBX's music under a voice, would otherwise tear both apart.
#[derive(Debug, Default)]
pub(super) struct Sender {
    ssrc: Option<u32>,
    /// A new SSRC, and its next sequence number.
    candidate: Option<(u32, u16)>,
}

impl Sender {
    /// Whether the packet is to be taken.
    pub fn admit(&mut self, header: RtpHeader) -> bool {
        let is_next = self.candidate == Some((header.ssrc, header.sequence));
        if self.ssrc.is_none_or(|ssrc| ssrc == header.ssrc) || is_next {
            self.follow(header);
            return true;
        }
        self.candidate = Some((header.ssrc, header.sequence.wrapping_add(1)));
        false
    }

    /// This is the sender from now on.
    pub fn follow(&mut self, header: RtpHeader) {
        self.ssrc = Some(header.ssrc);
        self.candidate = None;
    }
}
