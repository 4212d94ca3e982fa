//! What Meta reads in a business's answer, what it refuses, and what it would merely dislike.

use std::fmt;

use crate::objection::Objection;

/// The facts of an answer that the phone needs to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// ICE user fragment of the service.
    pub ufrag: String,
    /// ICE password of the service.
    pub password: String,
    /// SHA-256 of the service's certificate.
    pub fingerprint: Vec<u8>,
    /// Whether the service is the DTLS client (`setup:active`).
    pub active: bool,
    /// The SSRC it announced, if any.
    pub ssrc: Option<u32>,
    /// What Meta would accept and yet the call might suffer from.
    pub objections: Vec<Objection>,
}

/// Why Meta would refuse an answer with HTTP 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Code 100: no `a=fingerprint` line.
    NoFingerprint,
    /// Code 100, subcode 2494010: a fingerprint of another algorithm, or more than one.
    FingerprintNotSha256,
    /// Code 138008 "SDP Validation error"; the text says what the simulator found wrong.
    Invalid(&'static str),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFingerprint => f.write_str("No fingerprint found in SDP"),
            Self::FingerprintNotSha256 => f.write_str("Fingerprint algo is not SHA256"),
            Self::Invalid(reason) => write!(f, "Provided SDP is invalid ({reason})"),
        }
    }
}

impl Answer {
    /// Reads an answer to this offer, whether a simulated phone made it or a browser.
    ///
    /// # Errors
    /// A [`Refusal`] where Meta would answer 400.
    pub fn read(text: &str, offer: &str) -> Result<Self, Refusal> {
        let lines: Vec<&str> = text.lines().collect();
        if lines.first() != Some(&"v=0") {
            return Err(Refusal::Invalid("does not begin with v=0"));
        }
        let fingerprint = fingerprint(&lines)?;
        media_lines(&lines, offer)?;
        let ufrag = value(&lines, "a=ice-ufrag:").ok_or(Refusal::Invalid("no ice-ufrag"))?.to_owned();
        let password = value(&lines, "a=ice-pwd:").ok_or(Refusal::Invalid("no ice-pwd"))?.to_owned();
        let offered = offer.lines().find_map(|line| line.strip_prefix("a=mid:")).map(str::trim_end);
        if value(&lines, "a=mid:") != offered {
            return Err(Refusal::Invalid("mid is not the offer's"));
        }
        let active = match value(&lines, "a=setup:") {
            Some("active") => true,
            Some("passive") => false,
            _ => return Err(Refusal::Invalid("setup is neither active nor passive")),
        };
        let mut ssrcs: Vec<u32> =
            lines.iter().filter_map(|line| line.strip_prefix("a=ssrc:")?.split(' ').next()?.parse().ok()).collect();
        ssrcs.dedup();
        let objections = dislikes(text, &lines, offer, active, &ssrcs);
        Ok(Self { ufrag, password, fingerprint, active, ssrc: ssrcs.first().copied(), objections })
    }
}

impl Answer {
    /// Reads the offer of a business that calls. `relay_is_active` is the role that Meta's relay takes.
    ///
    /// # Errors
    /// A [`Refusal`] where Meta would answer 400.
    pub fn read_offer(text: &str, relay_is_active: bool) -> Result<Self, Refusal> {
        let lines: Vec<&str> = text.lines().collect();
        if lines.first() != Some(&"v=0") {
            return Err(Refusal::Invalid("does not begin with v=0"));
        }
        let fingerprint = fingerprint(&lines)?;
        if value(&lines, "m=audio ").is_none_or(|media| media.starts_with("0 ")) {
            return Err(Refusal::Invalid("no audio is offered"));
        }
        if !lines.contains(&"a=rtpmap:111 opus/48000/2") || !lines.contains(&"a=rtpmap:126 telephone-event/8000") {
            return Err(Refusal::Invalid(PAYLOAD_TYPES));
        }
        if !lines.iter().any(|line| line.starts_with("a=candidate:")) {
            return Err(Refusal::Invalid("no candidate: trickling does not exist"));
        }
        let ufrag = value(&lines, "a=ice-ufrag:").ok_or(Refusal::Invalid("no ice-ufrag"))?.to_owned();
        let password = value(&lines, "a=ice-pwd:").ok_or(Refusal::Invalid("no ice-pwd"))?.to_owned();
        if value(&lines, "a=setup:") != Some("actpass") {
            return Err(Refusal::Invalid("setup is not actpass"));
        }
        let active = !relay_is_active;
        let ssrcs: Vec<u32> =
            lines.iter().filter_map(|line| line.strip_prefix("a=ssrc:")?.split(' ').next()?.parse().ok()).collect();
        // The role is the relay's choice, and everything else is judged as in an answer.
        let objections = dislikes(text, &lines, text, true, &ssrcs);
        Ok(Self { ufrag, password, fingerprint, active, ssrc: ssrcs.first().copied(), objections })
    }
}

/// Meta wants exactly one, SHA-256; the algorithm's case does not matter.
fn fingerprint(lines: &[&str]) -> Result<Vec<u8>, Refusal> {
    let all: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("a=fingerprint:")).collect();
    let [one] = all[..] else {
        return Err(if all.is_empty() { Refusal::NoFingerprint } else { Refusal::FingerprintNotSha256 });
    };
    let (algorithm, hex) = one.split_once(' ').ok_or(Refusal::Invalid("broken fingerprint"))?;
    if !algorithm.eq_ignore_ascii_case("sha-256") {
        return Err(Refusal::FingerprintNotSha256);
    }
    let bytes: Option<Vec<u8>> = hex.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.filter(|bytes| bytes.len() == 32).ok_or(Refusal::Invalid("broken fingerprint"))
}

/// As many media lines as the offer has (RFC 3264 §6): the audio, and all others refused.
fn media_lines(lines: &[&str], offer: &str) -> Result<(), Refusal> {
    let answered: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("m=")).collect();
    let offered: Vec<&str> = offer.lines().filter_map(|line| line.strip_prefix("m=")).collect();
    if answered.len() != offered.len() {
        return Err(Refusal::Invalid("not as many media lines as were offered"));
    }
    for (answered, offered) in answered.into_iter().zip(offered) {
        let [answered, offered] = [answered, offered].map(|line| line.split(' ').collect::<Vec<&str>>());
        if answered.len() < 4 || (answered[0], answered[2]) != (offered[0], offered[2]) {
            return Err(Refusal::Invalid("a media line of another kind than was offered"));
        }
        match answered[0] {
            "audio" => audio_line(&answered, offer)?,
            _ if answered[1] != "0" => return Err(Refusal::Invalid("media beside the audio is not refused")),
            _ => {}
        }
    }
    Ok(())
}

const PAYLOAD_TYPES: &str = "payload types other than offered, or Opus not first";

/// Not refused, with Opus first and nothing but Opus and telephone events as they were offered.
fn audio_line(words: &[&str], offer: &str) -> Result<(), Refusal> {
    if words[1] == "0" {
        return Err(Refusal::Invalid("the media is refused with port 0"));
    }
    let opus = payload_types(offer, "opus/");
    let keys = payload_types(offer, "telephone-event/");
    if !opus.contains(&words[3]) || words[3..].iter().any(|word| !opus.contains(word) && !keys.contains(word)) {
        return Err(Refusal::Invalid(PAYLOAD_TYPES));
    }
    Ok(())
}

/// The payload types of the codecs whose names begin so.
fn payload_types<'a>(offer: &'a str, codec: &str) -> Vec<&'a str> {
    let codecs = offer.lines().filter_map(|line| line.strip_prefix("a=rtpmap:")?.split_once(' '));
    let named = |name: &str| name.get(..codec.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(codec));
    codecs.filter(|(_, name)| named(name)).map(|(payload_type, _)| payload_type).collect()
}

fn dislikes(text: &str, lines: &[&str], offer: &str, active: bool, ssrcs: &[u32]) -> Vec<Objection> {
    let mut objections = Vec::new();
    if lines.contains(&"a=ice-lite") {
        objections.push(Objection::AnswerWithIceLite);
    }
    if !active {
        objections.push(Objection::AnswerNotActive);
    }
    if direction(lines.iter().copied()) != mirrored(direction(offer.lines())) {
        objections.push(Objection::AnswerDirection);
    }
    if !lines.contains(&"a=rtcp-mux") {
        objections.push(Objection::AnswerWithoutRtcpMux);
    }
    if ssrcs.len() > 1 {
        objections.push(Objection::AnswerWithSeveralSsrcs);
    }
    if !text.ends_with("\r\n") || text.matches('\n').count() != text.matches("\r\n").count() {
        objections.push(Objection::AnswerLineEnds);
    }
    objections
}

/// The first there is: the audio section's.
fn direction<'a>(mut lines: impl Iterator<Item = &'a str>) -> &'a str {
    let directions = ["a=sendrecv", "a=recvonly", "a=sendonly", "a=inactive"];
    lines.find(|line| directions.contains(&line.trim_end())).unwrap_or("a=sendrecv").trim_end()
}

/// RFC 3264 §6.1.
fn mirrored(direction: &str) -> &str {
    match direction {
        "a=sendonly" => "a=recvonly",
        "a=recvonly" => "a=sendonly",
        both_or_none => both_or_none,
    }
}

fn value<'a>(lines: &[&'a str], key: &str) -> Option<&'a str> {
    lines.iter().find_map(|line| line.strip_prefix(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = include_str!("../../fixtures/sdp-offer-user-initiated-2026-10.sdp");
    const ACCEPTED: &str = include_str!("../../fixtures/sdp-answer-accepted-2025-10.sdp");
    const RECOMMENDED: &str = include_str!("../../fixtures/sdp-answer-recommended.sdp");
    const REJECTED: &str = include_str!("../../fixtures/sdp-answer-rejected-three-fingerprints.sdp");

    #[test]
    fn answers_that_meta_took_are_taken_without_objection() {
        for text in [ACCEPTED, RECOMMENDED] {
            assert_eq!(Answer::read(text, OFFER).unwrap().objections, []);
        }
        assert_eq!(Answer::read(RECOMMENDED, OFFER).unwrap().ssrc, Some(2_774_420_133));
    }

    #[test]
    fn a_browsers_offer_has_its_own_mid_and_payload_types() {
        let as_a_browser =
            |text: &str| text.replace("a=mid:audio", "a=mid:0").replace("111", "109").replace("126", "101");
        let (offer, answer) = (as_a_browser(OFFER), as_a_browser(RECOMMENDED));
        assert_eq!(Answer::read(&answer, &offer).unwrap().objections, []);
        assert_eq!(Answer::read(RECOMMENDED, &offer), Err(Refusal::Invalid(PAYLOAD_TYPES)));
    }

    #[test]
    fn three_fingerprints_are_refused_as_meta_refused_them() {
        assert_eq!(Answer::read(REJECTED, OFFER), Err(Refusal::FingerprintNotSha256));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("a=ice-ufrag:q1W2e3R4\r\n", "", Refusal::Invalid("no ice-ufrag")),
            ("a=mid:audio", "a=mid:0", Refusal::Invalid("mid is not the offer's")),
            ("a=setup:active", "a=setup:actpass", Refusal::Invalid("setup is neither active nor passive")),
            ("m=audio 40000", "m=audio 0", Refusal::Invalid("the media is refused with port 0")),
            ("SAVPF 111 126", "SAVPF 111 126 0", Refusal::Invalid(PAYLOAD_TYPES)),
            ("a=fingerprint:sha-256", "a=fingerprint:sha-512", Refusal::FingerprintNotSha256),
            ("a=fingerprint:", "a=thumbprint:", Refusal::NoFingerprint),
        ];
        for (from, to, refusal) in cases {
            assert_eq!(Answer::read(&RECOMMENDED.replace(from, to), OFFER), Err(refusal));
        }
    }

    #[test]
    fn every_media_line_of_the_offer_is_answered_and_all_but_the_audio_refused() {
        let video = "m=video 9 UDP/TLS/RTP/SAVPF 97\r\n";
        let offer = format!("{OFFER}{video}");
        let miscounted = Err(Refusal::Invalid("not as many media lines as were offered"));
        assert_eq!(Answer::read(RECOMMENDED, &offer), miscounted);
        assert_eq!(Answer::read(&format!("{RECOMMENDED}{video}"), OFFER), miscounted);
        let taken = Answer::read(&format!("{RECOMMENDED}{video}"), &offer);
        assert_eq!(taken, Err(Refusal::Invalid("media beside the audio is not refused")));
        let refused = video.replace(" 9 ", " 0 ");
        assert_eq!(Answer::read(&format!("{RECOMMENDED}{refused}"), &offer).unwrap().objections, []);
    }

    #[test]
    fn an_answer_mirrors_the_direction_of_its_offer() {
        let offer = OFFER.replace("a=sendrecv", "a=sendonly");
        let answer = RECOMMENDED.replace("a=sendrecv", "a=recvonly");
        assert_eq!(Answer::read(&answer, &offer).unwrap().objections, []);
        assert_eq!(Answer::read(RECOMMENDED, &offer).unwrap().objections, [Objection::AnswerDirection]);
    }

    #[test]
    fn what_is_merely_disliked_is_an_objection() {
        let cases = [
            ("a=group:BUNDLE audio", "a=group:BUNDLE audio\r\na=ice-lite", Objection::AnswerWithIceLite),
            ("a=setup:active", "a=setup:passive", Objection::AnswerNotActive),
            ("a=sendrecv", "a=recvonly", Objection::AnswerDirection),
            ("a=rtcp-mux\r\n", "", Objection::AnswerWithoutRtcpMux),
            ("\r\n", "\n", Objection::AnswerLineEnds),
        ];
        for (from, to, objection) in cases {
            assert_eq!(Answer::read(&RECOMMENDED.replace(from, to), OFFER).unwrap().objections, [objection]);
        }
    }
}
