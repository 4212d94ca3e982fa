//! Settings that a running service cannot apply, by name, for the log line of a reload.

use secrecy::ExposeSecret;
use url::Url;

use super::recordings::{S3, Upload};
use super::{Config, events};
use crate::events::Webhook;

/// The settings in which `new` differs from `started`, and that only a restart brings about.
pub fn needed_for(started: &Config, new: &Config) -> Vec<&'static str> {
    let (a, b) = (started, new);
    let settings = [
        ("[http]", a.http != b.http),
        ("media.listen", a.media.listen != b.media.listen),
        ("media.advertise", a.media.advertise != b.media.advertise),
        ("media.ports", a.media.ports != b.media.ports),
        ("media.workers", a.media.workers != b.media.workers),
        ("media.max_load_percent", a.media.max_load_percent != b.media.max_load_percent),
        ("media.max_lateness", a.media.max_lateness != b.media.max_lateness),
        ("media.allow_private", a.media.allow_private != b.media.allow_private),
        ("whatsapp.graph_url", a.whatsapp.graph_url != b.whatsapp.graph_url),
        ("whatsapp.graph_version", a.whatsapp.graph_version != b.whatsapp.graph_version),
        ("whatsapp.forward_url", a.whatsapp.forward_url != b.whatsapp.forward_url),
        ("[calls]", a.calls != b.calls),
        ("[queues]", a.queues != b.queues),
        ("[sip]", a.sip != b.sip),
        ("prompts.dir", a.prompts != b.prompts),
        ("recordings.dir", a.recordings.dir != b.recordings.dir),
        ("recordings.upload", !is_same_archive(a.recordings.upload.as_ref(), b.recordings.upload.as_ref())),
        ("recordings.keep_local", a.recordings.keep_local != b.recordings.keep_local),
        ("recordings.max_age", a.recordings.max_age != b.recordings.max_age),
        ("[store]", a.store != b.store),
        ("[events]", !are_same_events(&a.events, &b.events)),
        ("twilio.status_callback", callback_of(a) != callback_of(b)),
        ("[twilio], for callbacks of single calls", a.twilio.is_some() != b.twilio.is_some()),
        ("[log]", a.log != b.log),
    ];
    settings.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

fn is_same_archive(a: Option<&Upload>, b: Option<&Upload>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(Upload::Folder(a)), Some(Upload::Folder(b))) => a == b,
        (Some(Upload::S3(a)), Some(Upload::S3(b))) => is_same_bucket(a, b),
        _ => false,
    }
}

fn is_same_bucket(a: &S3, b: &S3) -> bool {
    let place = |s3: &S3| (s3.bucket.clone(), s3.prefix.clone(), s3.endpoint.clone(), s3.region.clone());
    let keys = |s3: &S3| {
        let keys = s3.keys.as_ref();
        keys.map(|keys| [&keys.access_key, &keys.secret_key].map(|key| key.expose_secret().to_owned()))
    };
    place(a) == place(b) && keys(a) == keys(b)
}

fn callback_of(config: &Config) -> Option<&Url> {
    config.twilio.as_ref().and_then(|account| account.status_callback.as_ref())
}

fn are_same_events(a: &events::Events, b: &events::Events) -> bool {
    let webhooks = |events: &events::Events| {
        let facts = |webhook: &Webhook| {
            (webhook.name.clone(), webhook.url.clone(), webhook.secrets.clone(), webhook.kinds.clone())
        };
        events.webhooks.iter().map(facts).collect::<Vec<_>>()
    };
    webhooks(a) == webhooks(b) && a.give_up_after == b.give_up_after
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    const CONFIG: &str = r#"
        [http]
        listen = "127.0.0.1:1"
        [whatsapp]
        verify_token = "word"
        app_secrets = ["secret"]
        [[whatsapp.numbers]]
        phone_number_id = "1"
        access_token = "token"
        route = "reception"
        [routes.reception]
        agent = "prompt:hold"
        [recordings]
        upload = "s3://bucket/prefix"
        upload_access_key = "id"
        upload_secret_key = "key"
        [events]
        webhooks = [{ url = "https://a.example.com", secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" }]
    "#;

    /// What a restart is needed for when this is written instead of that.
    fn needed_after(from: &str, to: &str) -> Vec<&'static str> {
        let read = |text: &str| Config::parse(text, "test.toml", &Environment::default()).unwrap();
        assert!(CONFIG.contains(from), "{from}");
        needed_for(&read(CONFIG), &read(&CONFIG.replace(from, to)))
    }

    #[test]
    fn what_a_restart_is_needed_for_is_named_and_nothing_else() {
        assert_eq!(needed_after("word", "word"), [""; 0]);
        for (from, to) in
            [("word", "other"), ("\"secret\"", "\"other\""), ("token\"", "other\""), ("prompt:hold", "prompt:busy")]
        {
            assert_eq!(needed_after(from, to), [""; 0], "{from}");
        }
        for (from, to, name) in [
            ("127.0.0.1:1", "127.0.0.1:2", "[http]"),
            ("[http]", "[calls]\nmax_calls = 5\n[http]", "[calls]"),
            ("s3://bucket", "s3://other", "recordings.upload"),
            ("\"key\"", "\"other\"", "recordings.upload"),
            ("whsec_M", "whsec_N", "[events]"),
            ("[http]", "[store]\npath = \"other.db\"\n[http]", "[store]"),
        ] {
            assert_eq!(needed_after(from, to), [name], "{from}");
        }
    }
}
