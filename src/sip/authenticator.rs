//! Authenticator: who sent a request, by digest authentication (RFC 3261 §22, RFC 8760). Pure.
//!
//! Nonces are not stored before they are used: they are signed, and hold the time and the address that they were made for.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::digest::{Algorithm, Challenge, Credentials, Ha1};

/// A phone may use a nonce for this long; then it gets another one without asking its user.
const NONCE_LIFE: Duration = Duration::from_secs(5 * 60);
/// Nonces in use that are remembered. Beyond it the oldest ones, and all that are older, count as stale.
const MAX_NONCES: usize = 10_000;
const TIME_BYTES: usize = 8;
const RANDOM_BYTES: usize = 8;
const MAC_BYTES: usize = 16;

/// Checks who sends requests.
pub(super) struct Authenticator {
    realm: String,
    users: HashMap<String, Vec<Ha1>>,
    /// Compared for names that nobody has, so that they take as long.
    decoy: Vec<Ha1>,
    key: [u8; 32],
    /// Times in nonces count from here.
    origin: Instant,
    /// The last count of each nonce.
    used: BTreeMap<Nonce, u32>,
    /// Older nonces than this have been forgotten.
    oldest: u64,
}

/// What is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Nonce {
    /// Milliseconds since the origin.
    made_at: u64,
    random: u64,
}

/// Who sent a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// This user.
    User(String),
    /// Nobody has said: a challenge follows.
    Unknown,
    /// The same, but the password may be right: the nonce is too old, used, or another address's.
    Stale,
    /// Somebody without a password of ours.
    Wrong,
}

/// The request that credentials are of.
pub(super) struct Claim<'a> {
    /// The values of its `Authorization` and `Proxy-Authorization` headers.
    pub headers: Vec<String>,
    pub method: &'a str,
    /// Whether credentials for this address are for this request.
    pub is_for: &'a dyn Fn(&str) -> bool,
    pub from: IpAddr,
}

impl Authenticator {
    /// `key` is random, and of this process alone.
    pub fn new(realm: &str, users: HashMap<String, Vec<Ha1>>, key: [u8; 32], now: Instant) -> Self {
        let nobody = URL_SAFE_NO_PAD.encode(key).into();
        let decoy =
            [Algorithm::Md5, Algorithm::Sha256].map(|algorithm| Ha1::new(algorithm, "nobody", realm, &nobody)).to_vec();
        Self { realm: realm.to_owned(), users, decoy, key, origin: now, used: BTreeMap::new(), oldest: 0 }
    }

    /// Challenges to answer with; RFC 8760 §2.3 wants the stronger one first. Only those that some user can answer: older
    /// phones give up at a hash that they do not know, whatever else is offered.
    pub fn challenges(&self, from: IpAddr, random: u64, is_stale: bool, now: Instant) -> Vec<Challenge> {
        let nonce = self.write(Nonce { made_at: self.time(now), random }, from);
        let offered =
            [Algorithm::Sha256, Algorithm::Md5].into_iter().filter(|algorithm| self.is_known_to_some(*algorithm));
        let challenge = |algorithm| Challenge {
            realm: self.realm.clone(),
            nonce: nonce.clone(),
            opaque: None,
            algorithm,
            has_qop: true,
            is_stale,
        };
        offered.map(challenge).collect()
    }

    /// Whether these credentials are for our realm.
    pub fn is_for_realm(&self, value: &str) -> bool {
        Credentials::parse(value).is_ok_and(|credentials| credentials.realm == self.realm)
    }

    fn is_known_to_some(&self, algorithm: Algorithm) -> bool {
        self.users.values().flatten().any(|ha1| ha1.algorithm() == algorithm)
    }

    /// Decides who sent a request.
    pub fn judge(&mut self, claim: &Claim<'_>, now: Instant) -> Sender {
        let credentials = claim.headers.iter().filter_map(|value| Credentials::parse(value).ok());
        // A request may pass several servers that each ask for credentials.
        let Some(credentials) = credentials.into_iter().find(|credentials| credentials.realm == self.realm) else {
            return Sender::Unknown;
        };
        let Some(nonce) = self.read(&credentials.nonce, claim.from) else { return Sender::Stale };
        let known = self.users.get(&credentials.username);
        let hashes = known.unwrap_or(&self.decoy);
        // No `any`: it would stop early.
        let proofs = hashes.iter().filter(|ha1| credentials.are_proof(ha1, claim.method)).count();
        // RFC 2069 credentials have no count: whoever saw one request could repeat it.
        let Some(counted) = &credentials.counted else { return Sender::Wrong };
        if proofs == 0 || known.is_none() || !(claim.is_for)(&credentials.uri) {
            return Sender::Wrong;
        }
        match self.use_nonce(nonce, counted.nc, now) {
            true => Sender::User(credentials.username),
            false => Sender::Stale,
        }
    }

    fn use_nonce(&mut self, nonce: Nonce, nc: u32, now: Instant) -> bool {
        let life = NONCE_LIFE.as_millis() as u64;
        let is_too_old = nonce.made_at < self.oldest || nonce.made_at + life <= self.time(now);
        if is_too_old || self.used.get(&nonce).is_some_and(|last| *last >= nc) {
            return false;
        }
        if self.used.len() >= MAX_NONCES && !self.used.contains_key(&nonce) {
            if let Some((forgotten, _)) = self.used.pop_first() {
                self.oldest = forgotten.made_at + 1;
            }
            if nonce.made_at < self.oldest {
                return false;
            }
        }
        self.used.insert(nonce, nc);
        true
    }

    /// Forgets nonces that nobody can use any more.
    pub fn expire(&mut self, now: Instant) {
        let life = NONCE_LIFE.as_millis() as u64;
        if let Some(last_dead) = self.time(now).checked_sub(life) {
            self.used = self.used.split_off(&Nonce { made_at: last_dead + 1, random: 0 });
        }
    }

    fn time(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_millis() as u64
    }

    fn write(&self, nonce: Nonce, from: IpAddr) -> String {
        let mut bytes = nonce.bytes().to_vec();
        bytes.extend(&self.sign(nonce, from).finalize().into_bytes()[..MAC_BYTES]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// None for what we have not made for this address.
    fn read(&self, text: &str, from: IpAddr) -> Option<Nonce> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (signed, mac) = bytes.split_at_checked(TIME_BYTES + RANDOM_BYTES)?;
        let (made_at, random) = signed.split_at(TIME_BYTES);
        let (made_at, random) = (made_at.try_into().ok()?, random.try_into().ok()?);
        let nonce = Nonce { made_at: u64::from_be_bytes(made_at), random: u64::from_be_bytes(random) };
        let is_ours = mac.len() == MAC_BYTES && self.sign(nonce, from).verify_truncated_left(mac).is_ok();
        is_ours.then_some(nonce)
    }

    fn sign(&self, nonce: Nonce, from: IpAddr) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes a key of any length");
        mac.update(&nonce.bytes());
        mac.update(from.to_canonical().to_string().as_bytes());
        mac
    }
}

impl Nonce {
    fn bytes(self) -> [u8; TIME_BYTES + RANDOM_BYTES] {
        (u128::from(self.made_at) << 64 | u128::from(self.random)).to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    struct Door {
        authenticator: Authenticator,
        now: Instant,
    }

    impl Door {
        fn new() -> Self {
            let now = Instant::now();
            let alice = [Algorithm::Md5, Algorithm::Sha256].map(|algorithm| ha1(algorithm, "alice", "secret")).to_vec();
            let users = HashMap::from([("alice".to_owned(), alice)]);
            Self { authenticator: Authenticator::new("patchcord", users, [7; 32], now), now }
        }

        fn challenge(&self) -> Challenge {
            self.authenticator.challenges(HERE, 1, false, self.now)[0].clone()
        }

        fn judge(&mut self, header: String, from: IpAddr) -> Sender {
            let is_for = |uri: &str| uri == "sip:patchcord";
            let claim = Claim { headers: vec![header], method: "REGISTER", is_for: &is_for, from };
            self.authenticator.judge(&claim, self.now)
        }

        /// Answers with this name and password.
        fn try_as(&mut self, challenge: &Challenge, nc: u32, name: &str, password: &str) -> Sender {
            let header = answer(challenge, nc, name, password);
            self.judge(header, HERE)
        }
    }

    fn ha1(algorithm: Algorithm, name: &str, password: &str) -> Ha1 {
        Ha1::new(algorithm, name, "patchcord", &password.to_owned().into())
    }

    fn answer(challenge: &Challenge, nc: u32, name: &str, password: &str) -> String {
        let ha1 = ha1(challenge.algorithm, name, password);
        challenge.answer(name, &ha1, "REGISTER", "sip:patchcord", nc, "cnonce").to_string()
    }

    #[test]
    fn a_user_is_known_by_the_password_in_both_algorithms() {
        let mut door = Door::new();
        for (nc, challenge) in (1..).zip(door.authenticator.challenges(HERE, 1, false, door.now)) {
            assert_eq!(door.try_as(&challenge, nc, "alice", "secret"), Sender::User("alice".to_owned()));
        }
        assert_eq!(door.judge("Basic YWxpY2U6c2VjcmV0".to_owned(), HERE), Sender::Unknown);
        assert_eq!(door.judge("Digest realm=\"other\"".to_owned(), HERE), Sender::Unknown);
    }

    #[test]
    fn only_hashes_that_some_user_has_are_asked_for() {
        let now = Instant::now();
        let offered = |users: Vec<(&str, Vec<Ha1>)>| -> Vec<Algorithm> {
            let users = users.into_iter().map(|(name, hashes)| (name.to_owned(), hashes)).collect();
            let authenticator = Authenticator::new("patchcord", users, [7; 32], now);
            authenticator.challenges(HERE, 1, false, now).into_iter().map(|challenge| challenge.algorithm).collect()
        };
        let md5 = || vec![ha1(Algorithm::Md5, "alice", "secret")];
        assert_eq!(offered(vec![("alice", md5())]), [Algorithm::Md5]);
        let sha256 = vec![ha1(Algorithm::Sha256, "bob", "secret")];
        assert_eq!(offered(vec![("alice", md5()), ("bob", sha256)]), [Algorithm::Sha256, Algorithm::Md5]);
    }

    #[test]
    fn a_wrong_password_and_a_wrong_name_look_the_same() {
        let mut door = Door::new();
        let challenge = door.challenge();
        for (name, password) in [("alice", "guess"), ("bob", "secret"), ("nobody", "")] {
            assert_eq!(door.try_as(&challenge, 1, name, password), Sender::Wrong, "{name}");
        }
        let other_uri = answer(&challenge, 1, "alice", "secret").replace("sip:patchcord", "sip:other");
        assert_eq!(door.judge(other_uri, HERE), Sender::Wrong);
        let uncounted = Challenge { has_qop: false, ..challenge };
        assert_eq!(door.try_as(&uncounted, 1, "alice", "secret"), Sender::Wrong);
    }

    #[test]
    fn a_nonce_is_used_in_order_for_some_minutes_and_from_one_address() {
        let mut door = Door::new();
        let challenge = door.challenge();
        for (nc, expected) in [(2, true), (2, false), (1, false), (3, true)] {
            let is_known = door.try_as(&challenge, nc, "alice", "secret") == Sender::User("alice".to_owned());
            assert_eq!(is_known, expected, "{nc}");
        }
        let header = answer(&challenge, 4, "alice", "secret");
        assert_eq!(door.judge(header.clone(), THERE), Sender::Stale);
        door.now += NONCE_LIFE;
        assert_eq!(door.judge(header, HERE), Sender::Stale);
        let forged = Challenge { nonce: URL_SAFE_NO_PAD.encode([0; 32]), ..challenge };
        assert_eq!(door.try_as(&forged, 1, "alice", "secret"), Sender::Stale);
        door.authenticator.expire(door.now);
        assert_eq!(door.authenticator.used.len(), 0);
    }

    #[test]
    fn the_memory_of_nonces_is_bounded_and_a_forgotten_one_is_stale() {
        let mut door = Door::new();
        let first = door.challenge();
        assert_eq!(door.try_as(&first, 1, "alice", "secret"), Sender::User("alice".to_owned()));
        for number in 1..=MAX_NONCES as u64 {
            let made_at = number / 100 + 1;
            assert!(door.authenticator.use_nonce(Nonce { made_at, random: number }, 1, door.now));
        }
        assert_eq!(door.authenticator.used.len(), MAX_NONCES);
        assert_eq!(door.try_as(&first, 2, "alice", "secret"), Sender::Stale);
    }
}
