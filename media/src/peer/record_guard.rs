//! Guard 2: only plausible handshake records reach the DTLS endpoint.
//!
//! The endpoint answers unencrypted alerts and data with a fatal alert or believes them, lets one
//! record with the highest number shut the replay window, and keeps early and repeated records
//! without limit. So a stranger's datagram could end a handshake or fill the memory.

use super::record::{ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE, records};

/// A handshake has four to six flights of up to three datagrams; under heavy loss each comes
/// several times.
const MOST_HANDSHAKE_DATAGRAMS: u32 = 200;
/// A minute of repeated flights stays below this.
const HIGHEST_PLAIN_NUMBER: u64 = 4096;

/// Judges the datagrams of one handshake. They must come from a proven address in the first place.
#[derive(Default)]
pub(super) struct RecordGuard {
    handshake_datagrams: u32,
}

impl RecordGuard {
    /// Whether the datagram may be read; `established` once the handshake is complete.
    pub fn admit(&mut self, datagram: &[u8], established: bool) -> bool {
        let mut plain = false;
        for record in records(datagram) {
            let Ok(record) = record else {
                return false;
            };
            let fits = match (record.epoch, record.kind) {
                (0, ALERT | APPLICATION_DATA) => false,
                (0, CHANGE_CIPHER_SPEC | HANDSHAKE) => record.number <= HIGHEST_PLAIN_NUMBER,
                (epoch, _) => epoch == 1,
            };
            if !fits {
                return false;
            }
            plain |= record.epoch == 0;
        }
        if plain || !established {
            self.handshake_datagrams += 1;
            return self.handshake_datagrams <= MOST_HANDSHAKE_DATAGRAMS;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, epoch: u8, number: u64) -> Vec<u8> {
        let mut bytes = vec![kind, 0xfe, 0xfd, 0, epoch];
        bytes.extend(&number.to_be_bytes()[2..]);
        bytes.extend([0, 1, 0]);
        bytes
    }

    #[test]
    fn plain_alerts_and_data_are_refused() {
        let mut guard = RecordGuard::default();
        for established in [false, true] {
            assert!(!guard.admit(&record(ALERT, 0, 1), established));
            assert!(!guard.admit(&record(APPLICATION_DATA, 0, 1), established));
            assert!(guard.admit(&record(HANDSHAKE, 0, 1), established));
            assert!(guard.admit(&record(ALERT, 1, 1), established));
        }
    }

    #[test]
    fn a_record_number_that_would_shut_the_replay_window_is_refused() {
        let mut guard = RecordGuard::default();
        assert!(!guard.admit(&record(HANDSHAKE, 0, (1 << 48) - 1), false));
    }

    #[test]
    fn records_of_later_epochs_are_refused() {
        let mut guard = RecordGuard::default();
        assert!(!guard.admit(&record(HANDSHAKE, 2, 1), false));
        let mut mixed = record(HANDSHAKE, 0, 1);
        mixed.extend(record(HANDSHAKE, 2, 1));
        assert!(!guard.admit(&mixed, false));
    }

    #[test]
    fn handshake_datagrams_are_counted_and_bounded() {
        let mut guard = RecordGuard::default();
        let admitted = (0..100_000).filter(|_| guard.admit(&record(HANDSHAKE, 1, 1), false)).count();
        assert_eq!(admitted, 200);
        assert!(!guard.admit(&record(HANDSHAKE, 0, 1), true));
        assert!(guard.admit(&record(APPLICATION_DATA, 1, 1), true));
    }
}
