//! ClientAuth: our answers to the challenges of one call's requests (RFC 3261 §22, RFC 7616, RFC 8760). Pure.
//!
//! A realm is answered once; once more if it has another nonce then, as a server does to which the first one was too old. A
//! third challenge means that the password is wrong: nothing here goes on for ever.

use std::collections::VecDeque;
use std::sync::Arc;

use secrecy::SecretString;

use super::digest::{Algorithm, Challenge, Ha1};

/// A proxy and the server behind it ask for one each.
const MAX_REALMS: usize = 4;
/// Challenges to one request that are answered for one realm.
const MAX_ANSWERS: u8 = 2;
/// Requests that may be repeated, or acknowledged, with what they had.
const REMEMBERED: usize = 8;

/// Who we are to somebody else's server.
#[derive(Clone, Debug)]
pub struct Account {
    /// The name there.
    pub username: String,
    /// What proves it.
    pub secret: Secret,
}

/// What proves who we are.
#[derive(Clone, Debug)]
pub enum Secret {
    /// For any realm and hash.
    Password(SecretString),
    /// For the realm that they were made for.
    Hashed(Vec<Ha1>),
}

/// The answers of one call.
pub(super) struct ClientAuth {
    account: Arc<Account>,
    realms: Vec<Realm>,
    /// The last request that was challenged, by its CSeq, and what was decided. The challenge may come again.
    last: Option<(u32, Decision)>,
    sent: VecDeque<(u32, Vec<Credentials>)>,
    refusal: Option<&'static str>,
}

/// What one server asks for.
struct Realm {
    is_proxy: bool,
    challenge: Challenge,
    /// Requests with this nonce.
    count: u32,
    /// Its challenges to the present request that were answered.
    answers: u8,
}

/// What to do after a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The request is sent again.
    Answer,
    /// It has failed.
    GiveUp,
}

/// A value for `Authorization`, or for `Proxy-Authorization`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Credentials {
    pub is_proxy: bool,
    pub value: String,
}

impl Account {
    fn ha1(&self, challenge: &Challenge) -> Option<Ha1> {
        match &self.secret {
            Secret::Password(password) => {
                Some(Ha1::new(challenge.algorithm, &self.username, &challenge.realm, password))
            }
            Secret::Hashed(hashes) => hashes.iter().find(|ha1| ha1.algorithm() == challenge.algorithm).cloned(),
        }
    }

    fn can(&self, algorithm: Algorithm) -> bool {
        match &self.secret {
            Secret::Password(_) => true,
            Secret::Hashed(hashes) => hashes.iter().any(|ha1| ha1.algorithm() == algorithm),
        }
    }
}

impl ClientAuth {
    pub fn new(account: Arc<Account>) -> Self {
        Self { account, realms: Vec::new(), last: None, sent: VecDeque::new(), refusal: None }
    }

    /// Decides about a 401 or 407 to the request with this CSeq, by the values of its challenges.
    pub fn challenged(&mut self, cseq: u32, is_proxy: bool, values: &[String]) -> Decision {
        if let Some((_, decision)) = self.last.filter(|(last, _)| *last == cseq) {
            return decision;
        }
        let decision = self.decide(is_proxy, values);
        self.last = Some((cseq, decision));
        decision
    }

    fn decide(&mut self, is_proxy: bool, values: &[String]) -> Decision {
        let all = values.iter().flat_map(|value| Challenge::read_all(value));
        // RFC 8760 §2.4: of one realm's challenges the first that we can answer.
        let mut asked: Vec<Challenge> = Vec::new();
        for challenge in all.filter(|challenge| self.account.can(challenge.algorithm)) {
            if !asked.iter().any(|other| other.realm == challenge.realm) {
                asked.push(challenge);
            }
        }
        if asked.is_empty() {
            self.refusal = Some("it asks for a proof that we cannot give");
            return Decision::GiveUp;
        }
        let answered = asked.into_iter().filter(|challenge| self.take(is_proxy, challenge)).count();
        match answered {
            0 => {
                self.refusal = Some("username or password is wrong");
                Decision::GiveUp
            }
            _ => Decision::Answer,
        }
    }

    /// False if an answer would be no better than the last one.
    fn take(&mut self, is_proxy: bool, challenge: &Challenge) -> bool {
        let has_room = self.realms.len() < MAX_REALMS;
        let known =
            self.realms.iter_mut().find(|realm| realm.is_proxy == is_proxy && realm.challenge.realm == challenge.realm);
        match known {
            None if !has_room => false,
            None => {
                self.realms.push(Realm { is_proxy, challenge: challenge.clone(), count: 0, answers: 1 });
                true
            }
            Some(realm) => {
                let is_news = challenge.is_stale || challenge.nonce != realm.challenge.nonce;
                if !is_news || realm.answers >= MAX_ANSWERS {
                    return false;
                }
                let answers = realm.answers + 1;
                *realm = Realm { is_proxy, challenge: challenge.clone(), count: 0, answers };
                true
            }
        }
    }

    /// A request was answered otherwise: the next one may be challenged anew.
    pub fn accepted(&mut self) {
        self.realms.iter_mut().for_each(|realm| realm.answers = 0);
    }

    /// What a request has to show. ACK and CANCEL show what their INVITE has shown (RFC 3261 §22.1), and a request that is
    /// repeated what it has shown before. `cnonce` is random.
    pub fn credentials(&mut self, method: &str, uri: &str, cseq: u32, cnonce: &str) -> Vec<Credentials> {
        if let Some((_, sent)) = self.sent.iter().find(|(sent, _)| *sent == cseq) {
            return sent.clone();
        }
        let account = &self.account;
        let shown: Vec<Credentials> =
            self.realms.iter_mut().filter_map(|realm| realm.answer(account, method, uri, cnonce)).collect();
        if self.sent.len() >= REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back((cseq, shown.clone()));
        shown
    }

    /// Why the last challenge was not answered.
    pub fn refusal(&self) -> Option<&'static str> {
        self.refusal
    }
}

impl Realm {
    fn answer(&mut self, account: &Account, method: &str, uri: &str, cnonce: &str) -> Option<Credentials> {
        let ha1 = account.ha1(&self.challenge)?;
        self.count += 1;
        let answer = self.challenge.answer(&account.username, &ha1, method, uri, self.count, cnonce);
        Some(Credentials { is_proxy: self.is_proxy, value: answer.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::digest;
    use super::*;

    const URI: &str = "sip:200@pbx.example";

    fn account() -> Account {
        Account { username: "trunk".to_owned(), secret: Secret::Password("secret".to_owned().into()) }
    }

    fn challenge(realm: &str, nonce: &str, algorithm: &str, more: &str) -> Vec<String> {
        vec![format!("Digest realm=\"{realm}\", nonce=\"{nonce}\", algorithm={algorithm}, qop=\"auth\"{more}")]
    }

    fn shown(auth: &mut ClientAuth, cseq: u32) -> Vec<digest::Credentials> {
        let shown = auth.credentials("INVITE", URI, cseq, "cnonce");
        shown.iter().map(|credentials| digest::Credentials::parse(&credentials.value).unwrap()).collect()
    }

    #[test]
    fn a_challenge_is_answered_and_the_proof_is_good() {
        for (name, algorithm) in [("MD5", Algorithm::Md5), ("SHA-256", Algorithm::Sha256)] {
            let mut auth = ClientAuth::new(Arc::new(account()));
            assert_eq!(shown(&mut auth, 1), []);
            assert_eq!(auth.challenged(1, false, &challenge("pbx", "a", name, "")), Decision::Answer);
            let proofs = shown(&mut auth, 2);
            let ha1 = Ha1::new(algorithm, "trunk", "pbx", &"secret".to_owned().into());
            assert!(proofs.len() == 1 && proofs[0].are_proof(&ha1, "INVITE"), "{proofs:?}");
            assert_eq!(shown(&mut auth, 2), proofs, "a repeated request is the same");
            assert_eq!(shown(&mut auth, 3)[0].counted.as_ref().map(|counted| counted.nc), Some(2));
        }
    }

    #[test]
    fn a_wrong_password_ends_whatever_the_server_says() {
        let mut auth = ClientAuth::new(Arc::new(account()));
        assert_eq!(auth.challenged(1, false, &challenge("pbx", "a", "MD5", "")), Decision::Answer);
        assert_eq!(auth.challenged(1, false, &challenge("pbx", "b", "MD5", "")), Decision::Answer, "the same again");
        assert_eq!(auth.challenged(2, false, &challenge("pbx", "a", "MD5", "")), Decision::GiveUp);
        assert_eq!(auth.refusal(), Some("username or password is wrong"));
        let mut auth = ClientAuth::new(Arc::new(account()));
        let answers = (1..100).take_while(|cseq| {
            let nonce = format!("n{cseq}");
            auth.challenged(*cseq, false, &challenge("pbx", &nonce, "MD5", ", stale=true")) == Decision::Answer
        });
        assert_eq!(answers.count(), 2);
        auth.accepted();
        assert_eq!(auth.challenged(200, false, &challenge("pbx", "later", "MD5", "")), Decision::Answer);
    }

    #[test]
    fn a_proxy_and_the_server_behind_it_are_answered_each() {
        let mut auth = ClientAuth::new(Arc::new(account()));
        assert_eq!(auth.challenged(1, true, &challenge("proxy", "a", "MD5", "")), Decision::Answer);
        assert_eq!(auth.challenged(2, false, &challenge("pbx", "b", "SHA-256", "")), Decision::Answer);
        let shown = auth.credentials("INVITE", URI, 3, "cnonce");
        assert_eq!(shown.iter().map(|shown| shown.is_proxy).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn the_first_hash_that_we_have_is_used_and_what_we_cannot_ends_at_once() {
        let both = [challenge("pbx", "a", "SHA-256", ""), challenge("pbx", "a", "MD5", "")].concat();
        let mut auth = ClientAuth::new(Arc::new(account()));
        auth.challenged(1, false, &both);
        assert_eq!(shown(&mut auth, 2)[0].algorithm, Algorithm::Sha256);
        let md5 = Ha1::new(Algorithm::Md5, "trunk", "pbx", &"secret".to_owned().into());
        let hashed = Account { secret: Secret::Hashed(vec![md5.clone()]), ..account() };
        let mut auth = ClientAuth::new(Arc::new(hashed));
        assert_eq!(auth.challenged(1, false, &both), Decision::Answer);
        assert!(shown(&mut auth, 2)[0].are_proof(&md5, "INVITE"));
        for cannot in ["Digest realm=\"pbx\", nonce=\"a\", algorithm=SHA-512-256", "Basic realm=\"pbx\"", ""] {
            let mut auth = ClientAuth::new(Arc::new(account()));
            assert_eq!(auth.challenged(1, false, &[cannot.to_owned()]), Decision::GiveUp, "{cannot}");
            assert!(auth.refusal().is_some());
        }
    }

    proptest! {
        #[test]
        fn no_server_is_answered_for_ever(
            challenges in prop::collection::vec((any::<bool>(), "[a-e]", "[a-z]", any::<bool>()), 1..60),
        ) {
            let mut auth = ClientAuth::new(Arc::new(account()));
            let mut answers = 0;
            for (cseq, (is_proxy, realm, nonce, is_stale)) in (1..).zip(challenges) {
                let more = if is_stale { ", stale=true" } else { "" };
                match auth.challenged(cseq, is_proxy, &challenge(&realm, &nonce, "MD5", more)) {
                    Decision::Answer => answers += 1,
                    Decision::GiveUp => break,
                }
            }
            prop_assert!(answers <= MAX_REALMS * usize::from(MAX_ANSWERS));
        }
    }
}
