//! Countries whose business numbers may place no calls, told by the prefix of the number.

/// A country in which Meta has, or had, no business-initiated calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Country {
    /// Canada.
    Canada,
    /// Egypt.
    Egypt,
    /// Nigeria.
    Nigeria,
    /// Turkey, which was on Meta's list in 2025.
    Turkey,
    /// The United States.
    UnitedStates,
    /// Vietnam.
    Vietnam,
}

impl Country {
    const ALL: [Self; 6] = [Self::Canada, Self::Egypt, Self::Nigeria, Self::Turkey, Self::UnitedStates, Self::Vietnam];

    /// Where numbers place no calls today. The country of the person does not matter. Source: Meta, "Calling API: FAQ"
    /// (2026-09-16).
    pub const WITHOUT_OUTGOING_CALLS: [Self; 5] =
        [Self::UnitedStates, Self::Canada, Self::Egypt, Self::Vietnam, Self::Nigeria];

    /// ISO 3166-1 alpha-2.
    pub fn code(self) -> &'static str {
        match self {
            Self::Canada => "CA",
            Self::Egypt => "EG",
            Self::Nigeria => "NG",
            Self::Turkey => "TR",
            Self::UnitedStates => "US",
            Self::Vietnam => "VN",
        }
    }

    /// The country of this code; the error says what to give.
    pub fn of_code(code: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|country| country.code() == code);
        found.ok_or_else(|| format!("give some of {}", Self::ALL.map(Self::code).join(", ")))
    }

    /// Whether a number is from here. The United States and Canada share a prefix, and most of their area codes are not
    /// told apart here: a number of one counts as a number of both.
    fn has(self, digits: &str) -> bool {
        match self {
            Self::Canada | Self::UnitedStates => is_american(digits),
            Self::Egypt => digits.starts_with("20"),
            Self::Nigeria => digits.starts_with("234"),
            Self::Turkey => digits.starts_with("90"),
            Self::Vietnam => digits.starts_with("84"),
        }
    }

    /// The first of these countries that the number is from.
    pub fn of_number(countries: &[Self], display_phone_number: &str) -> Option<Self> {
        let digits = digits(display_phone_number);
        countries.iter().copied().find(|country| country.has(&digits))
    }
}

/// Area codes of the North American Numbering Plan outside the United States and Canada, and those of territories of the
/// United States, of which Meta says nothing: Graph decides. Source: NANPA, "Geographic area codes".
const OTHER_AREAS: [&str; 30] = [
    "242", "246", "264", "268", "284", "340", "345", "441", "473", "649", "658", "664", "670", "671", "684", "721",
    "758", "767", "784", "787", "809", "829", "849", "868", "869", "876", "939", "500", "700", "800",
];

/// The area code of Meta's public test numbers, which may place calls.
const TEST_AREA: &str = "555";

fn is_american(digits: &str) -> bool {
    let Some(area) = digits.strip_prefix('1').and_then(|rest| rest.get(..3)) else { return false };
    area != TEST_AREA && !OTHER_AREAS.contains(&area)
}

/// Whether it is one of Meta's public test numbers, +1 555….
pub(super) fn is_test_number(display_phone_number: &str) -> bool {
    digits(display_phone_number).starts_with("1555")
}

/// Meta writes numbers with or without `+`, spaces and dashes.
pub(super) fn digits(number: &str) -> String {
    number.chars().filter(char::is_ascii_digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_told_by_its_prefix_and_what_is_not_sure_is_left_to_graph() {
        let of = |number| Country::of_number(&Country::WITHOUT_OUTGOING_CALLS, number).map(Country::code);
        for (number, country) in [
            ("+1 202-555-0199", Some("US")),
            ("14165550199", Some("US")),
            ("201001234567", Some("EG")),
            ("84912345678", Some("VN")),
            ("+2348012345678", Some("NG")),
            ("905012345678", None),
            ("15550783881", None),
            ("18765550199", None),
            ("447700900199", None),
            ("4930123456", None),
            ("1", None),
            ("", None),
        ] {
            assert_eq!(of(number), country, "{number}");
        }
        assert_eq!(Country::of_number(&[Country::Turkey], "905012345678"), Some(Country::Turkey));
        assert_eq!(Country::of_number(&[], "12025550199"), None);
        assert!(Country::of_code("us").is_err_and(|advice| advice.contains("US")));
    }
}
