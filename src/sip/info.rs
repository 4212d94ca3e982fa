//! Digits in INFO requests: `application/dtmf-relay` and `application/dtmf`. Pure.

/// The kinds that we read, as an `Accept` header says it.
const ACCEPTED: &str = "application/dtmf-relay, application/dtmf";

/// The key of an INFO. None for an empty one, which some phones send to see whether we are there. The error is what an
/// `Accept` header should say.
pub(super) fn digit(content_type: &str, body: &[u8]) -> Result<Option<char>, &'static str> {
    if content_type.is_empty() && body.is_empty() {
        return Ok(None);
    }
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let text = std::str::from_utf8(body).map_err(|_| ACCEPTED)?;
    let key = match kind.as_str() {
        "application/dtmf-relay" => {
            let signal = |line: &'_ str| {
                let (name, value) = line.split_once('=')?;
                name.trim().eq_ignore_ascii_case("signal").then(|| value.trim().to_owned())
            };
            text.lines().find_map(signal)
        }
        "application/dtmf" => Some(text.trim().to_owned()),
        _ => return Err(ACCEPTED),
    };
    Ok(key.as_deref().and_then(key_of))
}

/// RFC 4733 numbers are written by some phones: 10 for the star, 11 for the hash.
fn key_of(signal: &str) -> Option<char> {
    match signal {
        "10" => Some('*'),
        "11" => Some('#'),
        _ => {
            let mut signs = signal.chars();
            let key = signs.next()?.to_ascii_uppercase();
            (signs.next().is_none() && "0123456789*#ABCD".contains(key)).then_some(key)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_both_kinds() {
        let relay = |body: &str| digit("application/dtmf-relay", body.as_bytes());
        assert_eq!(relay("Signal=5\r\nDuration=160\r\n"), Ok(Some('5')));
        assert_eq!(relay("Signal= #\r\n"), Ok(Some('#')));
        assert_eq!(relay("Duration=160\nSignal=10"), Ok(Some('*')));
        assert_eq!(relay("Signal=flash"), Ok(None));
        assert_eq!(digit("Application/DTMF; x=y", b" d "), Ok(Some('D')));
        assert_eq!(digit("", b""), Ok(None));
        assert_eq!(digit("text/plain", b"5"), Err(ACCEPTED));
        assert_eq!(digit("application/dtmf", &[0xff]), Err(ACCEPTED));
    }
}
