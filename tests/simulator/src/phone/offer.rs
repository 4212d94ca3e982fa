//! The SDP offer of a WhatsApp phone, written as Meta writes it, line by line.

use std::fmt::Write as _;
use std::net::SocketAddr;

use rand::Rng;
use rand::rngs::StdRng;

/// Ways in which an offer may differ from the usual one of 2026.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OfferQuirks {
    /// The shape of Meta's documentation sample: three `extmap` lines, `ufrag` on the candidates, an
    /// unpadded password, the older `fmtp`, per-SSRC `msid`, no `maxptime` and `ptime`.
    pub extmap: bool,
    /// Lines end in LF instead of CRLF.
    pub lf_line_ends: bool,
    /// Lines that no reader knows: an attribute, a session line, a candidate of an unknown kind.
    pub foreign_lines: bool,
    /// No `msid` and no `ssrc` line, as in one published capture of 2026-08.
    pub no_ssrc: bool,
    /// A space at the end of every line.
    pub trailing_spaces: bool,
    /// The fingerprint of another certificate as well.
    pub second_fingerprint: Option<SecondFingerprint>,
    /// Which way the sound goes, instead of `sendrecv`.
    pub direction: Option<&'static str>,
    /// So many candidates of a low priority at addresses where nobody is, before the phone's own.
    pub dead_candidates: u32,
    /// More media sections behind the audio: whole lines, each with its CRLF.
    pub more_media: &'static str,
}

/// Where another certificate's fingerprint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecondFingerprint {
    /// Before the phone's own.
    Before,
    /// Behind it.
    Behind,
}

/// SHA-256 of a certificate that nobody has.
const NOBODYS_FINGERPRINT: &str =
    "00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F";

/// What the lines of an offer are made of.
#[derive(Debug, Clone)]
pub struct OfferParts<'a> {
    /// Unix time of the call in milliseconds; stands in the `o=` line.
    pub unix_ms: u128,
    /// Where the phone listens: at most one IPv4 and one IPv6 address matter.
    pub addresses: &'a [SocketAddr],
    /// ICE user fragment, 16 letters.
    pub ufrag: &'a str,
    /// ICE password, 24 characters of base64 with `==`.
    pub password: &'a str,
    /// SHA-256 of the certificate as colon-separated upper-case hex.
    pub fingerprint: &'a str,
    /// SSRC of everything the phone sends.
    pub ssrc: u32,
    /// The random UUID-like name of the media stream.
    pub stream: &'a str,
    /// What differs from the usual offer.
    pub quirks: &'a OfferQuirks,
}

/// The offer's text. Source of the shape: a call of 2026-10 (`fixtures/sdp-offer-user-initiated-2026-10.sdp`).
#[must_use]
pub fn offer_text(parts: &OfferParts<'_>) -> String {
    let quirks = parts.quirks;
    let first = parts.addresses.iter().find(|a| a.is_ipv4()).or(parts.addresses.first());
    let (port, connection) = match first {
        Some(address) if address.is_ipv4() => (address.port(), format!("IP4 {}", address.ip())),
        Some(address) => (address.port(), format!("IP6 {}", address.ip())),
        None => (9, "IP4 0.0.0.0".to_owned()),
    };
    let mut text = Lines::default();
    text.line("v=0");
    text.line(format_args!("o=- {} 2 IN IP4 127.0.0.1", parts.unix_ms));
    text.line("s=-");
    if quirks.foreign_lines {
        text.line("i=A line that nobody reads");
    }
    text.line("t=0 0");
    text.line("a=group:BUNDLE audio");
    if quirks.foreign_lines {
        text.line("a=x-meta-experiment:7;session");
    }
    text.line(format_args!("a=msid-semantic: WMS {}", parts.stream));
    text.line("a=ice-lite");
    text.line(format_args!("m=audio {port} UDP/TLS/RTP/SAVPF 111 126"));
    text.line(format_args!("c=IN {connection}"));
    text.line("a=rtcp:9 IN IP4 0.0.0.0");
    candidate_lines(&mut text, parts);
    text.line(format_args!("a=ice-ufrag:{}", parts.ufrag));
    text.line(format_args!("a=ice-pwd:{}", parts.password));
    fingerprint_lines(&mut text, parts);
    text.line("a=setup:actpass");
    text.line("a=mid:audio");
    if quirks.extmap {
        text.line("a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level");
        text.line("a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time");
        text.line("a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01");
    }
    text.line(format_args!("a={}", quirks.direction.unwrap_or("sendrecv")));
    if !quirks.extmap && !quirks.no_ssrc {
        text.line(format_args!("a=msid:{} WhatsAppTrack1", parts.stream));
    }
    text.line("a=rtcp-mux");
    text.line("a=rtpmap:111 opus/48000/2");
    text.line("a=rtcp-fb:111 transport-cc");
    if quirks.extmap {
        text.line("a=fmtp:111 minptime=10;useinbandfec=1");
    } else {
        text.line(
            "a=fmtp:111 maxaveragebitrate=20000;maxplaybackrate=16000;minptime=20;\
             sprop-maxcapturerate=16000;useinbandfec=1",
        );
    }
    text.line("a=rtpmap:126 telephone-event/8000");
    if quirks.foreign_lines {
        text.line("a=x-meta-media:unheard of");
    }
    ssrc_lines(&mut text, parts);
    quirks.more_media.lines().for_each(|line| text.line(line));
    text.finish(match (quirks.lf_line_ends, quirks.trailing_spaces) {
        (true, _) => "\n",
        (false, true) => " \r\n",
        (false, false) => "\r\n",
    })
}

fn fingerprint_lines(text: &mut Lines, parts: &OfferParts<'_>) {
    let fingerprints = match parts.quirks.second_fingerprint {
        None => vec![parts.fingerprint],
        Some(SecondFingerprint::Before) => vec![NOBODYS_FINGERPRINT, parts.fingerprint],
        Some(SecondFingerprint::Behind) => vec![parts.fingerprint, NOBODYS_FINGERPRINT],
    };
    for fingerprint in fingerprints {
        text.line(format_args!("a=fingerprint:sha-256 {fingerprint}"));
    }
}

fn candidate_lines(text: &mut Lines, parts: &OfferParts<'_>) {
    let ufrag = if parts.quirks.extmap { format!(" ufrag {}", parts.ufrag) } else { String::new() };
    // Port 9 of loopback takes whatever is sent there.
    for number in 1..=parts.quirks.dead_candidates {
        text.line(format_args!("a=candidate:{number} 1 udp {number} 127.0.1.{} 9 typ host", number % 255));
    }
    for address in parts.addresses {
        // Meta gives IPv6 the higher priority.
        let priority = match (address.is_ipv4(), parts.quirks.extmap) {
            (true, false) => 2_122_260_223_u32,
            (false, false) => 2_122_262_783,
            (true, true) => 2_113_937_151,
            (false, true) => 2_113_939_711,
        };
        let foundation = parts.ssrc.rotate_left(7) ^ priority;
        text.line(format_args!(
            "a=candidate:{foundation} 1 udp {priority} {} {} typ host generation 0 network-cost 50{ufrag}",
            address.ip(),
            address.port(),
        ));
    }
    if parts.quirks.foreign_lines {
        text.line("a=candidate:99 1 carrier-pigeon 1 192.0.2.1 9 typ homing");
    }
}

fn ssrc_lines(text: &mut Lines, parts: &OfferParts<'_>) {
    let ssrc = parts.ssrc;
    if parts.quirks.extmap {
        text.line(format_args!("a=ssrc:{ssrc} cname:gAXq2V9TKltrnapv"));
        text.line(format_args!("a=ssrc:{ssrc} msid:{} audio#R5wfXFcdmT6", parts.stream));
        text.line(format_args!("a=ssrc:{ssrc} mslabel:{}", parts.stream));
        text.line(format_args!("a=ssrc:{ssrc} label:audio#R5wfXFcdmT6"));
        return;
    }
    text.line("a=maxptime:20");
    text.line("a=ptime:20");
    if !parts.quirks.no_ssrc {
        text.line(format_args!("a=ssrc:{ssrc} cname:WhatsAppAudioStream1"));
    }
}

/// Sixteen letters, as Meta's user fragments are.
pub(crate) fn random_ufrag(random: &mut StdRng) -> String {
    const LETTERS: &[u8; 52] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    (0..16).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
}

/// Base64 of sixteen bytes: 24 characters, the last two `==`, which RFC 8839 does not allow and Meta sends.
pub(crate) fn random_password(random: &mut StdRng) -> String {
    crate::meta::base64(&random.random::<[u8; 16]>())
}

/// A name of a media stream in the shape of a UUID.
pub(crate) fn random_stream(random: &mut StdRng) -> String {
    let hex = format!("{:032x}", random.random::<u128>());
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[derive(Default)]
struct Lines(Vec<String>);

impl Lines {
    fn line(&mut self, line: impl std::fmt::Display) {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = write!(text, "{line}");
        self.0.push(text);
    }

    fn finish(self, line_end: &str) -> String {
        self.0.into_iter().flat_map(|line| [line, line_end.to_owned()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: &str = include_str!("../../fixtures/sdp-offer-user-initiated-2026-10.sdp");
    const OLDER: &str = include_str!("../../fixtures/sdp-offer-user-initiated-doc-sample-extmap.sdp");

    #[test]
    fn the_usual_offer_has_the_lines_of_a_real_one() {
        assert_eq!(shapes(&written(&OfferQuirks::default())), shapes(USUAL));
    }

    #[test]
    fn the_older_offer_has_the_lines_of_metas_sample() {
        let quirks = OfferQuirks { extmap: true, ..OfferQuirks::default() };
        assert_eq!(shapes(&written(&quirks)), shapes(OLDER));
    }

    #[test]
    fn every_value_in_place_gives_the_real_offer_byte_for_byte() {
        let addresses =
            ["203.0.113.50:3480".parse().unwrap(), "[2001:db8:f312:131:face:b00c:0:699c]:3480".parse().unwrap()];
        let text = offer_text(&OfferParts {
            unix_ms: 1_790_963_543_407,
            addresses: &addresses,
            ufrag: "DjVARWiTSJKINsJv",
            password: "lRsogDpi6/+UMZtHb1hReQ==",
            fingerprint: "48:70:DE:4D:2A:A3:6F:56:50:A2:D8:97:1E:28:B5:B9:F5:5F:CC:47:A7:92:62:58:EC:67:4A:8C:C7:B1:6B:4A",
            ssrc: 613_016_344,
            stream: "e2c46217-aebc-d489-d737-aea5748bd0c6",
            quirks: &OfferQuirks::default(),
        });
        let foundations = |text: &str| -> String {
            text.split_inclusive("\r\n").filter(|line| !line.starts_with("a=candidate:")).collect()
        };
        assert_eq!(foundations(&text), foundations(USUAL));
    }

    #[test]
    fn credentials_have_metas_form() {
        let mut random = rand::SeedableRng::seed_from_u64(1);
        let (ufrag, password) = (random_ufrag(&mut random), random_password(&mut random));
        assert_eq!(ufrag.len(), 16);
        assert!(password.len() == 24 && password.ends_with("=="), "{password}");
    }

    fn written(quirks: &OfferQuirks) -> String {
        offer_text(&OfferParts {
            unix_ms: 1_790_963_543_407,
            addresses: &["127.0.0.1:40012".parse().unwrap(), "[::1]:40012".parse().unwrap()],
            ufrag: "abcdefghijklmnop",
            password: "AAAAAAAAAAAAAAAAAAAAAA==",
            fingerprint: "AA:BB",
            ssrc: 5,
            stream: "s",
            quirks,
        })
    }

    /// A line's key, and for the few lines that never vary all of it.
    fn shapes(text: &str) -> Vec<String> {
        assert!(text.ends_with("\r\n"));
        text.split("\r\n")
            .map(|line| match line.split_once(':') {
                Some((
                    key @ ("a=rtpmap" | "a=fmtp" | "a=rtcp-fb" | "a=rtcp" | "a=setup" | "a=mid" | "a=group"
                    | "a=extmap"),
                    value,
                )) => {
                    format!("{key}:{value}")
                }
                Some(("a=candidate", value)) => {
                    let words: Vec<&str> = value.split(' ').collect();
                    format!("a=candidate {} {} {}", words[1], words[3], words[6..words.len().min(12)].join(" "))
                }
                Some((key, _)) => key.to_owned(),
                None => line.split(' ').next().unwrap_or_default().to_owned(),
            })
            .collect()
    }
}
