//! Reads a remote SDP into a [`Description`].

use std::cmp::Reverse;
use std::collections::HashSet;

use super::{
    Candidate, Description, Direction, Fingerprint, OpusFormat, RefusedMedia, SdpError, Setup, split_attribute,
    split_line,
};

/// Meta's SDPs have about 1.5 kB; browsers stay below 10 kB.
const LONGEST_TEXT_BYTES: usize = 64 * 1024;
const MOST_LINES: usize = 1000;
/// Each is repeated in our answer.
const MOST_MEDIA: usize = 16;
/// More addresses only mean more connectivity checks.
const MOST_CANDIDATES: usize = 20;
/// Longest token of the remote that we repeat in our own SDP.
const LONGEST_FMTP_BYTES: usize = 512;
const LONGEST_TOKEN_BYTES: usize = 64;
/// RFC 8839 §5.4: 4 to 256 characters for the name, 22 to 256 for the password.
const LONGEST_CREDENTIAL_BYTES: usize = 256;

/// Reads a description. `setup` is the default DTLS role.
///
/// Line ends, spaces at the ends of lines, runs of spaces and tabs, and the case of names do not matter. A
/// malformed line fails its section, and the whole SDP only where every section needs it.
pub(super) fn description(text: &str, setup: Option<Setup>) -> Result<Description, SdpError> {
    let mut reader = Reader::default();
    lines(text, |line, number| reader.line(line, number))?;
    reader.finish(setup)
}

/// Hands out each line that is not empty, trimmed, with its number from 1.
pub(super) fn lines(text: &str, mut take: impl FnMut(&str, usize) -> Result<(), SdpError>) -> Result<(), SdpError> {
    if text.len() > LONGEST_TEXT_BYTES {
        return Err(SdpError::TooLong);
    }
    for (index, line) in text.trim_start_matches('\u{feff}').split('\n').enumerate() {
        if index >= MOST_LINES {
            return Err(SdpError::TooManyLines);
        }
        let line = line.trim();
        if line.chars().any(|character| character.is_control() && character != '\t') {
            return Err(SdpError::ControlCharacter { line: index + 1 });
        }
        if !line.is_empty() {
            take(line, index + 1)?;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Reader {
    session: Level,
    /// The names in `a=group:BUNDLE` lines.
    bundled: Vec<String>,
    sections: Vec<Section>,
}

/// One level of the SDP: the session, or a media section, which overrides it.
#[derive(Default)]
pub(super) struct Level {
    /// The first required line that cannot be read.
    malformed: Option<usize>,
    ufrag: Option<String>,
    pwd: Option<String>,
    setup: Option<Setup>,
    direction: Option<Direction>,
    ice_lite: bool,
    /// All SHA-256 fingerprints.
    fingerprints: Vec<Fingerprint>,
    other_fingerprints: bool,
    crypto: bool,
    candidates: Vec<Candidate>,
}

/// One `m=` line and the lines below it.
struct Section {
    kind: String,
    port: u16,
    protocol: String,
    format: String,
    payload_types: Vec<u8>,
    mid: Option<String>,
    opus_types: Vec<u8>,
    telephone_event_types: Vec<u8>,
    fmtps: Vec<(u8, String)>,
    level: Level,
}

impl Reader {
    fn line(&mut self, line: &str, number: usize) -> Result<(), SdpError> {
        let read = match split_line(line) {
            Some(("m", value)) => return self.media(value).ok_or(SdpError::Malformed { line: number })?,
            Some(("a", value)) => {
                let (name, value) = split_attribute(value);
                self.attribute(&name, value)
            }
            Some((kind, _)) => (kind.len() == 1).then_some(()),
            None => None,
        };
        if read.is_none() {
            self.level().malformed.get_or_insert(number);
        }
        Ok(())
    }

    /// The level of the current line.
    fn level(&mut self) -> &mut Level {
        match self.sections.last_mut() {
            Some(section) => &mut section.level,
            None => &mut self.session,
        }
    }

    /// `None` if the line is malformed: an answer could not repeat it.
    fn media(&mut self, value: &str) -> Option<Result<(), SdpError>> {
        if self.sections.len() >= MOST_MEDIA {
            return Some(Err(SdpError::TooManyMedia));
        }
        let mut words = value.split_ascii_whitespace();
        let kind = token(words.next()?)?.to_ascii_lowercase();
        let port = words.next()?.split('/').next()?.parse().ok()?;
        let protocol = token(words.next()?)?;
        let formats: Vec<&str> = words.collect();
        self.sections.push(Section {
            kind,
            port,
            protocol,
            format: formats.first().and_then(|format| token(format)).unwrap_or_else(|| "0".to_owned()),
            payload_types: formats.into_iter().filter_map(payload_type).collect(),
            mid: None,
            opus_types: Vec::new(),
            telephone_event_types: Vec::new(),
            fmtps: Vec::new(),
            level: Level::default(),
        });
        Some(Ok(()))
    }

    /// `None` when an attribute that we need is malformed; unknown ones are skipped.
    fn attribute(&mut self, name: &str, value: &str) -> Option<()> {
        match (name, self.sections.last_mut()) {
            ("group", _) => {
                let mut words = value.split_ascii_whitespace();
                if words.next().is_some_and(|word| word.eq_ignore_ascii_case("BUNDLE")) {
                    self.bundled.extend(words.map(str::to_owned));
                }
                Some(())
            }
            ("mid" | "rtpmap" | "fmtp", Some(section)) => section.attribute(name, value),
            ("mid" | "rtpmap" | "fmtp", None) => Some(()),
            _ => self.level().attribute(name, value),
        }
    }

    /// The first usable audio section. If there is none, the first one's error is returned.
    fn finish(self, default_setup: Option<Setup>) -> Result<Description, SdpError> {
        if let Some(line) = self.session.malformed {
            return Err(SdpError::Malformed { line });
        }
        let mut refusal = None;
        for (index, section) in self.sections.iter().enumerate().filter(|(_, section)| section.kind == "audio") {
            match self.description(index, section, default_setup) {
                Ok(description) => return Ok(description),
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        Err(refusal.unwrap_or(SdpError::NoAudio))
    }

    fn description(&self, index: usize, audio: &Section, setup: Option<Setup>) -> Result<Description, SdpError> {
        let (session, level) = (&self.session, &audio.level);
        if audio.port == 0 {
            return Err(SdpError::AudioRefused);
        }
        if let Some(line) = level.malformed {
            return Err(SdpError::Malformed { line });
        }
        let fingerprints = level.fingerprints(session)?;
        let opus = audio.opus().ok_or(SdpError::NoOpus)?;
        let ufrag = level.ufrag.as_ref().or(session.ufrag.as_ref());
        let pwd = level.pwd.as_ref().or(session.pwd.as_ref());
        let (ufrag, pwd) = ufrag.zip(pwd).ok_or(SdpError::NoIceCredentials)?;
        let refused = |sections: &[Section]| sections.iter().map(Section::refused).collect();
        Ok(Description {
            bundle: audio.mid.as_ref().is_some_and(|mid| self.bundled.contains(mid)),
            mid: audio.mid.clone(),
            setup: level.setup.or(session.setup).or(setup).ok_or(SdpError::NoSetup)?,
            ice_lite: session.ice_lite || level.ice_lite,
            ufrag: ufrag.clone(),
            pwd: pwd.clone(),
            fingerprints,
            candidates: best([&session.candidates[..], &level.candidates].concat()),
            direction: level.direction.or(session.direction).unwrap_or(Direction::SendRecv),
            opus,
            telephone_event: audio.first_of(&audio.telephone_event_types),
            refused_before: refused(&self.sections[..index]),
            refused_behind: refused(&self.sections[index + 1..]),
        })
    }
}

impl Level {
    /// The ICE credentials and the best candidates, for a text that has no other level.
    pub(super) fn transport(self) -> Result<(String, String, Vec<Candidate>), SdpError> {
        let (ufrag, pwd) = self.ufrag.zip(self.pwd).ok_or(SdpError::NoIceCredentials)?;
        Ok((ufrag, pwd, best(self.candidates)))
    }

    /// None for a line that is needed and cannot be read.
    pub(super) fn attribute(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "ice-ufrag" => self.ufrag = Some(credential(value, 4).filter(|ufrag| !ufrag.contains(':'))?),
            "ice-pwd" => self.pwd = Some(credential(value, 22)?),
            "setup" => self.setup = Some(setup(value)?),
            "fingerprint" => match fingerprint(value)? {
                Some(fingerprint) => self.fingerprints.push(fingerprint),
                None => self.other_fingerprints = true,
            },
            "crypto" => self.crypto = true,
            "ice-lite" => self.ice_lite = true,
            "candidate" => self.candidates.extend(Candidate::parse(value)),
            _ => self.direction = Direction::of_attribute(name).or(self.direction),
        }
        Some(())
    }

    /// The section's, or else the session's. Other hash functions count only when there is no SHA-256.
    fn fingerprints(&self, session: &Level) -> Result<Vec<Fingerprint>, SdpError> {
        let levels = [self, session];
        if let Some(level) = levels.into_iter().find(|level| !level.fingerprints.is_empty()) {
            return Ok(level.fingerprints.clone());
        }
        let others = levels.into_iter().any(|level| level.other_fingerprints);
        let crypto = levels.into_iter().any(|level| level.crypto);
        Err(match (others, crypto) {
            (true, _) => SdpError::FingerprintNotSha256,
            (false, true) => SdpError::Sdes,
            (false, false) => SdpError::NoFingerprint,
        })
    }
}

impl Section {
    fn attribute(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "mid" => self.mid = Some(token(value)?),
            "rtpmap" => self.rtpmap(value),
            "fmtp" => self.fmtp(value),
            _ => {}
        }
        Some(())
    }

    fn rtpmap(&mut self, value: &str) {
        let Some((number, codec)) = two_words(value) else { return };
        let Some(number) = payload_type(number).filter(|number| self.payload_types.contains(number)) else {
            return;
        };
        match codec.to_ascii_lowercase().as_str() {
            "opus/48000/2" | "opus/48000" => self.opus_types.push(number),
            "telephone-event/8000" | "telephone-event/8000/1" => self.telephone_event_types.push(number),
            _ => {}
        }
    }

    fn fmtp(&mut self, value: &str) {
        if let Some((number, parameters)) = two_words(value)
            && let Some(number) = payload_type(number)
        {
            self.fmtps.push((number, parameters.to_owned()));
        }
    }

    fn opus(&self) -> Option<OpusFormat> {
        let payload_type = self.first_of(&self.opus_types)?;
        // Parameters on several lines are one list.
        let lines = self.fmtps.iter().filter(|(number, _)| *number == payload_type);
        let fmtp = lines.map(|(_, parameters)| parameters.as_str()).collect::<Vec<_>>().join(";");
        let is_usable = (1..=LONGEST_FMTP_BYTES).contains(&fmtp.len());
        Some(OpusFormat { payload_type, fmtp: is_usable.then_some(fmtp) })
    }

    /// The first in the order of the `m=` line is the remote's preference.
    fn first_of(&self, payload_types: &[u8]) -> Option<u8> {
        self.payload_types.iter().find(|number| payload_types.contains(number)).copied()
    }

    fn refused(&self) -> RefusedMedia {
        RefusedMedia {
            kind: self.kind.clone(),
            protocol: self.protocol.clone(),
            format: self.format.clone(),
            mid: self.mid.clone(),
        }
    }
}

/// Each address once, those of the highest priority first.
fn best(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.sort_by_key(|candidate| Reverse(candidate.priority));
    let mut known = HashSet::new();
    candidates.retain(|candidate| known.insert(candidate.address));
    candidates.truncate(MOST_CANDIDATES);
    candidates
}

/// The first word, and the rest.
pub(super) fn two_words(value: &str) -> Option<(&str, &str)> {
    let (first, rest) = value.split_once([' ', '\t'])?;
    Some((first, rest.trim_start()))
}

pub(super) fn payload_type(word: &str) -> Option<u8> {
    word.parse().ok().filter(|number| *number < 128)
}

pub(super) fn token(value: &str) -> Option<String> {
    visible(value, 1..=LONGEST_TOKEN_BYTES)
}

/// Meta's passwords end in `==`, which RFC 8839 does not allow: any visible ASCII is accepted.
fn credential(value: &str, shortest: usize) -> Option<String> {
    visible(value, shortest..=LONGEST_CREDENTIAL_BYTES)
}

fn visible(value: &str, bytes: std::ops::RangeInclusive<usize>) -> Option<String> {
    let fits = bytes.contains(&value.len());
    (fits && value.bytes().all(|byte| byte.is_ascii_graphic())).then(|| value.to_owned())
}

fn setup(value: &str) -> Option<Setup> {
    match value.to_ascii_lowercase().as_str() {
        "actpass" => Some(Setup::Actpass),
        "active" => Some(Setup::Active),
        "passive" => Some(Setup::Passive),
        _ => None,
    }
}

/// `Some(None)` for another hash function than SHA-256.
fn fingerprint(value: &str) -> Option<Option<Fingerprint>> {
    let (function, digits) = two_words(value)?;
    if !function.eq_ignore_ascii_case("sha-256") {
        return Some(None);
    }
    let mut hash = [0; 32];
    let mut bytes = digits.split(':');
    for byte in &mut hash {
        let digits = bytes.next().filter(|digits| digits.len() == 2 && !digits.starts_with('+'))?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    bytes.next().is_none().then_some(Some(Fingerprint(hash)))
}
