//! Repairs almost-JSON from Meta: an invalid part is replaced where it stands, and the rest of the body is read.
//!
//! Meta truncates names and texts in the middle of an emoji: half of a surrogate pair is left as an escape, or half of a
//! UTF-8 sequence. A strict parser refuses the whole body for it, with every call and message in it.
//!
//! No crate, because lenient parsers (`json5`, repairers of model output) guess at structure; this one only ever replaces
//! single values, and leaves valid JSON as it is.

use serde_json::Value;

/// What is nested deeper becomes `null`; serde_json refuses all of a body beyond 128. Real webhooks nest 12 deep.
const MAX_DEPTH: usize = 100;
/// U+FFFD as an escape.
const REPLACEMENT: &str = "\\ufffd";
/// Half of a surrogate pair, the first and the second.
const HIGH: std::ops::RangeInclusive<u16> = 0xd800..=0xdbff;
const LOW: std::ops::RangeInclusive<u16> = 0xdc00..=0xdfff;
/// Length of an escape such as `\ud83d`.
const ESCAPE_BYTES: usize = 6;

/// Reads JSON, mended first if a strict reader refuses it.
pub(super) fn read(body: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice(body).or_else(|_| serde_json::from_str(&mended(body)))
}

/// The body with these replaced: in strings, lone surrogates, invalid UTF-8 and escapes that do not exist by U+FFFD,
/// and raw control characters by their escapes; elsewhere, words and numbers that JSON does not have, and what is
/// nested more than 100 deep, by `null`. Valid JSON stays as it is. Whether the rest is JSON is for its reader to say.
fn mended(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_start_matches('\u{feff}');
    let mut mender = Mender { rest: text, mended: String::with_capacity(text.len()), depth: 0 };
    while let Some(next) = mender.rest.chars().next() {
        match next {
            '"' => mender.string(),
            '{' | '[' => mender.open(),
            '}' | ']' => mender.close(),
            ',' | ':' | ' ' | '\t' | '\n' | '\r' => mender.copy(1),
            _ => mender.word(),
        }
    }
    mender.mended
}

struct Mender<'a> {
    rest: &'a str,
    mended: String,
    depth: usize,
}

impl Mender<'_> {
    fn open(&mut self) {
        self.depth += 1;
        if self.depth == MAX_DEPTH + 1 {
            self.mended.push_str("null");
        }
        self.copy(1);
    }

    fn close(&mut self) {
        self.copy(1);
        self.depth = self.depth.saturating_sub(1);
    }

    /// Numbers, `true`, `false` and `null`; nothing else stands outside of strings.
    fn word(&mut self) {
        let ends = |letter| matches!(letter, '"' | '{' | '[' | '}' | ']' | ',' | ':' | ' ' | '\t' | '\n' | '\r');
        let bytes = self.rest.find(ends).unwrap_or(self.rest.len());
        match serde_json::from_str::<Value>(&self.rest[..bytes]) {
            Ok(_) => self.copy(bytes),
            Err(_) => self.replace(bytes, "null"),
        }
    }

    fn string(&mut self) {
        self.copy(1);
        loop {
            let is_special = |letter: char| letter == '"' || letter == '\\' || letter < ' ';
            self.copy(self.rest.find(is_special).unwrap_or(self.rest.len()));
            match self.rest.chars().next() {
                None => return,
                Some('"') => return self.copy(1),
                Some('\\') => self.escape(),
                Some(control) => self.replace(1, &format!("\\u{:04x}", u32::from(control))),
            }
        }
    }

    fn escape(&mut self) {
        match self.rest.as_bytes().get(1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.copy(2),
            Some(b'u') => self.unicode_escape(),
            _ => self.replace(1, REPLACEMENT),
        }
    }

    fn unicode_escape(&mut self) {
        let follower = self.rest.get(ESCAPE_BYTES..).and_then(code_unit);
        match code_unit(self.rest) {
            Some(unit) if HIGH.contains(&unit) && follower.is_some_and(|unit| LOW.contains(&unit)) => {
                self.copy(2 * ESCAPE_BYTES);
            }
            Some(unit) if HIGH.contains(&unit) || LOW.contains(&unit) => self.replace(ESCAPE_BYTES, REPLACEMENT),
            Some(_) => self.copy(ESCAPE_BYTES),
            // Cut off: what digits are there belong to it.
            None => {
                let digits = self.rest.bytes().skip(2).take(4).take_while(u8::is_ascii_hexdigit).count();
                self.replace(2 + digits, REPLACEMENT);
            }
        }
    }

    fn copy(&mut self, bytes: usize) {
        let (copied, rest) = self.rest.split_at(bytes);
        self.put(copied);
        self.rest = rest;
    }

    fn replace(&mut self, bytes: usize, by: &str) {
        self.put(by);
        self.rest = &self.rest[bytes..];
    }

    fn put(&mut self, text: &str) {
        if self.depth <= MAX_DEPTH {
            self.mended.push_str(text);
        }
    }
}

/// The value of an escape such as `\ud83d` at the beginning of a text.
fn code_unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(body: impl AsRef<[u8]>) -> Value {
        let body = body.as_ref();
        super::read(body).unwrap_or_else(|error| panic!("{error}: {}", mended(body)))
    }

    #[test]
    fn half_an_emoji_becomes_the_replacement_character_and_whole_ones_stay() {
        for (text, read_as) in [
            (r#""Ana \ud83d""#, "Ana \u{fffd}"),
            (r#""\ude00 Ana""#, "\u{fffd} Ana"),
            (r#""\uD83D\uDE00""#, "\u{1f600}"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
            (r#""\ud83dx\ude00""#, "\u{fffd}x\u{fffd}"),
            (r#""\ud83d\n\u0041""#, "\u{fffd}\nA"),
        ] {
            assert_eq!(read(text), json!(read_as), "{text}");
        }
    }

    /// A backslash that is escaped itself begins nothing.
    #[test]
    fn escaped_backslashes_before_a_u_are_no_escape() {
        for (text, read_as) in [
            (r#""\\ud83d""#, r"\ud83d"),
            (r#""\\\ud83d""#, "\\\u{fffd}"),
            (r#""\\\\ud83d""#, r"\\ud83d"),
            (r#""\"\ud83d\"""#, "\"\u{fffd}\""),
            (r#""\ud83d\\ude00""#, "\u{fffd}\\ude00"),
        ] {
            assert_eq!(read(text), json!(read_as), "{text}");
        }
    }

    #[test]
    fn cut_utf_8_cut_escapes_and_raw_control_characters_cost_only_themselves() {
        for (text, read_as) in [
            (&b"\"Ana \xf0\x9f\x98\""[..], "Ana \u{fffd}"),
            (b"\"Ana \xc3\"", "Ana \u{fffd}"),
            (b"\"\x80\xff\"", "\u{fffd}\u{fffd}"),
            // A surrogate in UTF-8's clothes, as CESU-8 writes them.
            (b"\"\xed\xa0\xbd\"", "\u{fffd}\u{fffd}\u{fffd}"),
            (br#""\ud8""#, "\u{fffd}"),
            (br#""\u""#, "\u{fffd}"),
            (br#""\ud83\ude00""#, "\u{fffd}\u{fffd}"),
            (br#""\u+123""#, "\u{fffd}+123"),
            (br#""it\'s \x41""#, "it\u{fffd}'s \u{fffd}x41"),
            (b"\"a\tb\nc\0\"", "a\tb\nc\0"),
        ] {
            assert_eq!(read(text), json!(read_as), "{text:?}");
        }
    }

    #[test]
    fn words_and_numbers_that_json_does_not_have_are_null() {
        let text = "\u{feff}{\"a\": 1e999, \"b\":NaN,\"c\":[-Infinity,007,+1,1.5e3,12],\"d\":undefined,\"e\":true}";
        assert_eq!(
            read(text),
            json!({"a": null, "b": null, "c": [null, null, null, 1500.0, 12], "d": null, "e": true})
        );
    }

    #[test]
    fn what_is_nested_too_deep_is_null_and_its_neighbours_stay() {
        let deep = ["[".repeat(5000), "]".repeat(5000)].concat();
        let read = read(format!(r#"{{"a":{deep},"b":"]]\"[","c":[1]}}"#));
        assert_eq!((&read["b"], &read["c"]), (&json!("]]\"["), &json!([1])));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::hash_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// Pieces of strings as they stand in a body, right and wrong.
    fn any_piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::sample::select(vec![
                r"\ud83d",
                r"\ude00",
                r"\uD83D\uDE00",
                r"\\",
                r"\\ud83d",
                r"\u",
                r"\ud8",
                r#"\""#,
                r"\'",
                r"\x",
                "\t",
                "\u{1}",
                "a",
                "ż",
                "{",
                "]",
                ",",
            ])
            .prop_map(|text| text.as_bytes().to_vec()),
            (0x80_u8..).prop_map(|byte| vec![byte]),
        ]
    }

    proptest! {
        #[test]
        fn valid_json_stays_as_it_is(value in any_json()) {
            let text = value.to_string();
            prop_assert_eq!(mended(text.as_bytes()), text);
        }

        /// Whatever is wrong inside a string stays inside of it.
        #[test]
        fn a_bad_string_costs_nothing_beside_it(
            before in any_json(),
            pieces in proptest::collection::vec(any_piece(), 0..12),
            after in any_json(),
        ) {
            let bad = [&b"\""[..], &pieces.concat(), b"\""].concat();
            let body = [format!("[{before},").as_bytes(), &bad, format!(",{after}]").as_bytes()].concat();
            let read = read(body);
            prop_assert_eq!(read.as_array().map(Vec::len), Some(3));
            prop_assert_eq!((&read[0], &read[2]), (&before, &after));
            prop_assert!(read[1].is_string());
        }

        #[test]
        fn foreign_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            mended(&body);
        }
    }
}
