//! What a running service cannot take on. It is named, so that nobody waits for it in vain.

use secrecy::ExposeSecret;

use super::recordings::{S3, Upload};
use super::{Config, events};

/// The settings in which `new` differs from `started`, and that only a restart brings about.
pub fn needed_for(started: &Config, new: &Config) -> Vec<&'static str> {
    let (a, b) = (started, new);
    let settings = [
        ("http.listen", a.http.listen != b.http.listen),
        ("http.public_url", a.http.public_url != b.http.public_url),
        ("media.listen", a.media.listen != b.media.listen),
        ("media.advertise", a.media.advertise != b.media.advertise),
        ("media.ports", a.media.ports != b.media.ports),
        ("media.workers", a.media.workers != b.media.workers),
        ("media.allow_private", a.media.allow_private != b.media.allow_private),
        ("whatsapp.graph_url", a.whatsapp.graph_url != b.whatsapp.graph_url),
        ("whatsapp.graph_version", a.whatsapp.graph_version != b.whatsapp.graph_version),
        ("whatsapp.forward_url", a.whatsapp.forward_url != b.whatsapp.forward_url),
        ("[calls]", a.calls != b.calls),
        ("prompts.dir", a.prompts != b.prompts),
        ("recordings.dir", a.recordings.dir != b.recordings.dir),
        ("recordings.upload", !is_same_archive(a.recordings.upload.as_ref(), b.recordings.upload.as_ref())),
        ("recordings.keep_local", a.recordings.keep_local != b.recordings.keep_local),
        ("recordings.max_age", a.recordings.max_age != b.recordings.max_age),
        ("[store]", a.store != b.store),
        ("[events]", !are_same_events(&a.events, &b.events)),
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

fn are_same_events(a: &events::Events, b: &events::Events) -> bool {
    a.webhooks == b.webhooks && a.give_up_after == b.give_up_after
}
