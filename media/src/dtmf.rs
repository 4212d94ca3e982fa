//! Keys the caller presses: telephone-event packets (RFC 4733).

/// The event clock that WhatsApp offers: `telephone-event/8000`.
const TICKS_PER_MS: u32 = 8;
/// RFC 4733 §3.2, events 0 to 15 in their order.
const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '*', '#', 'A', 'B', 'C', 'D'];

/// One key, once it is up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// `0`–`9`, `*`, `#`, `A`–`D`.
    pub digit: char,
    /// How long it was held.
    pub duration_ms: u32,
}

/// Gives each key once, however often its packets come.
#[derive(Debug, Default)]
pub struct KeyReader {
    /// The press that was reported last: its RTP timestamp names it.
    reported: Option<(u32, u8)>,
    /// A press that goes on, in case its end packets are all lost.
    pressed: Option<(u32, u8, u16)>,
}

impl KeyReader {
    /// Reads one telephone-event payload; `timestamp` is that of its RTP header, the same for a whole press.
    pub fn read(&mut self, timestamp: u32, payload: &[u8]) -> Option<Key> {
        let &[event, flags, high, low, ..] = payload else { return None };
        let duration = u16::from_be_bytes([high, low]);
        let is_end = flags & 0x80 != 0;
        DIGITS.get(usize::from(event))?;
        if self.reported == Some((timestamp, event)) {
            return None;
        }
        let before = self.pressed.filter(|(pressed_at, key, _)| (*pressed_at, *key) != (timestamp, event));
        if is_end {
            self.pressed = None;
            self.reported = Some((timestamp, event));
            return key(event, duration);
        }
        self.pressed = Some((timestamp, event, duration));
        // A new press tells that the one before is over, though no end of it came.
        let (at, event, duration) = before?;
        self.reported = Some((at, event));
        key(event, duration)
    }
}

fn key(event: u8, duration: u16) -> Option<Key> {
    let digit = *DIGITS.get(usize::from(event))?;
    Some(Key { digit, duration_ms: u32::from(duration) / TICKS_PER_MS })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(event: u8, end: bool, duration: u16) -> [u8; 4] {
        let [high, low] = duration.to_be_bytes();
        [event, if end { 0x8A } else { 0x0A }, high, low]
    }

    #[test]
    fn a_key_is_given_once_at_its_end_though_the_end_comes_three_times() {
        let mut reader = KeyReader::default();
        assert_eq!(reader.read(960, &packet(5, false, 160)), None);
        assert_eq!(reader.read(960, &packet(5, false, 320)), None);
        assert_eq!(reader.read(960, &packet(5, true, 800)), Some(Key { digit: '5', duration_ms: 100 }));
        assert_eq!(reader.read(960, &packet(5, true, 800)), None);
        assert_eq!(reader.read(960, &packet(5, true, 800)), None);
        assert_eq!(reader.read(9600, &packet(5, true, 800)), Some(Key { digit: '5', duration_ms: 100 }));
    }

    #[test]
    fn a_key_whose_end_is_lost_is_given_when_the_next_one_comes() {
        let mut reader = KeyReader::default();
        assert_eq!(reader.read(960, &packet(1, false, 480)), None);
        assert_eq!(reader.read(9600, &packet(2, false, 160)), Some(Key { digit: '1', duration_ms: 60 }));
        assert_eq!(reader.read(9600, &packet(2, true, 800)), Some(Key { digit: '2', duration_ms: 100 }));
    }

    #[test]
    fn foreign_payloads_are_passed_over() {
        let mut reader = KeyReader::default();
        for payload in [&[][..], &[1, 2, 3], &[16, 0x8A, 0, 1], &[255, 255, 255, 255, 255]] {
            assert_eq!(reader.read(0, payload), None);
        }
    }
}
