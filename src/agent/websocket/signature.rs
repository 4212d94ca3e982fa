//! UpgradeSignature: proves to an agent that its upgrade request is ours.

use std::time::SystemTime;

use reqwest::header::HeaderMap;
use secrecy::SecretString;
use url::Url;

use crate::call::event::CallId;
use crate::events::SigningSecret;
use crate::events::signature::add_headers;
use crate::twilio::sign;

/// How upgrade requests are signed.
#[derive(Clone, Debug)]
pub enum UpgradeSignature {
    /// As our webhooks are (Standard Webhooks): the id is the call's, and the agent's address stands for the body.
    Webhooks(SigningSecret),
    /// `X-Twilio-Signature`.
    Twilio {
        /// The account's token.
        auth_token: SecretString,
        /// The public address that the app checks against, if it is not the one that we connect to.
        url: Option<Url>,
    },
}

impl UpgradeSignature {
    /// The header fields of one request.
    pub(super) fn headers(&self, agent: &Url, call: &CallId, now: SystemTime) -> Vec<(String, SecretString)> {
        match self {
            Self::Webhooks(secret) => {
                let mut headers = HeaderMap::new();
                let secrets = std::slice::from_ref(secret);
                add_headers(&mut headers, secrets, call.as_str(), now, agent.as_str().as_bytes());
                let text = |value: &reqwest::header::HeaderValue| value.to_str().unwrap_or_default().to_owned();
                headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value).into())).collect()
            }
            Self::Twilio { auth_token, url } => {
                let signature = sign(auth_token, url.as_ref().unwrap_or(agent).as_str(), &[]);
                vec![("x-twilio-signature".to_owned(), signature.into())]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn twilios_signature_is_over_the_public_address() {
        let signature = UpgradeSignature::Twilio {
            auth_token: "12345".into(),
            url: Some("wss://bot.example.com/media".parse().unwrap()),
        };
        let agent = "ws://127.0.0.1:9000/media".parse().unwrap();
        let headers = signature.headers(&agent, &CallId::generate(), SystemTime::UNIX_EPOCH);
        assert_eq!(headers[0].0, "x-twilio-signature");
        assert_eq!(headers[0].1.expose_secret(), TWILIO);
    }

    /// `printf wss://bot.example.com/media | openssl dgst -sha1 -hmac 12345 -binary | base64`
    const TWILIO: &str = "/wAl+WqMkvPvBcVutOs5CBheh4o=";
}
