//! API keys: `Authorization: Bearer patchcord_<id>_<secret>`, what each allows, and how fast.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use sha2::{Digest, Sha256};

use crate::config::api::{ApiKey, Scope};
use crate::http::error::ApiError;
use crate::outbound::Hosts;
use crate::settings::CurrentSettings;

/// The keys of the settings of the moment.
pub(super) struct Keys {
    settings: CurrentSettings,
    /// Who has asked so far, by the key's id: never more than ids that were ever configured.
    callers: Mutex<HashMap<String, Arc<Caller>>>,
}

/// Who asks: one key, known to be right.
pub(super) struct Caller {
    key: ApiKey,
    /// Whether it still is one.
    settings: CurrentSettings,
    bucket: Mutex<Bucket>,
}

/// What a key has left of its rate.
struct Bucket {
    rate: f64,
    left: f64,
    at: Option<Instant>,
}

impl Keys {
    pub(super) fn new(settings: CurrentSettings) -> Self {
        Self { settings, callers: Mutex::default() }
    }

    /// Who asks, if the header holds a key that allows `scope`.
    pub(super) fn admit(
        &self,
        header: Option<&str>,
        scope: Scope,
        now: Instant,
        today: SystemTime,
    ) -> Result<Arc<Caller>, ApiError> {
        if self.settings.get().api_keys.is_empty() {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "api_closed",
                "the API is closed because it has no keys: add one under [api] keys",
            ));
        }
        let caller = self.find(header, today)?;
        caller.take_turn(now)?;
        match caller.may(scope) {
            true => Ok(caller),
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

    fn find(&self, header: Option<&str>, today: SystemTime) -> Result<Arc<Caller>, ApiError> {
        let Some((scheme, token)) = header.and_then(|header| header.split_once(' ')) else {
            return Err(unauthorized("key_missing", "send your API key as Authorization: Bearer patchcord_ID_SECRET"));
        };
        let token = token.trim();
        let id = token.strip_prefix("patchcord_").and_then(|rest| rest.split_once('_')).map_or("", |(id, _)| id);
        let settings = self.settings.get();
        let known = settings.api_keys.iter().find(|key| key.id == id);
        let is_right = |key: &&ApiKey| is_same(&Sha256::digest(token).into(), &key.sha256);
        // A wrong id and a wrong secret get the same answer.
        let key = known.filter(|_| scheme.eq_ignore_ascii_case("bearer")).filter(is_right).ok_or_else(unknown)?;
        match key.expires {
            Some(expires) if today >= expires => Err(unauthorized("key_expired", "this API key has expired")),
            Some(_) | None => Ok(self.caller(key)),
        }
    }

    /// A key that is read anew unchanged keeps its rate.
    fn caller(&self, key: &ApiKey) -> Arc<Caller> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        match callers.get(&key.id) {
            Some(caller) if caller.key == *key => caller.clone(),
            Some(_) | None => {
                let bucket = Mutex::new(Bucket::new(key.requests_per_second));
                let caller = Arc::new(Caller { key: key.clone(), settings: self.settings.clone(), bucket });
                callers.insert(key.id.clone(), caller.clone());
                caller
            }
        }
    }
}

impl Caller {
    /// The key's name, for logs.
    pub(super) fn id(&self) -> &str {
        &self.key.id
    }

    /// Which hosts it may name as an agent's.
    pub(super) fn hosts(&self) -> Hosts {
        if self.may(Scope::EgressAny) { Hosts::Any } else { Hosts::Listed }
    }

    /// Whoever may steer calls may look at them.
    pub(super) fn may(&self, scope: Scope) -> bool {
        let has = |scope| self.key.scopes.contains(&scope);
        has(scope) || (scope == Scope::CallsRead && has(Scope::CallsWrite))
    }

    /// Whether the key has not been taken out of the configuration, or changed, since it was let in.
    pub(super) fn is_known(&self) -> bool {
        self.settings.get().api_keys.contains(&self.key)
    }

    /// Counts one request, or says when there is room for it.
    pub(super) fn take_turn(&self, now: Instant) -> Result<(), ApiError> {
        if !self.is_known() {
            return Err(unknown());
        }
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(now).map_err(|_| {
            ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                format!("this key may make {} requests a second: try again in a second", self.key.requests_per_second),
            )
            .with_header(RETRY_AFTER, HeaderValue::from_static("1"))
        })
    }
}

impl Bucket {
    fn new(requests_per_second: u32) -> Self {
        let rate = f64::from(requests_per_second);
        Self { rate, left: 2.0 * rate, at: None }
    }

    /// Takes one, or says how long to wait for it; never longer than a second.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let since = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.left = (self.left + since.as_secs_f64() * self.rate).min(2.0 * self.rate);
        self.at = Some(now);
        if self.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.left) / self.rate));
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

fn unknown() -> ApiError {
    unauthorized("key_unknown", "this API key is not known here")
}

fn unauthorized(code: &'static str, detail: &'static str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, code, detail)
        .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"patchcord\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    const KEY: &str = "patchcord_app_0123456789";

    fn settings(scopes: &[Scope], expires: Option<SystemTime>) -> Settings {
        let sha256 = Sha256::digest(KEY).into();
        let key = ApiKey { id: "app".to_owned(), sha256, scopes: scopes.to_vec(), expires, requests_per_second: 100 };
        Settings { api_keys: vec![key], ..Settings::default() }
    }

    fn keys(scopes: &[Scope], expires: Option<SystemTime>) -> Keys {
        Keys::new(CurrentSettings::new(settings(scopes, expires)))
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
        let none = Keys::new(CurrentSettings::default());
        assert_eq!(code(&none, Some(&bearer), Scope::CallsRead), Err((403, "api_closed")));
        let expired = keys(&[Scope::CallsRead], Some(SystemTime::now()));
        assert_eq!(code(&expired, Some(&bearer), Scope::CallsRead), Err((401, "key_expired")));
    }

    #[test]
    fn a_key_that_is_read_anew_keeps_its_rate_and_one_that_is_gone_opens_nothing() {
        let current = CurrentSettings::new(settings(&[Scope::CallsWrite], None));
        let (keys, now, bearer) = (Keys::new(current.clone()), Instant::now(), format!("Bearer {KEY}"));
        let admit = |scope| keys.admit(Some(&bearer), scope, now, SystemTime::now());
        let caller = admit(Scope::CallsWrite).unwrap();
        while caller.take_turn(now).is_ok() {}
        current.replace(settings(&[Scope::CallsWrite], None));
        assert_eq!(admit(Scope::CallsWrite).map(drop).unwrap_err().code, "rate_limited");

        current.replace(settings(&[Scope::CallsRead], None));
        assert_eq!(caller.take_turn(now).unwrap_err().code, "key_unknown", "it may do less now");
        assert_eq!(admit(Scope::CallsWrite).map(drop).unwrap_err().code, "missing_scope");
        current.replace(Settings::default());
        assert_eq!(admit(Scope::CallsRead).map(drop).unwrap_err().code, "api_closed");
        assert!(!caller.is_known());
    }

    #[test]
    fn a_key_has_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100);
        assert_eq!((0..1000).filter(|_| bucket.take(start).is_ok()).count(), 200);
        assert_eq!(bucket.take(start), Err(Duration::from_millis(10)));
        let later = start + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| bucket.take(later).is_ok()).count(), 100);
    }
}
