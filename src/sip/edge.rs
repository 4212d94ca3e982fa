//! The edge: what a message must be before the SIP library sees it. Pure.
//!
//! Only the head is read. Bytes behind a head that lies about its length, or that two programs could read in two ways, go no
//! further.

use thiserror::Error;

/// Longer heads are attacks: a phone's has one or two kilobytes.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;
/// A phone's SDP has one or two kilobytes.
pub const MAX_BODY_BYTES: usize = 32 * 1024;
const MAX_LINES: usize = 200;

/// The head of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// None for a response.
    pub method: Option<&'a str>,
    /// The Request-URI as written; empty for a response.
    pub target: &'a str,
    /// The dialog that it belongs to, or begins.
    pub call_id: &'a str,
    /// Of the head with its blank line.
    pub length: usize,
    /// None over UDP means the rest of the datagram.
    pub content_length: Option<usize>,
}

/// Why a message goes no further.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// The head has no end within its limit.
    #[error("head_too_long")]
    HeadTooLong,
    /// The first line is not one of SIP 2.0.
    #[error("start_line")]
    StartLine,
    /// A line without a name, or with a control character.
    #[error("header")]
    Header,
    /// A header that must stand once stands twice, or not at all.
    #[error("header_count")]
    HeaderCount,
    /// The length of the body is no number, too large, or more than there is.
    #[error("content_length")]
    ContentLength,
}

impl Malformed {
    /// The stable name in the metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::HeadTooLong => "head_too_long",
            Self::StartLine => "start_line",
            Self::Header => "header",
            Self::HeaderCount => "header_count",
            Self::ContentLength => "content_length",
        }
    }
}

/// Reads the head at the beginning of a stream. None while its end has not arrived.
pub fn head_of_stream(bytes: &[u8]) -> Result<Option<Head<'_>>, Malformed> {
    let searched = &bytes[..bytes.len().min(MAX_HEAD_BYTES)];
    match end_of_head(searched) {
        None if bytes.len() >= MAX_HEAD_BYTES => Err(Malformed::HeadTooLong),
        None => Ok(None),
        Some(length) => {
            let head = read(&bytes[..length])?;
            // RFC 3261 §18.3: a stream has no other way to tell where a message ends.
            if head.content_length.is_none() { Err(Malformed::HeaderCount) } else { Ok(Some(head)) }
        }
    }
}

/// Reads a datagram. Gives its head and how much of it is the message.
pub fn head_of_datagram(bytes: &[u8]) -> Result<(Head<'_>, usize), Malformed> {
    let length = end_of_head(&bytes[..bytes.len().min(MAX_HEAD_BYTES)]).ok_or(Malformed::HeadTooLong)?;
    let head = read(&bytes[..length])?;
    // RFC 3261 §18.3: a body that was cut off is an error; bytes behind it are discarded.
    let end = length + head.content_length.unwrap_or(bytes.len() - length);
    if end > bytes.len() { Err(Malformed::ContentLength) } else { Ok((head, end)) }
}

/// Writes into the head of a datagram how long its body is, where it leaves that out: the library would read no body.
/// Without room for it there is no message.
pub fn measure_body(buffer: &mut [u8], head_length: usize, end: usize) -> Option<usize> {
    let line = format!("Content-Length: {}\r\n", end - head_length);
    // Before the blank line.
    let (at, behind) = (head_length - 2, head_length - 2 + line.len());
    if end + line.len() > buffer.len() {
        return None;
    }
    buffer.copy_within(at..end, behind);
    buffer[at..behind].copy_from_slice(line.as_bytes());
    Some(end + line.len())
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

fn read(head: &[u8]) -> Result<Head<'_>, Malformed> {
    let text = std::str::from_utf8(head).map_err(|_| Malformed::Header)?;
    let mut lines = text.split("\r\n");
    let start = read_start(lines.next().unwrap_or_default())?;
    let mut once = Once::default();
    for (number, line) in lines.take_while(|line| !line.is_empty()).enumerate() {
        let is_clean = !line.chars().any(|sign| sign.is_control() && sign != '\t');
        // RFC 3261 §7.3.1 allows a value to go on in the next line. Nobody writes that, and readers differ.
        if number >= MAX_LINES || !is_clean || line.starts_with([' ', '\t']) {
            return Err(Malformed::Header);
        }
        let (name, value) = line.split_once(':').ok_or(Malformed::Header)?;
        once.take(name.trim_end(), value.trim())?;
    }
    let call_id = once.finish()?;
    let (method, target) = start.map_or((None, ""), |(method, target)| (Some(method), target));
    Ok(Head { method, target, call_id, length: head.len(), content_length: once.content_length })
}

/// The method and the Request-URI; None for a response.
fn read_start(line: &str) -> Result<Option<(&str, &str)>, Malformed> {
    if line.chars().any(char::is_control) {
        return Err(Malformed::StartLine);
    }
    if line.starts_with("SIP/2.0 ") {
        return Ok(None);
    }
    let parts = line.strip_suffix(" SIP/2.0").and_then(|rest| rest.split_once(' '));
    let is_method = |method: &str| !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase());
    parts.filter(|(method, _)| is_method(method)).map(Some).ok_or(Malformed::StartLine)
}

/// The headers that must stand once.
#[derive(Default)]
struct Once<'a> {
    call_id: Option<&'a str>,
    content_length: Option<usize>,
    others: [bool; 3],
}

impl<'a> Once<'a> {
    fn take(&mut self, name: &str, value: &'a str) -> Result<(), Malformed> {
        let is = |long: &str, short: &str| name.eq_ignore_ascii_case(long) || name.eq_ignore_ascii_case(short);
        if is("Content-Length", "l") {
            let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            let length = value.parse().ok().filter(|length| is_number && *length <= MAX_BODY_BYTES);
            let length = length.ok_or(Malformed::ContentLength)?;
            // Twice the same length is still two headers that somebody else may count.
            return first(self.content_length.replace(length).is_none());
        }
        if is("Call-ID", "i") {
            return first(self.call_id.replace(value).is_none());
        }
        for (index, (long, short)) in [("From", "f"), ("To", "t"), ("CSeq", "CSeq")].into_iter().enumerate() {
            if is(long, short) {
                return first(!std::mem::replace(&mut self.others[index], true));
            }
        }
        Ok(())
    }

    fn finish(&self) -> Result<&'a str, Malformed> {
        let call_id = self.call_id.filter(|call_id| !call_id.is_empty());
        call_id.filter(|_| self.others == [true; 3]).ok_or(Malformed::HeaderCount)
    }
}

fn first(is_first: bool) -> Result<(), Malformed> {
    if is_first { Ok(()) } else { Err(Malformed::HeaderCount) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INVITE: &str = "INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP b;branch=z9hG4bK1\r\nFrom: <sip:c@d>;tag=1\r\n\
                          To: <sip:a@b>\r\ni: call@d\r\nCSeq: 1 INVITE\r\nContent-Length: 4\r\n\r\nv=0\n";

    #[test]
    fn a_message_is_read() {
        let (head, end) = head_of_datagram(INVITE.as_bytes()).unwrap();
        assert_eq!((head.method, head.call_id, head.content_length), (Some("INVITE"), "call@d", Some(4)));
        assert_eq!(head.target, "sip:a@b");
        assert_eq!(end, INVITE.len());
        let response = INVITE.replace("INVITE sip:a@b SIP/2.0", "SIP/2.0 200 OK");
        assert_eq!(head_of_datagram(response.as_bytes()).unwrap().0.method, None);
        let longer = [INVITE, "rubbish"].concat();
        assert_eq!(head_of_datagram(longer.as_bytes()).unwrap().1, INVITE.len());
        for end in 0..head.length {
            assert_eq!(head_of_stream(&INVITE.as_bytes()[..end]), Ok(None));
        }
        assert_eq!(head_of_stream(INVITE.as_bytes()), Ok(Some(head)));
    }

    #[test]
    fn what_lies_or_can_be_read_in_two_ways_goes_no_further() {
        for (from, to, why) in [
            ("Content-Length: 4", "Content-Length: 5", Malformed::ContentLength),
            ("Content-Length: 4", "Content-Length: +4", Malformed::ContentLength),
            ("Content-Length: 4", "Content-Length: 99999999", Malformed::ContentLength),
            ("Content-Length: 4", "Content-Length: 0\r\nl: 4", Malformed::HeaderCount),
            ("Content-Length: 4", "Content-Length: 4\r\ncontent-length : 4", Malformed::HeaderCount),
            ("i: call@d\r\n", "", Malformed::HeaderCount),
            ("i: call@d", "i: call@d\r\nCall-ID: other", Malformed::HeaderCount),
            ("CSeq: 1 INVITE\r\n", "", Malformed::HeaderCount),
            ("CSeq: 1", " folded\r\nCSeq: 1", Malformed::Header),
            ("CSeq: 1", "no colon\r\nCSeq: 1", Malformed::Header),
            ("CSeq: 1", "X: a\rb\r\nCSeq: 1", Malformed::Header),
            ("CSeq: 1", "X: a\0b\r\nCSeq: 1", Malformed::Header),
            ("SIP/2.0\r\nVia", "SIP/3.0\r\nVia", Malformed::StartLine),
            ("INVITE sip", "invite sip", Malformed::StartLine),
            ("\r\n\r\n", "\r\n", Malformed::HeadTooLong),
        ] {
            assert!(INVITE.contains(from), "{from}");
            assert_eq!(head_of_datagram(INVITE.replacen(from, to, 1).as_bytes()), Err(why), "{to:?}");
        }
        let many = INVITE.replacen("CSeq", &("X: y\r\n".repeat(250) + "CSeq"), 1);
        assert_eq!(head_of_datagram(many.as_bytes()), Err(Malformed::Header));
        let endless = [b'x'; MAX_HEAD_BYTES];
        assert_eq!(head_of_stream(&endless), Err(Malformed::HeadTooLong));
        let open = INVITE.replacen("Content-Length: 4\r\n", "", 1);
        assert_eq!(head_of_stream(open.as_bytes()), Err(Malformed::HeaderCount));
        assert_eq!(head_of_datagram(open.as_bytes()).unwrap().1, open.len());
    }

    #[test]
    fn a_body_without_a_length_gets_one() {
        let open = INVITE.replacen("Content-Length: 4\r\n", "", 1);
        let (head, end) = head_of_datagram(open.as_bytes()).unwrap();
        let mut buffer = open.clone().into_bytes();
        assert_eq!(measure_body(&mut buffer, head.length, end), None, "no room");
        buffer.resize(INVITE.len() + 3, 0);
        assert_eq!(measure_body(&mut buffer, head.length, end), Some(INVITE.len()));
        assert_eq!(&buffer[..INVITE.len()], INVITE.as_bytes());
    }

    proptest! {
        #[test]
        fn mutated_messages_neither_panic_nor_reach_behind_their_end(
            at in 0..INVITE.len(), with in prop::collection::vec(any::<u8>(), 0..8), cut in 0..INVITE.len(),
        ) {
            let mut bytes = INVITE.as_bytes().to_vec();
            bytes.splice(at..at.min(bytes.len()), with);
            bytes.truncate(bytes.len().saturating_sub(cut / 4));
            if let Ok((head, end)) = head_of_datagram(&bytes) {
                prop_assert!(head.length <= end && end <= bytes.len());
            }
            let _ = head_of_stream(&bytes);
        }
    }
}
