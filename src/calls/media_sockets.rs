//! MediaSockets: how the application opens a call's audio itself: the address, and the tokens that open it.
//!
//! A token is good for [`GOOD_FOR`], for one socket of one call. Only its SHA-256 is kept, so a look-up by it takes as long
//! for a wrong token as for a right one. A used one is remembered until it would have expired, to tell its second use from
//! a wrong token.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore;
use url::Url;

use crate::agent::DialectName;
use crate::browser::token::{TokenDigest, WebRtcRole};
use crate::call::event::CallId;

/// From its making to its use: as long as a call may ring.
pub const GOOD_FOR: Duration = Duration::from_secs(60);
/// Tokens at once, used ones among them; making one more is refused.
const MAX_TOKENS: usize = 10_000;
/// Tells our tokens from keys, for people and for scanners of leaked secrets.
const PREFIX: &str = "patchcordmedia_";

/// What a token allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaGrant {
    /// In this call alone.
    pub call: CallId,
    /// As this.
    pub role: WebRtcRole,
    /// In this protocol alone, if given.
    pub dialect: Option<DialectName>,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MediaTokenError {
    /// It was never made, or has expired.
    #[error("this token is unknown or expired: ask for another")]
    Unknown,
    /// It is for another call.
    #[error("this token is for another call")]
    WrongCall,
    /// It has opened a socket.
    #[error("this token is used: each opens one socket")]
    Used,
}

/// Too many tokens wait for their sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_TOKENS} tokens were made within a minute: wait")]
pub struct TooManyMediaTokens;

/// The addresses of media sockets, and the tokens that were made. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MediaSockets(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// How the outside sees the HTTP listener.
    public_url: Option<Url>,
    tokens: Mutex<HashMap<TokenDigest, Token>>,
}

#[derive(Debug)]
struct Token {
    grant: MediaGrant,
    expires_at: Instant,
    is_used: bool,
}

impl MediaSockets {
    /// No tokens yet.
    pub fn new(public_url: Option<Url>) -> Self {
        Self(Arc::new(Shared { public_url, tokens: Mutex::default() }))
    }

    /// Where a call's socket is opened: an address if `http.public_url` is configured, or else its path.
    pub fn url_of(&self, call: &CallId) -> String {
        let path = format!("/v1/calls/{call}/media");
        match self.0.public_url.as_ref().and_then(|url| url.as_str().strip_prefix("http")) {
            // http becomes ws, and https wss.
            Some(rest) => format!("ws{}{path}", rest.trim_end_matches('/')),
            None => path,
        }
    }

    /// A new token.
    pub fn issue(&self, grant: MediaGrant, now: Instant) -> Result<String, TooManyMediaTokens> {
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
        let mut tokens = self.tokens();
        tokens.retain(|_, token| now < token.expires_at);
        if tokens.len() >= MAX_TOKENS {
            return Err(TooManyMediaTokens);
        }
        tokens.insert(TokenDigest::of(&token), Token { grant, expires_at: now + GOOD_FOR, is_used: false });
        Ok(token)
    }

    /// What the token allows, which stays good: a request without one is not read any further.
    pub fn check(&self, token: &str, call: &CallId, now: Instant) -> Result<MediaGrant, MediaTokenError> {
        find(&mut self.tokens(), token, call, now).map(|token| token.grant.clone())
    }

    /// Uses the token. One that is shown for another call stays good for its own.
    pub fn redeem(&self, token: &str, call: &CallId, now: Instant) -> Result<MediaGrant, MediaTokenError> {
        let mut tokens = self.tokens();
        let token = find(&mut tokens, token, call, now)?;
        token.is_used = true;
        Ok(token.grant.clone())
    }

    /// Locked briefly, never across an await.
    fn tokens(&self) -> MutexGuard<'_, HashMap<TokenDigest, Token>> {
        self.0.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find<'t>(
    tokens: &'t mut HashMap<TokenDigest, Token>,
    token: &str,
    call: &CallId,
    now: Instant,
) -> Result<&'t mut Token, MediaTokenError> {
    let found = tokens.get_mut(&TokenDigest::of(token)).filter(|token| now < token.expires_at);
    let found = found.ok_or(MediaTokenError::Unknown)?;
    match (found.grant.call == *call, found.is_used) {
        (false, _) => Err(MediaTokenError::WrongCall),
        (true, true) => Err(MediaTokenError::Used),
        (true, false) => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(call: &CallId) -> MediaGrant {
        MediaGrant { call: call.clone(), role: WebRtcRole::Agent, dialect: None }
    }

    #[test]
    fn a_token_opens_one_socket_of_its_call_within_a_minute() {
        let (sockets, now) = (MediaSockets::default(), Instant::now());
        let (call, other) = (CallId::generate(), CallId::generate());
        let token = sockets.issue(grant(&call), now).unwrap();
        assert!(token.starts_with(PREFIX) && token.len() > PREFIX.len() + 40, "{token}");
        assert_eq!(sockets.redeem(&token, &other, now), Err(MediaTokenError::WrongCall));
        assert_eq!(sockets.check(&token, &call, now), Ok(grant(&call)));
        assert_eq!(sockets.redeem(&token, &call, now), Ok(grant(&call)));
        assert_eq!(sockets.redeem(&token, &call, now), Err(MediaTokenError::Used));
        assert_eq!(sockets.redeem(&token, &call, now + GOOD_FOR), Err(MediaTokenError::Unknown));
        assert_eq!(sockets.redeem(PREFIX, &call, now), Err(MediaTokenError::Unknown));
    }

    #[test]
    fn tokens_are_bounded_and_old_ones_make_room() {
        let (sockets, now, call) = (MediaSockets::default(), Instant::now(), CallId::generate());
        for _ in 0..MAX_TOKENS {
            sockets.issue(grant(&call), now).unwrap();
        }
        assert_eq!(sockets.issue(grant(&call), now), Err(TooManyMediaTokens));
        assert!(sockets.issue(grant(&call), now + GOOD_FOR).is_ok());
    }

    #[test]
    fn the_address_is_that_of_the_outside_if_it_is_known() {
        let call = CallId::generate();
        let url_of = |public: Option<&str>| MediaSockets::new(public.map(|url| url.parse().unwrap())).url_of(&call);
        assert_eq!(url_of(None), format!("/v1/calls/{call}/media"));
        assert_eq!(url_of(Some("https://calls.example.com")), format!("wss://calls.example.com/v1/calls/{call}/media"));
        assert_eq!(url_of(Some("http://10.0.0.1:8080/a/")), format!("ws://10.0.0.1:8080/a/v1/calls/{call}/media"));
    }
}
