//! API keys: `Authorization: Bearer patchcord_<id>_<secret>`, what each allows, and how fast.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use sha2::{Digest, Sha256};

use crate::config::api::{ApiKey, Scope};
use crate::http::error::ApiError;

/// Requests a second that one key may go on with.
const RATE: f64 = 100.0;
/// Requests that one key may make at once after a rest.
const BURST: f64 = 200.0;

/// All keys of the configuration.
pub(super) struct Keys(HashMap<String, Arc<Caller>>);

/// Who asks: one key, known to be right.
pub(super) struct Caller {
    key: ApiKey,
    bucket: Mutex<Bucket>,
}

/// What a key has left of its rate.
struct Bucket {
    left: f64,
    at: Option<Instant>,
}

impl Keys {
    pub(super) fn new(keys: &[ApiKey]) -> Self {
        let caller = |key: &ApiKey| Caller { key: key.clone(), bucket: Mutex::new(Bucket { left: BURST, at: None }) };
        Self(keys.iter().map(|key| (key.id.clone(), Arc::new(caller(key)))).collect())
    }

    /// Who asks, if the header holds a key that allows `scope`.
    pub(super) fn admit(
        &self,
        header: Option<&str>,
        scope: Scope,
        now: Instant,
        today: SystemTime,
    ) -> Result<Arc<Caller>, ApiError> {
        if self.0.is_empty() {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "api_closed",
                "the API is closed because it has no keys: add one under [api] keys",
            ));
        }
        let caller = self.find(header, today)?;
        caller.take_turn(now)?;
        match caller.may(scope) {
            true => Ok(caller.clone()),
            false => Err(ApiError {
                scope: Some(scope.name()),
                ..ApiError::new(
                    StatusCode::FORBIDDEN,
                    "missing_scope",
                    format!("the key {:?} lacks the scope {:?}", caller.id(), scope.name()),
                )
            }),
        }
    }

    fn find(&self, header: Option<&str>, today: SystemTime) -> Result<&Arc<Caller>, ApiError> {
        let Some((scheme, token)) = header.and_then(|header| header.split_once(' ')) else {
            return Err(unauthorized("key_missing", "send your API key as Authorization: Bearer patchcord_ID_SECRET"));
        };
        let token = token.trim();
        let id = token.strip_prefix("patchcord_").and_then(|rest| rest.split_once('_')).map_or("", |(id, _)| id);
        let known = self.0.get(id).filter(|caller| {
            scheme.eq_ignore_ascii_case("bearer") && is_same(&Sha256::digest(token).into(), &caller.key.sha256)
        });
        // A wrong id and a wrong secret get the same answer.
        let caller = known.ok_or_else(|| unauthorized("key_unknown", "this API key is not known here"))?;
        match caller.key.expires {
            Some(expires) if today >= expires => Err(unauthorized("key_expired", "this API key has expired")),
            Some(_) | None => Ok(caller),
        }
    }
}

impl Caller {
    /// The key's name, for logs.
    pub(super) fn id(&self) -> &str {
        &self.key.id
    }

    /// Whoever may steer calls may look at them.
    pub(super) fn may(&self, scope: Scope) -> bool {
        let has = |scope| self.key.scopes.contains(&scope);
        has(scope) || (scope == Scope::CallsRead && has(Scope::CallsWrite))
    }

    /// Counts one request, or says when there is room for it.
    pub(super) fn take_turn(&self, now: Instant) -> Result<(), ApiError> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(now).map_err(|_| {
            ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                format!("this key may make {RATE} requests a second: try again in a second"),
            )
            .with_header(RETRY_AFTER, HeaderValue::from_static("1"))
        })
    }
}

impl Bucket {
    /// Takes one, or says how long to wait for it; never longer than a second.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let since = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.left = (self.left + since.as_secs_f64() * RATE).min(BURST);
        self.at = Some(now);
        if self.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.left) / RATE));
        }
        self.left -= 1.0;
        Ok(())
    }
}

/// Takes the same time wherever they differ.
fn is_same(left: &[u8; 32], right: &[u8; 32]) -> bool {
    let difference = left.iter().zip(right).fold(0, |difference, (left, right)| difference | (left ^ right));
    std::hint::black_box(difference) == 0
}

fn unauthorized(code: &'static str, detail: &'static str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, code, detail)
        .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"patchcord\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "patchcord_app_0123456789";

    fn keys(scopes: &[Scope], expires: Option<SystemTime>) -> Keys {
        let sha256 = Sha256::digest(KEY).into();
        Keys::new(&[ApiKey { id: "app".to_owned(), sha256, scopes: scopes.to_vec(), expires }])
    }

    fn code(keys: &Keys, header: Option<&str>, scope: Scope) -> Result<(), (u16, &'static str)> {
        let admitted = keys.admit(header, scope, Instant::now(), SystemTime::now());
        admitted.map(drop).map_err(|error| (error.status.as_u16(), error.code))
    }

    #[test]
    fn only_the_whole_key_opens() {
        let keys = keys(&[Scope::CallsWrite], None);
        let bearer = format!("Bearer {KEY}");
        assert_eq!(code(&keys, Some(&bearer), Scope::CallsWrite), Ok(()));
        assert_eq!(code(&keys, Some(&bearer.replace("Bearer", "bearer")), Scope::CallsRead), Ok(()));
        assert_eq!(code(&keys, Some(&bearer), Scope::Admin), Err((403, "missing_scope")));
        assert_eq!(code(&keys, None, Scope::CallsRead), Err((401, "key_missing")));
        for wrong in [
            "Bearer patchcord_app_0123456788".to_owned(),
            "Bearer patchcord_app_1123456789".to_owned(),
            "Bearer patchcord_ap_0123456789".to_owned(),
            "Bearer patchcord_app_".to_owned(),
            "Bearer app".to_owned(),
            format!("{bearer}0"),
            format!("Basic {KEY}"),
        ] {
            assert_eq!(code(&keys, Some(&wrong), Scope::CallsRead), Err((401, "key_unknown")), "{wrong}");
        }
    }

    #[test]
    fn without_keys_the_api_is_closed_and_expired_ones_open_nothing() {
        let bearer = format!("Bearer {KEY}");
        assert_eq!(code(&Keys::new(&[]), Some(&bearer), Scope::CallsRead), Err((403, "api_closed")));
        let expired = keys(&[Scope::CallsRead], Some(SystemTime::now()));
        assert_eq!(code(&expired, Some(&bearer), Scope::CallsRead), Err((401, "key_expired")));
    }

    #[test]
    fn a_key_has_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket { left: BURST, at: None };
        assert_eq!((0..1000).filter(|_| bucket.take(start).is_ok()).count(), BURST as usize);
        assert_eq!(bucket.take(start), Err(Duration::from_millis(10)));
        let later = start + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| bucket.take(later).is_ok()).count(), RATE as usize);
    }
}
