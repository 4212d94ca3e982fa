//! SDP fragments (`application/trickle-ice-sdpfrag`, RFC 8840): what a browser adds to its SDP later. Candidates as it
//! finds them, and with other credentials an ICE restart.

use super::read::{self, Level};
use super::write::{Lines, candidate_lines};
use super::{Candidate, LocalDescription, SdpError};

/// A remote fragment.
#[derive(Clone, PartialEq, Eq)]
pub struct Fragment {
    /// ICE user name of the remote.
    pub ufrag: String,
    /// ICE password of the remote.
    pub pwd: String,
    /// UDP addresses of the remote: the 20 of the highest priorities, the highest first.
    pub candidates: Vec<Candidate>,
}

impl Fragment {
    /// Reads a fragment. Candidates of all its sections are taken: a bundle has one transport.
    pub fn parse(text: &str) -> Result<Self, SdpError> {
        let mut level = Level::default();
        read::lines(text, |line, number| {
            let attribute = line.strip_prefix("a=").unwrap_or_default();
            let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
            let read = level.attribute(&name.trim_end().to_ascii_lowercase(), value.trim_start());
            read.ok_or(SdpError::Malformed { line: number })
        })?;
        let (ufrag, pwd, candidates) = level.transport()?;
        Ok(Self { ufrag, pwd, candidates })
    }
}

/// Our side of an ICE restart: new credentials and the addresses as before.
pub(crate) fn write_fragment(local: &LocalDescription<'_>, mid: Option<&str>) -> String {
    let mut lines = Lines::default();
    lines.push(format_args!("a=ice-ufrag:{}", local.ufrag));
    lines.push(format_args!("a=ice-pwd:{}", local.pwd));
    lines.push(format_args!("m=audio 9 UDP/TLS/RTP/SAVPF 0"));
    if let Some(mid) = mid {
        lines.push(format_args!("a=mid:{mid}"));
    }
    candidate_lines(&mut lines, local.addresses);
    lines.0
}

/// Says nothing of credentials and addresses, so that a fragment may stand in an error or a log.
impl std::fmt::Debug for Fragment {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Fragment").field("candidates", &self.candidates.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PWD: &str = "a password of 22 letters";

    /// As Chromium writes it, but for the addresses.
    fn browser() -> String {
        let pwd = PWD.replace(' ', "+");
        format!(
            "a=ice-ufrag:EsAw\r\na=ice-pwd:{pwd}\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n\
             a=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host generation 0 ufrag EsAw network-id 1\r\n\
             a=candidate:2 1 tcp 1518280447 192.0.2.1 9 typ host tcptype active\r\n\
             a=candidate:3 1 udp 2122194687 1f4712db-ea17-4bcf-a596-105139dfd8bf.local 5 typ host\r\n\
             a=end-of-candidates\r\n"
        )
    }

    #[test]
    fn a_browsers_fragment_is_read() {
        let fragment = Fragment::parse(&browser()).unwrap();
        assert_eq!((fragment.ufrag.as_str(), fragment.pwd), ("EsAw", PWD.replace(' ', "+")));
        let addresses: Vec<String> = fragment.candidates.iter().map(|one| one.address.to_string()).collect();
        assert_eq!(addresses, ["192.0.2.1:61764"]);
    }

    #[test]
    fn a_fragment_without_credentials_or_with_bad_ones_is_refused() {
        assert_eq!(Fragment::parse("a=end-of-candidates"), Err(SdpError::NoIceCredentials));
        assert_eq!(Fragment::parse("a=ice-ufrag:a b\r\n"), Err(SdpError::Malformed { line: 1 }));
        assert_eq!(Fragment::parse(&"a=x\n".repeat(20_000)), Err(SdpError::TooLong));
    }

    #[test]
    fn ten_thousand_candidates_are_twenty() {
        let head = browser();
        let many: Vec<String> =
            (1..900).map(|n| format!("a=candidate:{n} 1 udp {n} 192.0.2.1 {} typ host\r\n", 1000 + n)).collect();
        let fragment = Fragment::parse(&(head + &many.concat())).unwrap();
        assert_eq!(fragment.candidates.len(), 20);
        assert_eq!(Fragment::parse(&many.concat().repeat(3)).err(), Some(SdpError::TooLong));
    }

    #[test]
    fn what_we_write_we_read() {
        let addresses = ["203.0.113.7:40000".parse().unwrap(), "[2001:db8::7]:40000".parse().unwrap()];
        let fingerprint = crate::sdp::Fingerprint([0; 32]);
        let pwd = "0123456789abcdefghijkl";
        let local = LocalDescription {
            session_id: 1,
            version: 2,
            addresses: &addresses,
            ufrag: "ours",
            pwd,
            fingerprint,
            ssrc: 1,
        };
        let read = Fragment::parse(&write_fragment(&local, Some("0"))).unwrap();
        assert_eq!((read.ufrag.as_str(), read.pwd.as_str()), ("ours", pwd));
        assert_eq!(read.candidates.iter().map(|one| one.address).collect::<Vec<_>>(), addresses);
    }
}
