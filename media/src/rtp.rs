//! RTP packets (RFC 3550 §5.1): the header read and written without allocation.
//!
//! No crate because they parse into owned structs with extensions and contributors that a call does not use.

use bytes::Bytes;

/// Length in bytes of the fixed header, which is all we ever send.
pub const FIXED_HEADER_BYTES: usize = 12;

/// The fields of an RTP header that a call uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RtpHeader {
    /// The codec of the payload, by its number in the SDP (0 to 127).
    pub payload_type: u8,
    /// Set on the first packet after a silence, and on the first of a DTMF digit.
    pub marker: bool,
    /// Counts packets, wraps at 65536.
    pub sequence: u16,
    /// Sampling time of the first sample, in ticks of the codec's clock (48 kHz for Opus); wraps.
    pub timestamp: u32,
    /// The sender: one number for the whole call.
    pub ssrc: u32,
}

/// An authenticated and decrypted packet, without extensions, contributors and padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtpPacket {
    /// The codec of the payload, by its number in the SDP (0 to 127).
    pub payload_type: u8,
    /// Set on the first packet after a silence, and on the first of a DTMF digit.
    pub marker: bool,
    /// Counts packets, wraps at 65536.
    pub sequence: u16,
    /// Sampling time of the first sample, in ticks of the codec's clock (48 kHz for Opus); wraps.
    pub timestamp: u32,
    /// The sender.
    pub ssrc: u32,
    /// The encoded audio or event.
    pub payload: Bytes,
}

impl RtpHeader {
    /// Reads the header of a packet, plain or encrypted: SRTP leaves headers readable.
    ///
    /// Returns the header and its whole length in bytes with contributors and extension, or `None`
    /// when the bytes are not an RTP packet of version 2.
    pub fn parse(packet: &[u8]) -> Option<(RtpHeader, usize)> {
        let fixed = packet.first_chunk::<FIXED_HEADER_BYTES>()?;
        if fixed[0] >> 6 != 2 {
            return None;
        }
        let contributors = usize::from(fixed[0] & 0x0f);
        let mut length = FIXED_HEADER_BYTES + 4 * contributors;
        if fixed[0] & 0x10 != 0 {
            let extension = packet.get(length..length + 4)?;
            let words = usize::from(u16::from_be_bytes([extension[2], extension[3]]));
            length += 4 + 4 * words;
        }
        if packet.len() < length {
            return None;
        }
        let header = RtpHeader {
            payload_type: fixed[1] & 0x7f,
            marker: fixed[1] & 0x80 != 0,
            sequence: u16::from_be_bytes([fixed[2], fixed[3]]),
            timestamp: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ssrc: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
        };
        Some((header, length))
    }

    /// The twelve bytes of this header: no padding, contributors or extension.
    pub fn to_bytes(&self) -> [u8; FIXED_HEADER_BYTES] {
        let mut bytes = [0; FIXED_HEADER_BYTES];
        bytes[0] = 2 << 6;
        bytes[1] = (self.payload_type & 0x7f) | (u8::from(self.marker) << 7);
        bytes[2..4].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.ssrc.to_be_bytes());
        bytes
    }

    /// This header together with a payload.
    pub fn with_payload(self, payload: Bytes) -> RtpPacket {
        RtpPacket {
            payload_type: self.payload_type,
            marker: self.marker,
            sequence: self.sequence,
            timestamp: self.timestamp,
            ssrc: self.ssrc,
            payload,
        }
    }
}

/// Bytes of padding at the end of a decrypted packet; None when the count exceeds the packet.
pub(crate) fn padding(packet: &[u8], header_length: usize) -> Option<usize> {
    if packet.first()? & 0x20 == 0 {
        return Some(0);
    }
    let count = usize::from(*packet.last()?);
    (count > 0 && header_length + count <= packet.len()).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> RtpHeader {
        RtpHeader { payload_type: 111, marker: true, sequence: 65_535, timestamp: 0xfeed_beef, ssrc: 0x0102_0304 }
    }

    #[test]
    fn a_written_header_reads_back_the_same() {
        let bytes = header().to_bytes();
        assert_eq!(RtpHeader::parse(&bytes), Some((header(), 12)));
    }

    #[test]
    fn contributors_and_extension_count_into_the_length() {
        let mut packet = header().to_bytes().to_vec();
        packet[0] |= 0x10 | 2;
        packet.extend([0; 8]);
        packet.extend([0xbe, 0xde, 0, 1, 0x10, 0xff, 0, 0]);
        packet.extend(b"sound");
        assert_eq!(RtpHeader::parse(&packet), Some((header(), 28)));
        packet.truncate(26);
        assert_eq!(RtpHeader::parse(&packet), None);
    }

    #[test]
    fn padding_that_exceeds_the_packet_is_refused() {
        let mut packet = header().to_bytes().to_vec();
        packet.extend([1, 2, 3, 2]);
        assert_eq!(padding(&packet, 12), Some(0));
        packet[0] |= 0x20;
        assert_eq!(padding(&packet, 12), Some(2));
        packet[15] = 5;
        assert_eq!(padding(&packet, 12), None);
        packet[15] = 0;
        assert_eq!(padding(&packet, 12), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some((_, length)) = RtpHeader::parse(&bytes) {
                prop_assert!(length <= bytes.len());
                if let Some(padding) = padding(&bytes, length) {
                    prop_assert!(length + padding <= bytes.len());
                }
            }
        }
    }
}
