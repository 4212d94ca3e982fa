//! Lenient: fields whose JSON type apps do not agree about.

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A text, which some apps write as a number.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            Err(D::Error::custom("a name is neither text nor number"))
        }
    }
}

/// A whole number, which some apps write as a text; None for null.
pub(super) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    if value.is_null() {
        return Ok(None);
    }
    let number = match value.as_str() {
        Some(text) => text.trim().parse().ok(),
        None => value.as_u64().and_then(|number| u32::try_from(number).ok()),
    };
    number.map(Some).ok_or_else(|| D::Error::custom("a rate is no whole number"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_and_texts_stand_for_each_other() {
        assert_eq!(text(json!("a")).unwrap(), "a");
        assert_eq!(text(json!(17)).unwrap(), "17");
        assert!(text(json!({})).is_err());
        assert_eq!(whole(json!("16000")).unwrap(), Some(16_000));
        assert_eq!(whole(json!(8000)).unwrap(), Some(8000));
        assert_eq!(whole(json!(null)).unwrap(), None);
        for wrong in [json!(-1), json!(8000.5), json!("fast"), json!([])] {
            assert!(whole(&wrong).is_err(), "{wrong}");
        }
    }
}
