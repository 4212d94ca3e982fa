//! DTLS records (RFC 6347 §4.1), as far as they can be read without keys.

pub(super) const HEADER_BYTES: usize = 13;
pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;

/// The readable part of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub kind: u8,
    /// 0 before the keys, 1 with them.
    pub epoch: u16,
    /// Counts records within an epoch.
    pub number: u64,
    pub body: &'a [u8],
}

/// The records of a datagram; `Err(())` once where one is malformed, then nothing more.
pub(super) fn records(datagram: &[u8]) -> impl Iterator<Item = Result<Record<'_>, ()>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some((record, after)) = split_record(rest) else {
            rest = &[];
            return Some(Err(()));
        };
        rest = after;
        Some(Ok(record))
    })
}

fn split_record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let header = bytes.first_chunk::<HEADER_BYTES>()?;
    let known = (CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&header[0]);
    // DTLS 1.2; a ClientHello may still say 1.0.
    if !known || !matches!([header[1], header[2]], [0xfe, 0xfd | 0xff]) {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([header[11], header[12]]));
    let (body, after) = bytes[HEADER_BYTES..].split_at_checked(length)?;
    let number = header[5..11].iter().fold(0, |number, byte| (number << 8) | u64::from(*byte));
    let record = Record { kind: header[0], epoch: u16::from_be_bytes([header[3], header[4]]), number, body };
    Some((record, after))
}

/// Gives every unencrypted record of our own datagram the next free number.
///
/// A record number may not be used twice, or the receiver drops the record as a replay. Unencrypted
/// records carry no signature over it, so a repeated flight can be renumbered and is then a true
/// retransmission (RFC 6347 §4.2.4), which makes the other side repeat its own lost flight.
pub(super) fn renumber(datagram: &mut [u8], next: &mut u64) {
    let mut rest = datagram;
    while let Some(length) = split_record(rest).map(|(record, _)| HEADER_BYTES + record.body.len()) {
        let (record, after) = rest.split_at_mut(length);
        if record[3..5] == [0, 0] {
            record[5..11].copy_from_slice(&next.to_be_bytes()[2..]);
            *next += 1;
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(kind: u8, epoch: u8, number: u8, body: &[u8]) -> Vec<u8> {
        let length = u8::try_from(body.len()).unwrap();
        let mut bytes = vec![kind, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0, number, 0, length];
        bytes.extend(body);
        bytes
    }

    #[test]
    fn records_of_a_datagram_are_found_until_one_is_broken() {
        let mut datagram = record(HANDSHAKE, 0, 3, b"hello");
        datagram.extend(record(CHANGE_CIPHER_SPEC, 0, 4, &[1]));
        datagram.extend([22, 0xfe]);
        let found: Vec<_> = records(&datagram).collect();
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].unwrap().body, b"hello");
        assert_eq!(found[1].unwrap().number, 4);
        assert_eq!(found[2], Err(()));
    }

    #[test]
    fn only_unencrypted_records_are_numbered_anew() {
        let mut datagram = record(HANDSHAKE, 0, 3, b"certificate");
        datagram.extend(record(CHANGE_CIPHER_SPEC, 0, 4, &[1]));
        datagram.extend(record(HANDSHAKE, 1, 0, b"finished"));
        let mut next = 300;
        renumber(&mut datagram, &mut next);
        let numbers: Vec<_> = records(&datagram).map(|record| record.unwrap().number).collect();
        assert_eq!(numbers, [300, 301, 0]);
        assert_eq!(next, 302);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let [kind, major, minor, ..] = &mut bytes[..] {
                (*kind, *major, *minor) = (22, 0xfe, 0xfd);
            }
            let _ = records(&bytes).count();
            renumber(&mut bytes, &mut 0);
        }
    }
}
