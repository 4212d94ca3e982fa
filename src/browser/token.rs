//! Tokens: one WebRTC session of one call, for a page that holds no API key.
//!
//! A token is good for [`GOOD_FOR`] and for one offer; from then on it authorises that session's `PATCH` and `DELETE`. Only
//! its SHA-256 is kept, so a look-up by it takes as long for a wrong token as for a right one.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore;
use sha2::{Digest, Sha256};

use crate::call::event::CallId;
use crate::queue::AgentName;

/// From its making to its offer.
pub const GOOD_FOR: Duration = Duration::from_secs(60);
/// Unused tokens at once; making one more is refused.
const MAX_TOKENS: usize = 10_000;
/// Tells our tokens from keys, for people and for scanners of leaked secrets.
const PREFIX: &str = "patchcordrtc_";

/// What a page may be in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WebRtcRole {
    /// The agent. It replaces another, and a ringing call is accepted.
    Agent,
    /// Hears all, and nobody hears it.
    Listen,
    /// Hears all, and the agent hears it.
    Whisper,
    /// Hears all, and everybody hears it.
    Join,
}

impl WebRtcRole {
    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Listen => "listen",
            Self::Whisper => "whisper",
            Self::Join => "join",
        }
    }
}

/// What a token allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// In this call alone.
    pub call: CallId,
    /// As this.
    pub role: WebRtcRole,
    /// From pages of this origin alone, if given: `https://app.example.com`.
    pub origin: Option<String>,
    /// The agent of a queue whose answer it is.
    pub agent: Option<AgentName>,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It was never made, is used or has expired.
    #[error("this token is unknown, used or expired: ask for another")]
    Unknown,
    /// It is for another call.
    #[error("this token is for another call")]
    WrongCall,
    /// It is for pages of another origin.
    #[error("this token is for pages of another origin")]
    WrongOrigin,
}

/// Too many tokens wait for their offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_TOKENS} tokens wait to be used: wait a minute")]
pub struct TooManyTokens;

/// The SHA-256 of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenDigest([u8; 32]);

/// Tokens that were not used yet.
#[derive(Debug, Default)]
pub struct Tokens(Mutex<HashMap<TokenDigest, Unused>>);

#[derive(Debug)]
struct Unused {
    grant: Grant,
    expires_at: Instant,
}

impl TokenDigest {
    /// Of the text that the page sends.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }
}

impl Tokens {
    /// A new token.
    pub fn issue(&self, grant: Grant, now: Instant) -> Result<String, TooManyTokens> {
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
        let mut tokens = self.tokens();
        tokens.retain(|_, unused| now < unused.expires_at);
        if tokens.len() >= MAX_TOKENS {
            return Err(TooManyTokens);
        }
        tokens.insert(TokenDigest::of(&token), Unused { grant, expires_at: now + GOOD_FOR });
        Ok(token)
    }

    /// Whether [`redeem`](Self::redeem) would take the token, which stays unused: a request without it is not read.
    pub fn check(&self, token: &str, call: &CallId, origin: Option<&str>, now: Instant) -> Result<(), TokenError> {
        check(&self.tokens(), &TokenDigest::of(token), (call, origin), now)
    }

    /// Uses a token for an offer to this call from a page of this origin. A token that is shown for another call or
    /// origin stays good for its own.
    pub fn redeem(&self, token: &str, call: &CallId, origin: Option<&str>, now: Instant) -> Result<Grant, TokenError> {
        let digest = TokenDigest::of(token);
        let mut tokens = self.tokens();
        check(&tokens, &digest, (call, origin), now)?;
        tokens.remove(&digest).map(|unused| unused.grant).ok_or(TokenError::Unknown)
    }

    fn tokens(&self) -> MutexGuard<'_, HashMap<TokenDigest, Unused>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(
    tokens: &HashMap<TokenDigest, Unused>,
    digest: &TokenDigest,
    (call, origin): (&CallId, Option<&str>),
    now: Instant,
) -> Result<(), TokenError> {
    let unused = tokens.get(digest).filter(|unused| now < unused.expires_at).ok_or(TokenError::Unknown)?;
    if unused.grant.call != *call {
        return Err(TokenError::WrongCall);
    }
    match unused.grant.origin.as_deref() {
        Some(bound) if origin != Some(bound) => Err(TokenError::WrongOrigin),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(call: &CallId, origin: Option<&str>) -> Grant {
        Grant { call: call.clone(), role: WebRtcRole::Listen, origin: origin.map(str::to_owned), agent: None }
    }

    #[test]
    fn a_token_is_good_once_for_its_call() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let (call, other) = (CallId::generate(), CallId::generate());
        let token = tokens.issue(grant(&call, None), now).unwrap();
        assert_eq!(tokens.redeem(&token, &other, None, now), Err(TokenError::WrongCall));
        assert_eq!(tokens.redeem(&token, &call, Some("https://a.example"), now), Ok(grant(&call, None)));
        assert_eq!(tokens.redeem(&token, &call, None, now), Err(TokenError::Unknown));
        assert_eq!(tokens.redeem("patchcordrtc_", &call, None, now), Err(TokenError::Unknown));
    }

    #[test]
    fn a_token_expires() {
        let (tokens, now, call) = (Tokens::default(), Instant::now(), CallId::generate());
        let token = tokens.issue(grant(&call, None), now).unwrap();
        assert_eq!(tokens.redeem(&token, &call, None, now + GOOD_FOR), Err(TokenError::Unknown));
    }

    #[test]
    fn a_token_is_bound_to_its_origin() {
        let (tokens, now, call) = (Tokens::default(), Instant::now(), CallId::generate());
        let bound = grant(&call, Some("https://a.example"));
        let token = tokens.issue(bound.clone(), now).unwrap();
        assert_eq!(tokens.redeem(&token, &call, None, now), Err(TokenError::WrongOrigin));
        assert_eq!(tokens.redeem(&token, &call, Some("https://b.example"), now), Err(TokenError::WrongOrigin));
        assert_eq!(tokens.redeem(&token, &call, Some("https://a.example"), now), Ok(bound));
    }

    #[test]
    fn tokens_are_bounded_and_old_ones_make_room() {
        let (tokens, now, call) = (Tokens::default(), Instant::now(), CallId::generate());
        for _ in 0..MAX_TOKENS {
            tokens.issue(grant(&call, None), now).unwrap();
        }
        assert_eq!(tokens.issue(grant(&call, None), now), Err(TooManyTokens));
        assert!(tokens.issue(grant(&call, None), now + GOOD_FOR).is_ok());
    }
}
