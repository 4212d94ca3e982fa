//! Pages that are embedded in the binary: their files, and the headers that keep them to this host.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;

/// No other host, no inline script or style, no frame around the page.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
    media-src 'self' blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("permissions-policy"), "microphone=(self), camera=(), geolocation=()"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// One file of a page.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Where it is served.
    pub path: &'static str,
    /// Its `Content-Type`.
    pub kind: &'static str,
    /// Its text.
    pub text: &'static str,
}

impl File {
    /// A file of this type.
    pub const fn new(path: &'static str, kind: Kind, text: &'static str) -> Self {
        Self { path, kind: kind.content_type(), text }
    }
}

/// The types of files that pages have.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `.html`
    Html,
    /// `.css`
    Css,
    /// `.js`, an ES module.
    Script,
    /// `.svg`
    Svg,
}

impl Kind {
    const fn content_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Css => "text/css; charset=utf-8",
            Self::Script => "text/javascript; charset=utf-8",
            Self::Svg => "image/svg+xml",
        }
    }
}

/// One route for each file, with the headers.
pub fn routes<S: Clone + Send + Sync + 'static>(files: &'static [File]) -> Router<S> {
    let router = files.iter().fold(Router::new(), |router, file| {
        router.route(file.path, get(|| std::future::ready(([(header::CONTENT_TYPE, file.kind)], file.text))))
    });
    router.layer(middleware::from_fn(with_headers))
}

/// Adds the headers. A page is asked for again each time: a new version has other files under the same names.
pub async fn with_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    response
}
