//! What we read of a STUN message (RFC 8489) before anything trusts it.

/// A longer message is no connectivity check.
const LONGEST_BYTES: usize = 1280;
const HEADER_BYTES: usize = 20;
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
const FINGERPRINT: u16 = 0x8028;

/// The ufrag that a STUN request is addressed to: the first half of its USERNAME (RFC 8445 §7.2.2).
///
/// Nothing is authenticated here: the ufrag only tells a worker which peer the message is for, and that peer then checks
/// the message itself.
pub fn stun_request_ufrag(datagram: &[u8]) -> Option<&str> {
    let message = StunMessage::parse(datagram)?;
    if message.kind != StunKind::Request {
        return None;
    }
    let (ufrag, _) = std::str::from_utf8(message.username?).ok()?.split_once(':')?;
    Some(ufrag)
}

/// The 12 bytes that match a response to its request.
pub(super) type TransactionId = [u8; 12];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StunKind {
    Request,
    Success,
}

/// A binding request or success response. Other kinds are not read.
#[derive(Debug)]
pub(super) struct StunMessage<'a> {
    pub kind: StunKind,
    pub transaction: TransactionId,
    pub username: Option<&'a [u8]>,
    /// The signed bytes, and the signature.
    pub integrity: Option<Integrity<'a>>,
}

/// MESSAGE-INTEGRITY covers the header, with a length as if it were the last attribute, and all
/// attributes before it.
#[derive(Debug)]
pub(super) struct Integrity<'a> {
    pub header: [u8; HEADER_BYTES],
    pub attributes: &'a [u8],
    pub tag: &'a [u8],
}

impl<'a> StunMessage<'a> {
    /// None unless it is a well-formed binding request or success response. Attributes after the
    /// integrity are not covered by it, so a message with any but FINGERPRINT there is refused.
    pub fn parse(datagram: &'a [u8]) -> Option<StunMessage<'a>> {
        let header = datagram.first_chunk::<HEADER_BYTES>()?;
        let kind = match [header[0], header[1]] {
            BINDING_REQUEST => StunKind::Request,
            BINDING_SUCCESS => StunKind::Success,
            _ => return None,
        };
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let fits =
            datagram.len() <= LONGEST_BYTES && length == datagram.len() - HEADER_BYTES && length.is_multiple_of(4);
        if !fits || header[4..8] != MAGIC_COOKIE {
            return None;
        }
        let mut message =
            StunMessage { kind, transaction: header[8..20].try_into().ok()?, username: None, integrity: None };
        message.attributes(header, datagram)?;
        Some(message)
    }

    fn attributes(&mut self, header: &[u8; HEADER_BYTES], datagram: &'a [u8]) -> Option<()> {
        let mut at = HEADER_BYTES;
        while at < datagram.len() {
            let attribute = datagram.get(at..at + 4)?;
            let kind = u16::from_be_bytes([attribute[0], attribute[1]]);
            let length = usize::from(u16::from_be_bytes([attribute[2], attribute[3]]));
            let value = datagram.get(at + 4..at + 4 + length)?;
            match kind {
                FINGERPRINT | MESSAGE_INTEGRITY_SHA256 => {}
                _ if self.integrity.is_some() => return None,
                USERNAME if self.username.is_none() => self.username = Some(value),
                MESSAGE_INTEGRITY => {
                    let mut header = *header;
                    let signed_length = u16::try_from(at + 24 - HEADER_BYTES).ok()?;
                    header[2..4].copy_from_slice(&signed_length.to_be_bytes());
                    self.integrity = Some(Integrity { header, attributes: &datagram[HEADER_BYTES..at], tag: value });
                }
                _ => {}
            }
            at += 4 + length.next_multiple_of(4);
        }
        (at == datagram.len()).then_some(())
    }
}

/// The transaction of a binding request that we are about to send.
pub(super) fn request_transaction(datagram: &[u8]) -> Option<TransactionId> {
    let header = datagram.first_chunk::<HEADER_BYTES>()?;
    (header[..2] == BINDING_REQUEST).then(|| header[8..20].try_into().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = vec![0, 1, 0, 0];
        message.extend(MAGIC_COOKIE);
        message.extend([7; 12]);
        for (kind, value) in attributes {
            message.extend(kind.to_be_bytes());
            message.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
            message.extend(*value);
            message.resize(message.len().next_multiple_of(4), 0);
        }
        let length = u16::try_from(message.len() - HEADER_BYTES).unwrap();
        message[2..4].copy_from_slice(&length.to_be_bytes());
        message
    }

    #[test]
    fn a_request_says_whom_it_is_for() {
        let message = request(&[(0x8022, b"someone"), (USERNAME, b"ours:theirs")]);
        assert_eq!(stun_request_ufrag(&message), Some("ours"));
        assert_eq!(stun_request_ufrag(&request(&[(USERNAME, b"ours")])), None);
        assert_eq!(stun_request_ufrag(&request(&[])), None);
    }

    #[test]
    fn indications_and_errors_are_not_read() {
        for kind in [[0x00, 0x11], [0x01, 0x11], [0x00, 0x03]] {
            let mut message = request(&[(USERNAME, b"ours:theirs")]);
            message[..2].copy_from_slice(&kind);
            assert!(StunMessage::parse(&message).is_none());
        }
    }

    #[test]
    fn nothing_may_follow_the_integrity_but_a_fingerprint() {
        let good = request(&[(MESSAGE_INTEGRITY, &[0; 20]), (FINGERPRINT, &[0; 4])]);
        assert!(StunMessage::parse(&good).unwrap().integrity.is_some());
        let bad = request(&[(MESSAGE_INTEGRITY, &[0; 20]), (0x802a, &[0xff; 8])]);
        assert!(StunMessage::parse(&bad).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = stun_request_ufrag(&bytes);
            let mut message = request(&[]);
            message.extend(&bytes);
            let length = u16::try_from(message.len() - HEADER_BYTES).unwrap();
            message[2..4].copy_from_slice(&length.to_be_bytes());
            let _ = stun_request_ufrag(&message);
        }
    }
}
