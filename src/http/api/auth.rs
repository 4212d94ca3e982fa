//! API keys: `Authorization: Bearer patchcord_<id>_<secret>`, with the scopes and the rate of each.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::bucket::Bucket;
use super::guesses::{Guesser, Guesses};
use super::too_many_streams;
use crate::address::AddressRange;
use crate::config::api::{ApiKey, Page, Scope};
use crate::egress::Hosts;
use crate::http::client_address::{client_address, home_of};
use crate::http::error::ApiError;
use crate::http::server::Connection;
use crate::queue::{QueueName, Skill};
use crate::settings::CurrentSettings;

/// Event streams of an agent's key at once: its tabs, and those that a broken network has left behind.
const STREAMS_OF_KEY: usize = 8;

/// The currently configured keys.
pub(in crate::http) struct Keys {
    settings: CurrentSettings,
    proxies: Vec<AddressRange>,
    guesses: Guesses,
    /// Callers so far, by key id: no more than ids that were ever configured.
    callers: Mutex<HashMap<String, Arc<Caller>>>,
}

/// An authenticated caller: one valid key.
pub(super) struct Caller {
    key: ApiKey,
    /// To see whether the key is still configured.
    settings: CurrentSettings,
    bucket: Mutex<Bucket>,
    /// Its open event streams.
    streams: Arc<Semaphore>,
}

/// What a key must allow for a route.
#[derive(Clone, Copy, Debug)]
pub(super) enum Needs {
    /// This scope.
    Scope(Scope),
    /// This scope, or that of an agent: where a call is named, the handler sees to it that it is the agent's own.
    ScopeOrAgent(Scope),
}

/// The credentials and the origin of a request.
pub(in crate::http) struct Shown<'a> {
    /// The `Authorization` header.
    pub(in crate::http) authorization: Option<&'a str>,
    /// The client's address; None if a proxy does not name it.
    pub(super) from: Option<IpAddr>,
}

impl Keys {
    pub(in crate::http) fn new(settings: CurrentSettings, proxies: Vec<AddressRange>) -> Self {
        Self { settings, proxies, guesses: Guesses::default(), callers: Mutex::default() }
    }

    /// Whether a page needs a key.
    pub(super) fn is_closed(&self, page: Page) -> bool {
        self.settings.get().closed_pages.contains(&page)
    }

    /// Reads both from a request on this connection.
    pub(in crate::http) fn shown<'a>(&self, headers: &'a HeaderMap, connection: Option<&Connection>) -> Shown<'a> {
        Shown {
            authorization: headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()),
            from: connection.and_then(|connection| client_address(connection.from, headers, &self.proxies)),
        }
    }

    /// The caller, if the request has a key that allows this.
    pub(super) fn admit(
        &self,
        shown: &Shown<'_>,
        needs: impl Into<Needs>,
        now: Instant,
        today: SystemTime,
    ) -> Result<Arc<Caller>, ApiError> {
        let needs = needs.into();
        if self.settings.get().api_keys.is_empty() {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "api_closed",
                "the API is closed because it has no keys: add one under [api] keys",
            ));
        }
        let caller = self.find(shown, now, today)?;
        caller.take_turn(now)?;
        let scope = needs.scope();
        match caller.may(scope) || (needs.admits_agents() && caller.may(Scope::Agent)) {
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

    /// Admits a request with a secret that is no key, and counts wrong ones as those of keys are. `name` is for the log.
    pub(in crate::http) fn admit_secret(
        &self,
        name: &str,
        shown: &Shown<'_>,
        is_right: bool,
        now: Instant,
    ) -> Result<(), ApiError> {
        let guesser = Guesser { from: shown.from.map(home_of), id: Some(name.to_owned()) };
        self.guesses.look(&guesser, now).map_err(guessed_too_often)?;
        if !is_right {
            self.guesses.was_wrong(guesser, now);
            return Err(unknown());
        }
        Ok(())
    }

    fn find(&self, shown: &Shown<'_>, now: Instant, today: SystemTime) -> Result<Arc<Caller>, ApiError> {
        let Some((scheme, token)) = shown.authorization.and_then(|header| header.split_once(' ')) else {
            return Err(unauthorized("key_missing", "send your API key as Authorization: Bearer patchcord_ID_SECRET"));
        };
        let token = token.trim();
        let id = token.strip_prefix("patchcord_").and_then(|rest| rest.split_once('_')).map_or("", |(id, _)| id);
        let settings = self.settings.get();
        let known = settings.api_keys.iter().find(|key| key.id == id);
        let guesser = Guesser { from: shown.from.map(home_of), id: known.map(|key| key.id.clone()) };
        self.guesses.look(&guesser, now).map_err(guessed_too_often)?;
        let is_right = |key: &&ApiKey| Sha256::digest(token).ct_eq(&key.sha256).into();
        // A wrong id and a wrong secret get the same response.
        let Some(key) = known.filter(|_| scheme.eq_ignore_ascii_case("bearer")).filter(is_right) else {
            self.guesses.was_wrong(guesser, now);
            return Err(unknown());
        };
        match key.expires {
            Some(expires) if today >= expires => Err(unauthorized("key_expired", "this API key has expired")),
            Some(_) | None => Ok(self.caller(key)),
        }
    }

    /// A key that is unchanged by a reload keeps its rate.
    fn caller(&self, key: &ApiKey) -> Arc<Caller> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        match callers.get(&key.id) {
            Some(caller) if caller.key == *key => caller.clone(),
            Some(_) | None => {
                let rate = f64::from(key.requests_per_second);
                let bucket = Mutex::new(Bucket::new(rate, 2.0 * rate));
                let streams = Arc::new(Semaphore::new(STREAMS_OF_KEY));
                let caller = Arc::new(Caller { key: key.clone(), settings: self.settings.clone(), bucket, streams });
                callers.insert(key.id.clone(), caller.clone());
                caller
            }
        }
    }
}

impl Needs {
    /// The scope that suffices for every call.
    pub(super) fn scope(self) -> Scope {
        match self {
            Self::Scope(scope) | Self::ScopeOrAgent(scope) => scope,
        }
    }

    /// Whether the key of an agent suffices.
    pub(super) fn admits_agents(self) -> bool {
        match self {
            Self::Scope(_) => false,
            Self::ScopeOrAgent(_) => true,
        }
    }
}

impl From<Scope> for Needs {
    fn from(scope: Scope) -> Self {
        Self::Scope(scope)
    }
}

impl Caller {
    /// Whether its agent may take callers of this queue.
    pub(super) fn serves(&self, queue: &QueueName) -> bool {
        self.key.queues.all || self.key.queues.named.contains(queue)
    }

    /// What its agent can do.
    pub(super) fn skills(&self) -> &BTreeSet<Skill> {
        &self.key.skills
    }

    /// A place for one more event stream of the key.
    pub(super) fn stream_place(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.streams.clone().try_acquire_owned().map_err(|_| too_many_streams())
    }

    /// The key's name, for logs.
    pub(super) fn id(&self) -> &str {
        &self.key.id
    }

    /// The hosts that its agent URLs may name.
    pub(super) fn hosts(&self) -> Hosts {
        if self.may(Scope::EgressAny) { Hosts::Any } else { Hosts::Listed }
    }

    /// `calls:write` includes `calls:read`.
    pub(super) fn may(&self, scope: Scope) -> bool {
        let has = |scope| self.key.scopes.contains(&scope);
        has(scope) || (scope == Scope::CallsRead && has(Scope::CallsWrite))
    }

    /// Whether the key is still configured and unchanged.
    pub(super) fn is_known(&self) -> bool {
        self.settings.get().api_keys.contains(&self.key)
    }

    /// Counts one request, or refuses it because of the key's rate.
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

/// Refuses without checking the key.
fn guessed_too_often(wait: Duration) -> ApiError {
    let detail = "too many wrong keys from this address: try again later";
    // At least one second, and a few at most.
    let seconds = HeaderValue::from(wait.as_secs() + 1);
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_wrong_keys", detail).with_header(RETRY_AFTER, seconds)
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
    use crate::config::api::QueueScope;
    use crate::settings::Settings;

    const KEY: &str = "patchcord_app_0123456789";

    fn settings(scopes: &[Scope], expires: Option<SystemTime>) -> Settings {
        let sha256 = Sha256::digest(KEY).into();
        let key = ApiKey {
            id: "app".to_owned(),
            sha256,
            scopes: scopes.to_vec(),
            queues: QueueScope::default(),
            skills: BTreeSet::new(),
            expires,
            requests_per_second: 100,
        };
        Settings { api_keys: vec![key], ..Settings::default() }
    }

    fn keys(scopes: &[Scope], expires: Option<SystemTime>) -> Keys {
        Keys::new(CurrentSettings::new(settings(scopes, expires)), Vec::new())
    }

    fn shown(authorization: Option<&str>) -> Shown<'_> {
        Shown { authorization, from: None }
    }

    fn code(keys: &Keys, header: Option<&str>, scope: Scope) -> Result<(), (u16, &'static str)> {
        let admitted = keys.admit(&shown(header), scope, Instant::now(), SystemTime::now());
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
        let none = Keys::new(CurrentSettings::default(), Vec::new());
        assert_eq!(code(&none, Some(&bearer), Scope::CallsRead), Err((403, "api_closed")));
        let expired = keys(&[Scope::CallsRead], Some(SystemTime::now()));
        assert_eq!(code(&expired, Some(&bearer), Scope::CallsRead), Err((401, "key_expired")));
    }

    #[test]
    fn a_key_that_is_read_anew_keeps_its_rate_and_one_that_is_gone_opens_nothing() {
        let current = CurrentSettings::new(settings(&[Scope::CallsWrite], None));
        let keys = Keys::new(current.clone(), Vec::new());
        let (now, bearer) = (Instant::now(), format!("Bearer {KEY}"));
        let admit = |scope| keys.admit(&shown(Some(&bearer)), scope, now, SystemTime::now());
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
    fn who_guesses_is_refused_unseen_and_an_app_elsewhere_is_not() {
        let (keys, now) = (keys(&[Scope::CallsRead], None), Instant::now());
        let (right, wrong) = (format!("Bearer {KEY}"), format!("Bearer {KEY}0"));
        let ask = |authorization: &str, from: Option<&str>| {
            let from = from.map(|from| from.parse().unwrap());
            let shown = Shown { authorization: Some(authorization), from };
            keys.admit(&shown, Scope::CallsRead, now, SystemTime::now()).map(drop).map_err(|error| error.code)
        };
        let guesser = Some("2001:db8::1");
        while ask(&wrong, guesser) == Err("key_unknown") {}
        assert_eq!(ask(&wrong, guesser), Err("too_many_wrong_keys"));
        assert_eq!(ask(&right, guesser), Err("too_many_wrong_keys"), "a right guess is not distinguished from others");
        assert_eq!(ask(&right, Some("2001:db8::2")), Err("too_many_wrong_keys"), "the same host");
        assert_eq!(ask("Bearer patchcord_other_0", guesser), Err("key_unknown"), "another key");
        assert_eq!(ask(&right, Some("192.0.2.1")), Ok(()));
        for _ in 0..100 {
            assert_eq!(ask(&wrong, None), Err("key_unknown"), "nobody knows who it is");
        }
        assert_eq!(ask(&right, None), Ok(()));
    }
}
