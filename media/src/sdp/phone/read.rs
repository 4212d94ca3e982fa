//! Reads a phone's SDP into a [`PhoneDescription`].

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::crypto::Crypto;
use super::{Format, PhoneDescription, PhoneTransport, RtpProfile};
use crate::audio_terms::Codec;
use crate::sdp::read::{lines, payload_type, token, two_words};
use crate::sdp::{Direction, RefusedMedia, SdpError, split_attribute, split_line};

/// Each is repeated in our answer.
const MOST_MEDIA: usize = 16;
/// Each is tried in turn.
const MOST_CRYPTOS: usize = 16;

pub(super) fn description(text: &str) -> Result<PhoneDescription, SdpError> {
    let mut reader = Reader::default();
    lines(text, |line, number| reader.line(line, number))?;
    reader.finish()
}

#[derive(Default)]
struct Reader {
    session: Level,
    sections: Vec<Section>,
}

/// One level of the SDP: the session, or a media section, which overrides it.
#[derive(Default)]
struct Level {
    /// The first required line that cannot be read.
    malformed: Option<usize>,
    ip: Option<IpAddr>,
    direction: Option<Direction>,
}

/// One `m=` line and the lines below it.
struct Section {
    refusal: RefusedMedia,
    port: u16,
    payload_types: Vec<u8>,
    rtpmaps: Vec<(u8, String)>,
    ptime: Option<u32>,
    maxptime: Option<u32>,
    /// `a=rtcp`: its port, and its address if it has one.
    rtcp: Option<(u16, Option<IpAddr>)>,
    rtcp_mux: bool,
    cryptos: Vec<Crypto>,
    level: Level,
}

impl Reader {
    fn line(&mut self, line: &str, number: usize) -> Result<(), SdpError> {
        let read = match split_line(line) {
            Some(("m", value)) => {
                if self.sections.len() >= MOST_MEDIA {
                    return Err(SdpError::TooManyMedia);
                }
                let section = Section::parse(value).ok_or(SdpError::Malformed { line: number })?;
                self.sections.push(section);
                return Ok(());
            }
            Some(("c", value)) => connection(value).map(|ip| self.level().ip = Some(ip)),
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

    fn level(&mut self) -> &mut Level {
        match self.sections.last_mut() {
            Some(section) => &mut section.level,
            None => &mut self.session,
        }
    }

    fn attribute(&mut self, name: &str, value: &str) -> Option<()> {
        let Some(direction) = Direction::of_attribute(name) else {
            return self.sections.last_mut().map_or(Some(()), |section| section.attribute(name, value));
        };
        self.level().direction = Some(direction);
        Some(())
    }

    /// The first usable audio section, preferably with SRTP: some phones offer one with and one without. If there is none,
    /// the first one's error is returned.
    fn finish(self) -> Result<PhoneDescription, SdpError> {
        if let Some(line) = self.session.malformed {
            return Err(SdpError::Malformed { line });
        }
        let (mut plain, mut refusal) = (None, None);
        for (index, section) in self.sections.iter().enumerate().filter(|(_, section)| section.is_audio()) {
            match self.description(index, section) {
                Ok(encrypted) if encrypted.transport.profile.is_encrypted() => return Ok(encrypted),
                Ok(description) => plain = plain.or(Some(description)),
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        plain.ok_or(refusal.unwrap_or(SdpError::NoAudio))
    }

    fn description(&self, index: usize, audio: &Section) -> Result<PhoneDescription, SdpError> {
        if audio.port == 0 {
            return Err(SdpError::AudioRefused);
        }
        if let Some(line) = audio.level.malformed {
            return Err(SdpError::Malformed { line });
        }
        let profile = RtpProfile::from_name(&audio.refusal.protocol).ok_or(SdpError::NotPlainRtp)?;
        let ip = audio.level.ip.or(self.session.ip).ok_or(SdpError::NoAddress)?;
        if profile.is_encrypted() && audio.cryptos.is_empty() {
            return Err(SdpError::NoKeys);
        }
        let refused = |sections: &[Section]| sections.iter().map(|section| section.refusal.clone()).collect();
        Ok(PhoneDescription {
            transport: audio.transport(profile, ip),
            formats: audio.formats(),
            telephone_events: audio.telephone_events(),
            comfort_noise: audio.payload_types.iter().copied().find(|number| audio.is_named(*number, "cn/8000")),
            packet_length: audio.packet_length(),
            direction: audio.level.direction.or(self.session.direction).unwrap_or(Direction::SendRecv),
            refused_before: refused(&self.sections[..index]),
            refused_behind: refused(&self.sections[index + 1..]),
        })
    }
}

impl Section {
    fn parse(value: &str) -> Option<Self> {
        let mut words = value.split_ascii_whitespace();
        let kind = token(words.next()?)?.to_ascii_lowercase();
        let port = words.next()?.split('/').next()?.parse().ok()?;
        let protocol = token(words.next()?)?;
        let formats: Vec<&str> = words.collect();
        let format = formats.first().and_then(|format| token(format)).unwrap_or_else(|| "0".to_owned());
        Some(Self {
            refusal: RefusedMedia { kind, protocol, format, mid: None },
            port,
            payload_types: formats.into_iter().filter_map(payload_type).collect(),
            rtpmaps: Vec::new(),
            ptime: None,
            maxptime: None,
            rtcp: None,
            rtcp_mux: false,
            cryptos: Vec::new(),
            level: Level::default(),
        })
    }

    fn attribute(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "mid" => self.refusal.mid = Some(token(value)?),
            "rtpmap" => {
                if let Some((number, name)) = two_words(value)
                    && let Some(number) = payload_type(number)
                {
                    self.rtpmaps.push((number, name.to_ascii_lowercase()));
                }
            }
            "ptime" => self.ptime = leading_number(value),
            "maxptime" => self.maxptime = leading_number(value),
            "rtcp" => self.rtcp = Some(rtcp(value)?),
            "rtcp-mux" => self.rtcp_mux = true,
            "crypto" if self.cryptos.len() < MOST_CRYPTOS => self.cryptos.extend(Crypto::parse(value)),
            _ => {}
        }
        Some(())
    }

    fn is_audio(&self) -> bool {
        self.refusal.kind == "audio"
    }

    fn transport(&self, profile: RtpProfile, ip: IpAddr) -> PhoneTransport {
        let rtp = (!ip.is_unspecified()).then(|| SocketAddr::new(ip, self.port));
        let rtcp = rtp.and_then(|rtp| match self.rtcp {
            Some((port, ip)) => Some(SocketAddr::new(ip.unwrap_or(rtp.ip()), port)),
            None => rtp.port().checked_add(1).map(|port| SocketAddr::new(rtp.ip(), port)),
        });
        PhoneTransport { profile, rtp, rtcp, rtcp_mux: self.rtcp_mux, cryptos: self.cryptos.clone() }
    }

    /// In the order of the `m=` line, which is the phone's preference.
    fn formats(&self) -> Vec<Format> {
        let codec = |number| Codec::ALL.into_iter().find(|codec| self.is_codec(number, *codec));
        let formats =
            self.payload_types.iter().map(|number| Some(Format { codec: codec(*number)?, payload_type: *number }));
        formats.flatten().collect()
    }

    fn telephone_events(&self) -> Vec<(u32, u8)> {
        let clock = |number| match number {
            number if self.is_named(number, "telephone-event/8000") => Some(8_000),
            number if self.is_named(number, "telephone-event/48000") => Some(48_000),
            _ => None,
        };
        self.payload_types.iter().filter_map(|number| Some((clock(*number)?, *number))).collect()
    }

    fn is_codec(&self, number: u8, codec: Codec) -> bool {
        match codec {
            Codec::Opus => self.is_named(number, "opus/48000/2") || self.is_named(number, "opus/48000"),
            Codec::Pcmu => self.is_named(number, "pcmu/8000"),
            Codec::Pcma => self.is_named(number, "pcma/8000"),
        }
    }

    /// By its `a=rtpmap`, or else by the static numbers (RFC 3551 §6).
    fn is_named(&self, number: u8, name: &str) -> bool {
        let mapped = self.rtpmaps.iter().find(|(mapped, _)| *mapped == number).map(|(_, name)| name.as_str());
        let found = mapped.unwrap_or(match number {
            0 => "pcmu/8000",
            8 => "pcma/8000",
            13 => "cn/8000",
            _ => "",
        });
        // One channel is the default, and may be written.
        found == name || found.strip_suffix("/1") == Some(name)
    }

    /// Of the lengths that we send, the one it asks for, or the longest that it takes.
    fn packet_length(&self) -> Option<Duration> {
        let wanted = self.ptime.or(self.maxptime.filter(|most| *most < 20))?;
        let most = self.maxptime.unwrap_or(60).clamp(10, 60);
        Some(Duration::from_millis(u64::from((wanted.clamp(10, 60)).min(most) / 10 * 10)))
    }
}

/// The address of a `c=` line. A name is not looked up.
fn connection(value: &str) -> Option<IpAddr> {
    let mut words = value.split_ascii_whitespace();
    let (network, kind, address) = (words.next()?, words.next()?, words.next()?);
    network.eq_ignore_ascii_case("IN").then(|| ip(kind, address)).flatten()
}

fn rtcp(value: &str) -> Option<(u16, Option<IpAddr>)> {
    let mut words = value.split_ascii_whitespace();
    let port = words.next()?.parse().ok().filter(|port| *port != 0)?;
    let (_, kind, address) = (words.next(), words.next(), words.next());
    Some((port, kind.zip(address).and_then(|(kind, address)| ip(kind, address))))
}

fn ip(kind: &str, address: &str) -> Option<IpAddr> {
    let address: IpAddr = address.split('/').next()?.parse().ok()?;
    let is_meant = match address {
        IpAddr::V4(_) => kind.eq_ignore_ascii_case("IP4"),
        IpAddr::V6(_) => kind.eq_ignore_ascii_case("IP6"),
    };
    is_meant.then_some(address)
}

/// Some phones write `20.0`.
fn leading_number(value: &str) -> Option<u32> {
    let digits = value.split(|character: char| !character.is_ascii_digit()).next()?;
    digits.parse().ok().filter(|number| *number > 0)
}
