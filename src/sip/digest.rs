//! Digest authentication (RFC 7616 and 8760, RFC 3261 §22): challenges, credentials and the proof between them. Pure.
//!
//! MD5 and SHA-256, with `qop=auth` or without a qop. Challenges that ask for anything else are skipped. A value keeps the
//! escapes of its quoted string: that is what is hashed (`unq` in RFC 7616 §3.4.1) and what goes back.

use std::fmt;

use md5::Md5;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;

/// Longer headers are attacks: a real one has some hundred bytes.
const MAX_BYTES: usize = 4096;
const MAX_CHALLENGES: usize = 8;

/// The hash of a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Also what a challenge without an algorithm means.
    Md5,
    /// RFC 8760.
    Sha256,
}

/// What `WWW-Authenticate` or `Proxy-Authenticate` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Whose users are asked for.
    pub realm: String,
    /// The server's word that the proof is made of.
    pub nonce: String,
    /// Goes back as it came.
    pub opaque: Option<String>,
    /// How the proof is hashed.
    pub algorithm: Algorithm,
    /// Whether the proof has a count and a word of the client's (`qop=auth`). Without them it is that of RFC 2069.
    pub has_qop: bool,
    /// The last nonce was too old; the password may be right.
    pub is_stale: bool,
}

/// What `Authorization` or `Proxy-Authorization` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Who asks.
    pub username: String,
    /// As in the challenge.
    pub realm: String,
    /// As in the challenge.
    pub nonce: String,
    /// What the request asks for: its Request-URI.
    pub uri: String,
    /// The proof, in hexadecimal digits.
    pub response: String,
    /// As in the challenge.
    pub algorithm: Algorithm,
    /// As in the challenge.
    pub opaque: Option<String>,
    /// None without `qop=auth`.
    pub counted: Option<Counted>,
}

/// What `qop=auth` adds to a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Which use of the nonce it is, from 1 on.
    pub nc: u32,
    /// The client's word.
    pub cnonce: String,
}

/// Why a header is no digest credentials.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Unreadable {
    /// Another scheme, such as Basic or Bearer.
    #[error("the scheme is not Digest")]
    Scheme,
    /// A part is missing, stands twice, or cannot be read.
    #[error("the header is malformed")]
    Malformed,
    /// A session algorithm, an unknown one, `auth-int` or a hashed user name.
    #[error("the header asks for what is not supported")]
    Unsupported,
}

/// H(username:realm:password). As good as the password in its realm, so it is in no log.
#[derive(Clone)]
pub struct Ha1(Algorithm, SecretString);

impl Ha1 {
    /// The hash of a user's password.
    pub fn new(algorithm: Algorithm, username: &str, realm: &str, password: &SecretString) -> Self {
        Self(algorithm, algorithm.hash(&[username, realm, password.expose_secret()]).into())
    }

    /// From the hash itself, in lower-case hexadecimal digits.
    pub fn of_hash(algorithm: Algorithm, hash: SecretString) -> Self {
        Self(algorithm, hash)
    }

    /// The hash that it is of.
    pub fn algorithm(&self) -> Algorithm {
        self.0
    }

    /// The hash itself, to be compared with another.
    pub fn expose(&self) -> &str {
        self.1.expose_secret()
    }

    /// The proof of a request. `counted` is there exactly if the challenge has a qop.
    pub fn response(&self, nonce: &str, counted: Option<&Counted>, method: &str, uri: &str) -> String {
        let (ha1, ha2) = (self.1.expose_secret(), self.0.hash(&[method, uri]));
        match counted {
            Some(Counted { nc, cnonce }) => self.0.hash(&[ha1, nonce, &format!("{nc:08x}"), cnonce, "auth", &ha2]),
            None => self.0.hash(&[ha1, nonce, &ha2]),
        }
    }
}

impl fmt::Debug for Ha1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ha1({}, …)", self.0)
    }
}

impl Challenge {
    /// The challenges of one header that we can answer, in the server's order; RFC 8760 §2.4 wants the first.
    pub fn read_all(value: &str) -> Vec<Self> {
        let challenges = split_schemes(value).into_iter().take(MAX_CHALLENGES);
        challenges.filter_map(|(scheme, parameters)| Self::read(scheme, &parameters)).collect()
    }

    fn read(scheme: &str, parameters: &Parameters<'_>) -> Option<Self> {
        if !scheme.eq_ignore_ascii_case("Digest") || parameters.has_doubles() {
            return None;
        }
        let qop = parameters.get("qop");
        let offers_auth = |qop: &str| qop.split(',').any(|each| each.trim().eq_ignore_ascii_case("auth"));
        if qop.is_some_and(|qop| !offers_auth(qop)) {
            return None;
        }
        Some(Self {
            realm: parameters.get("realm")?.to_owned(),
            nonce: parameters.get("nonce").filter(|nonce| !nonce.is_empty())?.to_owned(),
            opaque: parameters.get("opaque").map(str::to_owned),
            algorithm: Algorithm::of(parameters.get("algorithm"))?,
            has_qop: qop.is_some(),
            is_stale: parameters.get("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
        })
    }

    /// The answer to it. `nc` counts the requests with this nonce from 1 on; `cnonce` is a random token.
    pub fn answer(&self, username: &str, ha1: &Ha1, method: &str, uri: &str, nc: u32, cnonce: &str) -> Credentials {
        let counted = self.has_qop.then(|| Counted { nc, cnonce: cnonce.to_owned() });
        Credentials {
            username: username.to_owned(),
            realm: self.realm.clone(),
            nonce: self.nonce.clone(),
            uri: uri.to_owned(),
            response: ha1.response(&self.nonce, counted.as_ref(), method, uri),
            algorithm: self.algorithm,
            opaque: self.opaque.clone(),
            counted,
        }
    }
}

impl Credentials {
    /// Reads the value of `Authorization` or `Proxy-Authorization`.
    pub fn parse(value: &str) -> Result<Self, Unreadable> {
        let schemes = split_schemes(value);
        let [(scheme, parameters)] = schemes.as_slice() else { return Err(Unreadable::Malformed) };
        if !scheme.eq_ignore_ascii_case("Digest") {
            return Err(Unreadable::Scheme);
        }
        if parameters.has_doubles() {
            return Err(Unreadable::Malformed);
        }
        let is_hashed = parameters.get("userhash").is_some_and(|hashed| hashed.eq_ignore_ascii_case("true"));
        if is_hashed || parameters.get("username*").is_some() {
            return Err(Unreadable::Unsupported);
        }
        let text = |name| parameters.get(name).map(str::to_owned).ok_or(Unreadable::Malformed);
        let algorithm = Algorithm::of(parameters.get("algorithm")).ok_or(Unreadable::Unsupported)?;
        let response = text("response")?;
        let is_hash = response.len() == algorithm.digits() && response.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hash {
            return Err(Unreadable::Malformed);
        }
        let counted = match parameters.get("qop") {
            None => None,
            Some(qop) if qop.eq_ignore_ascii_case("auth") => Some(Counted {
                nc: parameters.get("nc").and_then(count).ok_or(Unreadable::Malformed)?,
                cnonce: text("cnonce")?,
            }),
            Some(_) => return Err(Unreadable::Unsupported),
        };
        let opaque = parameters.get("opaque").map(str::to_owned);
        let (username, realm, nonce, uri) = (text("username")?, text("realm")?, text("nonce")?, text("uri")?);
        Ok(Self { username, realm, nonce, uri, response, algorithm, opaque, counted })
    }

    /// Whether they prove knowledge of the password. Nonce, count and realm are the caller's to check, and that `uri` is the
    /// request's.
    pub fn are_proof(&self, ha1: &Ha1, method: &str) -> bool {
        let expected = ha1.response(&self.nonce, self.counted.as_ref(), method, &self.uri);
        let given = self.response.to_ascii_lowercase();
        self.algorithm == ha1.algorithm() && bool::from(expected.as_bytes().ct_eq(given.as_bytes()))
    }
}

/// A value for `WWW-Authenticate` or `Proxy-Authenticate`.
impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { realm, nonce, opaque, algorithm, has_qop, is_stale } = self;
        write!(f, "Digest realm=\"{realm}\", nonce=\"{nonce}\", algorithm={algorithm}")?;
        if *has_qop {
            f.write_str(", qop=\"auth\"")?;
        }
        if *is_stale {
            f.write_str(", stale=true")?;
        }
        opaque.as_ref().map_or(Ok(()), |opaque| write!(f, ", opaque=\"{opaque}\""))
    }
}

/// A value for `Authorization` or `Proxy-Authorization`. RFC 7616 §3.4: `algorithm`, `qop` and `nc` are not quoted.
impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { username, realm, nonce, uri, response, algorithm, opaque, counted } = self;
        write!(f, "Digest username=\"{username}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", ")?;
        write!(f, "response=\"{response}\", algorithm={algorithm}")?;
        if let Some(Counted { nc, cnonce }) = counted {
            write!(f, ", qop=auth, nc={nc:08x}, cnonce=\"{cnonce}\"")?;
        }
        opaque.as_ref().map_or(Ok(()), |opaque| write!(f, ", opaque=\"{opaque}\""))
    }
}

impl Algorithm {
    /// None for one that we do not have.
    fn of(name: Option<&str>) -> Option<Self> {
        let Some(name) = name else { return Some(Self::Md5) };
        [Self::Md5, Self::Sha256].into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        }
    }

    fn digits(self) -> usize {
        match self {
            Self::Md5 => 32,
            Self::Sha256 => 64,
        }
    }

    fn hash(self, parts: &[&str]) -> String {
        let text = SecretString::from(parts.join(":"));
        let bytes = text.expose_secret().as_bytes();
        match self {
            Self::Md5 => hexadecimal(&Md5::digest(bytes)),
            Self::Sha256 => hexadecimal(&Sha256::digest(bytes)),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Eight hexadecimal digits above zero.
fn count(text: &str) -> Option<u32> {
    let is_count = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u32::from_str_radix(text, 16).ok().filter(|count| is_count && *count > 0)
}

/// The parameters behind one scheme, without quotes.
#[derive(Default)]
struct Parameters<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Parameters<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// Two readers could take one each.
    fn has_doubles(&self) -> bool {
        let is_double =
            |index: usize, name: &str| self.0[..index].iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        self.0.iter().enumerate().any(|(index, (name, _))| is_double(index, name))
    }
}

/// `Digest a=b, c="d", Digest e=f` as two schemes with their parameters; nothing if a part cannot be read.
fn split_schemes(value: &str) -> Vec<(&str, Parameters<'_>)> {
    let mut schemes: Vec<(&str, Parameters<'_>)> = Vec::new();
    if value.len() > MAX_BYTES || value.contains(char::is_control) {
        return schemes;
    }
    let mut rest = value.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let Some((name, behind)) = token(rest) else { return Vec::new() };
        let after = behind.trim_start_matches(' ');
        let Some(after_equals) = after.strip_prefix('=') else {
            // RFC 7235 §2.1: a scheme, and a blank before its parameters.
            if !behind.is_empty() && !behind.starts_with([' ', ',']) {
                return Vec::new();
            }
            schemes.push((name, Parameters::default()));
            rest = behind.trim_start_matches([' ', ',']);
            continue;
        };
        let value = after_equals.trim_start_matches(' ');
        let (Some((value, behind)), Some((_, parameters))) = (parameter_value(value), schemes.last_mut()) else {
            return Vec::new();
        };
        parameters.0.push((name, value));
        let behind = behind.trim_start_matches(' ');
        rest = match behind.strip_prefix(',') {
            Some(next) => next.trim_start_matches([' ', ',']),
            None if behind.is_empty() => behind,
            None => return Vec::new(),
        };
    }
    schemes
}

/// RFC 3261 §25.1.
fn token(text: &str) -> Option<(&str, &str)> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte);
    let end = text.bytes().position(|byte| !is_token(byte)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A token or the inside of a quoted string, and what stands behind it.
fn parameter_value(text: &str) -> Option<(&str, &str)> {
    let Some(quoted) = text.strip_prefix('"') else { return token(text) };
    let mut is_escaped = false;
    for (at, byte) in quoted.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return Some((&quoted[..at], &quoted[at + 1..])),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 7616 §3.9.1.
    const CHALLENGES: &str = "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm=SHA-256, \
         nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\", \
         Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm=MD5, \
         nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\"";
    const CNONCE: &str = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";

    fn mufasa(algorithm: Algorithm, realm: &str, password: &str) -> Ha1 {
        Ha1::new(algorithm, "Mufasa", realm, &password.to_owned().into())
    }

    #[test]
    fn the_examples_of_rfc_7616_are_computed() {
        let challenges = Challenge::read_all(CHALLENGES);
        let answers: Vec<String> = challenges
            .iter()
            .map(|challenge| {
                let ha1 = mufasa(challenge.algorithm, &challenge.realm, "Circle of Life");
                let answer = challenge.answer("Mufasa", &ha1, "GET", "/dir/index.html", 1, CNONCE);
                assert_eq!(Credentials::parse(&answer.to_string()), Ok(answer.clone()));
                assert!(answer.are_proof(&ha1, "GET") && !answer.are_proof(&ha1, "PUT"));
                answer.response
            })
            .collect();
        let expected =
            ["753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1", "8ca523f5e9506fed4657c9700eebdbec"];
        assert_eq!(answers, expected);
    }

    #[test]
    fn the_example_of_rfc_2617_is_computed() {
        let header = "Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", \
                      nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"";
        let challenges = Challenge::read_all(header);
        let ha1 = mufasa(Algorithm::Md5, "testrealm@host.com", "Circle Of Life");
        let answer = challenges[0].answer("Mufasa", &ha1, "GET", "/dir/index.html", 1, "0a4f113b");
        assert_eq!(
            answer.to_string(),
            "Digest username=\"Mufasa\", realm=\"testrealm@host.com\", nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", \
             uri=\"/dir/index.html\", response=\"6629fae49393a05397450978507c4ef1\", algorithm=MD5, qop=auth, nc=00000001, \
             cnonce=\"0a4f113b\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\""
        );
    }

    /// RFC 2069 §2.4 with its erratum: no qop, no count.
    #[test]
    fn a_challenge_without_qop_is_answered_in_the_old_way() {
        let header = "Digest realm=\"testrealm@host.com\", nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", \
                      opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"";
        let challenge = Challenge::read_all(header).remove(0);
        assert!(!challenge.has_qop);
        let ha1 = mufasa(Algorithm::Md5, "testrealm@host.com", "CircleOfLife");
        let answer = challenge.answer("Mufasa", &ha1, "GET", "/dir/index.html", 1, "unused");
        assert_eq!(answer.response, "1949323746fe6a43ef61f9606e7febea");
        assert!(!answer.to_string().contains("qop") && !answer.to_string().contains("unused"));
        assert_eq!(Credentials::parse(&answer.to_string()), Ok(answer));
    }

    #[test]
    fn challenges_are_read_as_servers_write_them() {
        let read = |value: &str| Challenge::read_all(value);
        let plain = read("digest Realm=\"a, \\\"b\\\"\" , NONCE = n1,stale=TRUE");
        assert_eq!((plain[0].realm.as_str(), plain[0].nonce.as_str()), ("a, \\\"b\\\"", "n1"));
        assert!(plain[0].is_stale && plain[0].algorithm == Algorithm::Md5);
        assert_eq!(read(&plain[0].to_string()), plain);
        assert_eq!(read("Basic realm=\"x\", Digest realm=\"y\", nonce=\"n\"")[0].realm, "y");
        let many = format!("{}Digest realm=r, nonce=n", "Basic realm=x, ".repeat(MAX_CHALLENGES));
        assert_eq!(read(&many), []);
        for skipped in [
            "",
            "Digest",
            "Digest realm=\"x\"",
            "Digest realm=\"x\", nonce=\"\"",
            "Digest realm=\"x\", nonce=\"n\", algorithm=MD5-sess",
            "Digest realm=\"x\", nonce=\"n\", algorithm=SHA-512-256",
            "Digest realm=\"x\", nonce=\"n\", qop=\"auth-int\"",
            "Digest realm=\"x\", nonce=\"n\", nonce=\"m\"",
            "Digest realm=\"x\", nonce=\"n",
            "Digest realm=\"x\" nonce=\"n\"",
            "Digest realm=\"x\r\n\", nonce=\"n\"",
            "realm=\"x\", nonce=\"n\"",
            "Digest: realm=\"x\", nonce=\"n\"",
        ] {
            assert_eq!(read(skipped), [], "{skipped}");
        }
    }

    #[test]
    fn credentials_are_read_as_phones_write_them() {
        let start = "Digest username=\"a\",realm=\"r\",nonce=\"n\",uri=\"sip:r\",";
        let response = format!("response=\"{}\"", "0A".repeat(16));
        let read = |rest: &str| Credentials::parse(&format!("{start}{response}{rest}"));
        assert_eq!(read("").unwrap().counted, None);
        let counted = Some(Counted { nc: 26, cnonce: "c".to_owned() });
        assert_eq!(read(",qop=auth,nc=0000001a,cnonce=\"c\"").unwrap().counted, counted);
        assert_eq!(read(",qop=\"auth\",nc=0000001a,cnonce=\"c\",userhash=false").unwrap().counted, counted);
        for (rest, why) in [
            (",qop=auth,nc=1,cnonce=\"c\"", Unreadable::Malformed),
            (",qop=auth,nc=00000000,cnonce=\"c\"", Unreadable::Malformed),
            (",qop=auth,nc=00000001", Unreadable::Malformed),
            (",qop=auth-int,nc=00000001,cnonce=\"c\"", Unreadable::Unsupported),
            (",algorithm=SHA-256", Unreadable::Malformed),
            (",algorithm=MD5-sess", Unreadable::Unsupported),
            (",userhash=true", Unreadable::Unsupported),
            (",uri=\"sip:other\"", Unreadable::Malformed),
            (", Digest", Unreadable::Malformed),
        ] {
            assert_eq!(read(rest), Err(why), "{rest}");
        }
        assert_eq!(Credentials::parse("Basic abc="), Err(Unreadable::Malformed));
        assert_eq!(Credentials::parse("Bearer a=b"), Err(Unreadable::Scheme));
    }

    #[test]
    fn a_hashed_password_is_shown_nowhere() {
        let ha1 = mufasa(Algorithm::Md5, "r", "secret");
        assert_eq!(format!("{ha1:?}"), "Ha1(MD5, …)");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            username in "[a-zA-Z0-9 @,=+.-]{1,20}", nonce in "[a-zA-Z0-9+/=]{1,20}", nc in 1..u32::MAX,
            opaque in prop::option::of("[ -!#-\\[\\]-~]{0,20}"), has_qop: bool, is_stale: bool, is_sha: bool,
        ) {
            let algorithm = if is_sha { Algorithm::Sha256 } else { Algorithm::Md5 };
            let challenge = Challenge { realm: "r, =".to_owned(), nonce, opaque, algorithm, has_qop, is_stale };
            prop_assert_eq!(Challenge::read_all(&challenge.to_string()), vec![challenge.clone()]);
            let ha1 = Ha1::new(algorithm, &username, "r, =", &"secret".to_owned().into());
            let answer = challenge.answer(&username, &ha1, "INVITE", "sip:a@b", nc, "cnonce");
            let read = Credentials::parse(&answer.to_string()).unwrap();
            prop_assert!(read.are_proof(&ha1, "INVITE"));
            prop_assert_eq!(read, answer);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _ = Challenge::read_all(&text);
            let _ = Challenge::read_all(&format!("Digest {text}"));
            let _ = Credentials::parse(&format!("Digest username=\"{text}\", {text}"));
        }
    }
}
