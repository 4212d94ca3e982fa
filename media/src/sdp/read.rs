//! Reading a foreign SDP into a [`Description`].

use super::{Candidate, Description, Fingerprint, OpusFormat, SdpError, Setup};

/// Meta's SDPs have about 1.5 kB; browsers stay below 10 kB.
const LONGEST_TEXT_BYTES: usize = 64 * 1024;
const MOST_LINES: usize = 1000;
/// More addresses only mean more connectivity checks.
const MOST_CANDIDATES: usize = 20;
/// What a foreigner may make us repeat in our own SDP.
const LONGEST_FMTP_BYTES: usize = 512;
const LONGEST_MID_BYTES: usize = 64;
/// RFC 8839 §5.4: 4 to 256 characters for the name, 22 to 256 for the password.
const LONGEST_CREDENTIAL_BYTES: usize = 256;

/// Reads a description; `setup` is what holds when the text does not say who opens DTLS.
pub(super) fn description(text: &str, setup: Option<Setup>) -> Result<Description, SdpError> {
    if text.len() > LONGEST_TEXT_BYTES {
        return Err(SdpError::TooLong);
    }
    let mut reader = Reader::default();
    for (index, line) in text.split('\n').enumerate() {
        if index >= MOST_LINES {
            return Err(SdpError::TooManyLines);
        }
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.chars().any(|character| character.is_control() && character != '\t') {
            return Err(SdpError::ControlCharacter { line: index + 1 });
        }
        if line.is_empty() {
            continue;
        }
        reader.line(line)?.ok_or(SdpError::Malformed { line: index + 1 })?;
    }
    reader.finish(setup)
}

/// What one level of the SDP says: the session, or the audio section, which overrides it.
#[derive(Default)]
struct Level {
    ufrag: Option<String>,
    pwd: Option<String>,
    setup: Option<Setup>,
    fingerprint: Option<Fingerprint>,
    other_fingerprints: bool,
    crypto: bool,
}

#[derive(Default)]
struct Reader {
    session: Level,
    audio: Level,
    in_audio: bool,
    audio_port: Option<u16>,
    formats: Vec<u8>,
    ice_lite: bool,
    bundled: Vec<String>,
    mid: Option<String>,
    candidates: Vec<Candidate>,
    opus_types: Vec<u8>,
    telephone_event_types: Vec<u8>,
    fmtps: Vec<(u8, String)>,
}

impl Reader {
    /// One line; `Ok(None)` if it is malformed.
    fn line(&mut self, line: &str) -> Result<Option<()>, SdpError> {
        let Some((kind, value)) = line.split_once('=') else {
            return Ok(None);
        };
        match kind {
            "m" => self.media(value),
            "a" => {
                let (name, value) = value.split_once(':').unwrap_or((value, ""));
                Ok(self.attribute(name, value.trim()))
            }
            _ => Ok((kind.len() == 1).then_some(())),
        }
    }

    fn media(&mut self, value: &str) -> Result<Option<()>, SdpError> {
        let mut words = value.split_ascii_whitespace();
        let kind = words.next().unwrap_or_default();
        if kind != "audio" || self.in_audio {
            return Err(SdpError::OtherMedia);
        }
        self.in_audio = true;
        let port = words.next().and_then(|port| port.split('/').next()?.parse().ok());
        let (Some(port), Some(_protocol)) = (port, words.next()) else {
            return Ok(None);
        };
        self.audio_port = Some(port);
        self.formats = words.filter_map(payload_type).collect();
        Ok(Some(()))
    }

    /// `None` when an attribute that we need is malformed; unknown ones are skipped.
    fn attribute(&mut self, name: &str, value: &str) -> Option<()> {
        let level = if self.in_audio { &mut self.audio } else { &mut self.session };
        match name {
            "ice-ufrag" => level.ufrag = Some(credential(value, 4).filter(|ufrag| !ufrag.contains(':'))?),
            "ice-pwd" => level.pwd = Some(credential(value, 22)?),
            "setup" => level.setup = Some(setup(value)?),
            "fingerprint" => match fingerprint(value)? {
                Some(fingerprint) => level.fingerprint = Some(fingerprint),
                None => level.other_fingerprints = true,
            },
            "crypto" => level.crypto = true,
            "ice-lite" => self.ice_lite = true,
            "group" => {
                let mut words = value.split_ascii_whitespace();
                if words.next() == Some("BUNDLE") {
                    self.bundled.extend(words.take(16).map(str::to_owned));
                }
            }
            "mid" => self.mid = Some(token(value, LONGEST_MID_BYTES)?),
            "candidate" if self.candidates.len() < MOST_CANDIDATES => {
                self.candidates.extend(Candidate::parse(value));
            }
            "rtpmap" => self.rtpmap(value),
            "fmtp" => self.fmtp(value),
            _ => {}
        }
        Some(())
    }

    fn rtpmap(&mut self, value: &str) {
        let Some((number, codec)) = value.split_once(' ') else {
            return;
        };
        let Some(number) = payload_type(number).filter(|number| self.formats.contains(number)) else {
            return;
        };
        let codec = codec.trim().to_ascii_lowercase();
        match codec.as_str() {
            "opus/48000/2" | "opus/48000" => self.opus_types.push(number),
            "telephone-event/8000" | "telephone-event/8000/1" => {
                self.telephone_event_types.push(number);
            }
            _ => {}
        }
    }

    fn fmtp(&mut self, value: &str) {
        if let Some((number, parameters)) = value.split_once(' ')
            && let Some(number) = payload_type(number)
            && parameters.len() <= LONGEST_FMTP_BYTES
        {
            self.fmtps.push((number, parameters.trim().to_owned()));
        }
    }

    fn finish(self, default_setup: Option<Setup>) -> Result<Description, SdpError> {
        match self.audio_port {
            None => return Err(SdpError::NoAudio),
            Some(0) => return Err(SdpError::AudioRefused),
            Some(_) => {}
        }
        let fingerprint = self.audio.fingerprint.or(self.session.fingerprint);
        let Some(fingerprint) = fingerprint else {
            let others = self.audio.other_fingerprints || self.session.other_fingerprints;
            let crypto = self.audio.crypto || self.session.crypto;
            return Err(match (others, crypto) {
                (true, _) => SdpError::FingerprintNotSha256,
                (false, true) => SdpError::Sdes,
                (false, false) => SdpError::NoFingerprint,
            });
        };
        // The first in the order of the m= line is what the remote likes best.
        let opus = self.formats.iter().find(|number| self.opus_types.contains(number));
        let Some(&payload_type) = opus else {
            return Err(SdpError::NoOpus);
        };
        let fmtp = self.fmtps.into_iter().find(|(number, _)| *number == payload_type);
        let (Some(ufrag), Some(pwd)) = (self.audio.ufrag.or(self.session.ufrag), self.audio.pwd.or(self.session.pwd))
        else {
            return Err(SdpError::NoIceCredentials);
        };
        let setup = self.audio.setup.or(self.session.setup).or(default_setup);
        Ok(Description {
            bundle: self.mid.as_ref().is_some_and(|mid| self.bundled.contains(mid)),
            mid: self.mid,
            setup: setup.ok_or(SdpError::NoSetup)?,
            ice_lite: self.ice_lite,
            ufrag,
            pwd,
            fingerprint,
            candidates: self.candidates,
            opus: OpusFormat { payload_type, fmtp: fmtp.map(|(_, parameters)| parameters) },
            telephone_event: self.telephone_event_types.first().copied(),
        })
    }
}

fn payload_type(word: &str) -> Option<u8> {
    word.parse().ok().filter(|number| *number < 128)
}

fn token(value: &str, longest: usize) -> Option<String> {
    let fits = (1..=longest).contains(&value.len());
    (fits && value.bytes().all(|byte| byte.is_ascii_graphic())).then(|| value.to_owned())
}

/// Meta's passwords end in `==`, which RFC 8839 does not allow: any visible ASCII is taken.
fn credential(value: &str, shortest: usize) -> Option<String> {
    token(value, LONGEST_CREDENTIAL_BYTES).filter(|value| value.len() >= shortest)
}

fn setup(value: &str) -> Option<Setup> {
    match value {
        "actpass" => Some(Setup::Actpass),
        "active" => Some(Setup::Active),
        "passive" => Some(Setup::Passive),
        _ => None,
    }
}

/// `Some(None)` for another hash function than SHA-256.
fn fingerprint(value: &str) -> Option<Option<Fingerprint>> {
    let (function, digits) = value.split_once(' ')?;
    if !function.eq_ignore_ascii_case("sha-256") {
        return Some(None);
    }
    let mut hash = [0; 32];
    let mut bytes = digits.trim().split(':');
    for byte in &mut hash {
        let digits = bytes.next().filter(|digits| digits.len() == 2)?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    bytes.next().is_none().then_some(Some(Fingerprint(hash)))
}
