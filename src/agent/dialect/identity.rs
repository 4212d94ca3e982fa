//! Identity: our ids and numbers in the shapes that foreign protocols give theirs.

use sha2::{Digest, Sha256};
use ulid::Ulid;

use crate::agent::notice::Start;
use crate::call::description::{CallDescription, CallDirection};

/// The 32 hexadecimal digits of one of our ids; the same id always gives the same digits.
pub(super) fn digits_of(id: &str) -> String {
    let ulid = id.rsplit('_').next().and_then(|ulid| Ulid::from_string(ulid).ok());
    match ulid {
        Some(ulid) => format!("{:032x}", ulid.0),
        None => digest_of(id),
    }
}

/// 32 hexadecimal digits that stand for any text.
pub(super) fn digest_of(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The 16 bytes of those digits.
pub(in crate::agent) fn id_bytes_of(id: &str) -> [u8; 16] {
    u128::from_str_radix(&digits_of(id), 16).unwrap_or_default().to_be_bytes()
}

/// The same digits as a UUID.
pub(in crate::agent) fn uuid_of(id: &str) -> String {
    let digits = digits_of(id);
    let [a, b, c, d, e] = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
    format!("{a}-{b}-{c}-{d}-{e}")
}

/// The account that a business number stands for.
pub(super) fn account_of(start: &Start) -> String {
    digest_of(&start.call.number.phone_number_id)
}

/// Who calls whom, as phone numbers in E.164 where Meta names them.
pub(crate) struct Parties {
    pub from: String,
    pub to: String,
}

impl Parties {
    pub fn of(call: &CallDescription) -> Self {
        let CallDescription { wacid: _, direction, user, number } = call;
        let hidden = || user.user_id.clone().unwrap_or_else(|| "anonymous".to_owned());
        let user = user.wa_id.as_ref().map_or_else(hidden, |digits| format!("+{digits}"));
        let business = match &number.display_phone_number {
            Some(shown) => format!("+{}", shown.chars().filter(char::is_ascii_digit).collect::<String>()),
            None => number.phone_number_id.clone(),
        };
        match direction {
            CallDirection::UserInitiated => Self { from: user, to: business },
            CallDirection::BusinessInitiated => Self { from: business, to: user },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::event::CallId;

    #[test]
    fn from_is_who_calls_in_both_directions() {
        let mut call = CallDescription::default();
        call.number.phone_number_id = "2000".into();
        let parties = Parties::of(&call);
        assert_eq!((parties.from.as_str(), parties.to.as_str()), ("anonymous", "2000"));
        call.user.wa_id = Some("12025550143".into());
        call.number.display_phone_number = Some("+1 202-555-0199".into());
        call.direction = CallDirection::BusinessInitiated;
        let parties = Parties::of(&call);
        assert_eq!((parties.from.as_str(), parties.to.as_str()), ("+12025550199", "+12025550143"));
    }

    #[test]
    fn the_uuid_of_a_call_is_one_that_strict_libraries_take() {
        for _ in 0..100 {
            let uuid = uuid_of(CallId::generate().as_str());
            assert_eq!(&uuid[14..15], "7", "{uuid}");
            assert!(matches!(&uuid[19..20], "8" | "9" | "a" | "b"), "{uuid}");
        }
    }

    #[test]
    fn our_ids_have_the_shapes_of_theirs() {
        let id = "call_00000000000000000000000010";
        assert_eq!(digits_of(id), format!("{:032x}", 32));
        assert_eq!(uuid_of(id), "00000000-0000-0000-0000-000000000020");
        assert_eq!(id_bytes_of(id), 32_u128.to_be_bytes());
        assert_eq!(digits_of("no id of ours").len(), 32);
    }
}
