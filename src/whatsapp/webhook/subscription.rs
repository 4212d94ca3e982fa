//! Meta's subscription check: the GET that verifies a webhook's address.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Gives the challenge, which is the whole body of the response, if the request has our verify token.
///
/// `query` is the raw query of the URL, with its parameters in any order; the dots in their names
/// have no meaning. The challenge must be 1 to 64 digits, so that the response cannot be used to
/// inject content.
///
/// Source: Meta, "Webhooks: Getting Started", verification requests.
pub fn verify_subscription(query: &str, verify_token: &SecretString) -> Result<String, SubscriptionRefused> {
    let (mut mode, mut token, mut challenge) = (None, None, None);
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "hub.mode" => mode = Some(value),
            "hub.verify_token" => token = Some(value),
            "hub.challenge" => challenge = Some(value),
            _ => {}
        }
    }
    if mode.as_deref() != Some("subscribe") {
        return Err(SubscriptionRefused::Mode);
    }
    if !is_same(token.as_deref().unwrap_or_default(), verify_token.expose_secret()) {
        return Err(SubscriptionRefused::Token);
    }
    let challenge = challenge.unwrap_or_default();
    let is_digits = challenge.bytes().all(|byte| byte.is_ascii_digit());
    if challenge.is_empty() || challenge.len() > 64 || !is_digits {
        return Err(SubscriptionRefused::Challenge);
    }
    Ok(challenge.into_owned())
}

/// Why the check failed. All of these get 403.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionRefused {
    /// `hub.mode` is not `subscribe`.
    #[error("hub.mode is not subscribe")]
    Mode,
    /// `hub.verify_token` is not ours: compare whatsapp.verify_token with the one in the app dashboard.
    #[error("hub.verify_token is not whatsapp.verify_token")]
    Token,
    /// `hub.challenge` is not 1 to 64 digits.
    #[error("hub.challenge is not 1 to 64 digits")]
    Challenge,
}

/// Compares in constant time, whatever the lengths, by comparing digests of both. No token is ever right where none is
/// configured.
fn is_same(claimed: &str, expected: &str) -> bool {
    !expected.is_empty() && Sha256::digest(claimed).ct_eq(&Sha256::digest(expected)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_token_gets_the_challenge_back_in_any_order_of_parameters() {
        for query in [
            "hub.mode=subscribe&hub.challenge=1158863600&hub.verify_token=a%2Bb+c",
            "hub.challenge=1158863600&other=x&hub.verify_token=a%2bb%20c&hub.mode=subscribe",
        ] {
            assert_eq!(verify_subscription(query, &"a+b c".into()), Ok("1158863600".to_owned()));
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let too_long = "1".repeat(65);
        for (mode, token, challenge, refused) in [
            ("unsubscribe", "token", "1", SubscriptionRefused::Mode),
            ("subscribe", "Token", "1", SubscriptionRefused::Token),
            ("subscribe", "token1", "1", SubscriptionRefused::Token),
            ("subscribe", "toke", "1", SubscriptionRefused::Token),
            ("subscribe", "", "1", SubscriptionRefused::Token),
            ("subscribe", "token", "", SubscriptionRefused::Challenge),
            ("subscribe", "token", "%3Cb%3E1", SubscriptionRefused::Challenge),
            ("subscribe", "token", "-1", SubscriptionRefused::Challenge),
            ("subscribe", "token", &too_long, SubscriptionRefused::Challenge),
        ] {
            let query = format!("hub.mode={mode}&hub.verify_token={token}&hub.challenge={challenge}");
            assert_eq!(verify_subscription(&query, &"token".into()), Err(refused), "{query}");
        }
        assert_eq!(verify_subscription("", &"token".into()), Err(SubscriptionRefused::Mode));
        assert_eq!(verify_subscription("%ff&&=", &"token".into()), Err(SubscriptionRefused::Mode));
        let empty = "hub.mode=subscribe&hub.verify_token=&hub.challenge=1";
        assert_eq!(verify_subscription(empty, &"".into()), Err(SubscriptionRefused::Token));
    }
}
