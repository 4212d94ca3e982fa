//! Call ids as Meta makes them, and the base64 they are written in.

use super::bodies::Direction;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Standard base64 with padding (RFC 4648 §4).
pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let at = |index: usize| u32::from(three.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            if place <= three.len() {
                text.push(char::from(ALPHABET[(bits >> (18 - 6 * place) & 63) as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

/// Who placed the call, as the id says it.
const USER_INITIATED: u8 = 0x12;
const BUSINESS_INITIATED: u8 = 0x11;

/// A call id of the usual inner layout: the user's number, a direction byte, 32 hex digits, the business's number.
pub(crate) fn wacid(user: &str, business: &str, direction: Direction, chance: u128) -> String {
    let direction = match direction {
        Direction::UserInitiated => USER_INITIATED,
        Direction::BusinessInitiated => BUSINESS_INITIATED,
    };
    let mut bytes = vec![0x1c, 0x18, length(user)];
    bytes.extend(user.bytes());
    bytes.extend([0x15, 2, 0, direction, 0x18, 0x20]);
    bytes.extend(format!("{chance:032X}").bytes());
    bytes.extend([0x1c, 0x18, length(business)]);
    bytes.extend(business.bytes());
    bytes.extend([0x15, 2, 0, 0x15, 0x0a, 0]);
    format!("wacid.{}", base64(&bytes))
}

/// An id of a message: it holds the user's number too.
pub(crate) fn wamid(user: &str, chance: u64) -> String {
    let mut bytes = vec![0x1c, 0x18, length(user)];
    bytes.extend(user.bytes());
    bytes.extend([0x15, 2, 0, 0x11, 0x18, 0x14]);
    bytes.extend(format!("3A{chance:018X}").bytes());
    bytes.push(0);
    format!("wamid.{}", base64(&bytes))
}

fn length(number: &str) -> u8 {
    u8::try_from(number.len()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_fixtures_id_for_the_same_parts() {
        let expected =
            "wacid.HBgLMTIwMjU1NTAxNDMVAgASGCA3QzExQzA1REZGN0I5QzhGOUE0Q0JENzg3RjZDODEzRRwYCzEyMDI1NTUwMTk5FQIAFQoA";
        let chance = 0x7C11_C05D_FF7B_9C8F_9A4C_BD78_7F6C_813E;
        assert_eq!(wacid("12025550143", "12025550199", Direction::UserInitiated, chance), expected);
        let expected =
            "wacid.HBgLMTIwMjU1NTAxNDMVAgARGCBDNUY5NkU3NUM0NTRGQTIzRDgyNzkyM0M3NkU2QjVEMRwYCzEyMDI1NTUwMTk5FQIAFQoA";
        let chance = 0xC5F9_6E75_C454_FA23_D827_923C_76E6_B5D1;
        assert_eq!(wacid("12025550143", "12025550199", Direction::BusinessInitiated, chance), expected);
    }

    #[test]
    fn padding_is_right() {
        assert_eq!([base64(b""), base64(b"f"), base64(b"fo"), base64(b"foo")], ["", "Zg==", "Zm8=", "Zm9v"]);
    }
}
