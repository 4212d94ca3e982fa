//! The one HTTP listener: Meta's webhooks, the control API, health and metrics.

pub mod server;
mod bodies;
mod cors;
mod client_address;
mod console;
pub mod api;
pub mod error;
pub mod forward;
mod sip;
mod stray;
mod twilio;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use api::{ApiOptions, Keys};
use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use bodies::Bodies;
use cors::AllowedOrigins;
use error::ApiError;
use forward::Forwarding;
use metrics_exporter_prometheus::PrometheusHandle;
use url::Url;

use crate::address::AddressRange;
use crate::calls::Calls;
use crate::clock;
use crate::config::api::Page;
use crate::health::Health;
use crate::settings::CurrentSettings;
use crate::sip::UserAgent;
use crate::store::Store;
use crate::telemetry;

/// The webhook's path. A trailing slash is accepted too, because people type one into Meta's dashboard.
const WEBHOOK_PATH: &str = "/webhooks/whatsapp";
/// Meta waits for a response for about 20 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Long enough for a prompt of 64 MB over a slow line.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// What the handlers share.
pub struct HttpOptions {
    /// App secrets, the verify token and API keys, as currently configured.
    pub settings: CurrentSettings,
    /// Receives the notices of webhooks.
    pub calls: Calls,
    /// Receives webhooks about anything but our calls; None where no URL is configured.
    pub forwarding: Option<Forwarding>,
    /// Whether the control plane and the media workers are running.
    pub health: Health,
    /// No new call is taken while its disk is low.
    pub store: Store,
    /// Whether the service is ready only while the store can be written.
    pub is_store_required: bool,
    /// Renders `/metrics`; None if another recorder was installed first.
    pub metrics: Option<PrometheusHandle>,
    /// Bound of all webhook bodies in memory together.
    pub max_webhook_bytes: usize,
    /// Reverse proxies whose `X-Forwarded-For` is trusted.
    pub proxies: Vec<AddressRange>,
    /// Origins whose pages may read the API's responses, and may be phones.
    pub allow_origins: Vec<String>,
    /// How the outside sees the listener.
    pub public_url: Option<Url>,
    /// Serves the WebSockets of SIP phones; None without `[sip]`.
    pub phones: Option<UserAgent>,
}

/// All routes.
pub fn router(options: HttpOptions, api: ApiOptions) -> Router {
    let bodies = Arc::new(Bodies::new(options.max_webhook_bytes));
    let webhook = get(webhook::verify).post(webhook::receive).fallback(stray::method_not_allowed);
    let webhook = webhook.layer(Extension(bodies));
    let keys = Arc::new(Keys::new(options.settings.clone(), options.proxies.clone()));
    let if_open = middleware::from_fn_with_state((keys.clone(), Page::Metrics), api::guard_page);
    let allowed = Arc::new(AllowedOrigins::new(&options.allow_origins));
    let twilio = twilio::router(options.settings.clone(), options.calls.clone(), options.store.clone(), keys.clone());
    let api = api::router(api, &keys).layer(middleware::from_fn_with_state(allowed, cors::share));
    Router::new()
        .route(WEBHOOK_PATH, webhook.clone())
        .route(&format!("{WEBHOOK_PATH}/"), webhook)
        .route("/sip", get(sip::open))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics).layer(if_open))
        .merge(console::router())
        .with_state(Arc::new(options))
        .merge(api)
        .merge(twilio)
        .fallback(stray::nothing_here)
        .layer(middleware::from_fn(within_time))
}

/// A client that sends its request byte by byte does not occupy a handler for long.
async fn within_time(request: Request, next: Next) -> Result<Response, ApiError> {
    let within = if request.method() == Method::PUT { UPLOAD_TIMEOUT } else { REQUEST_TIMEOUT };
    tokio::time::timeout(within, next.run(request)).await.map_err(|_| {
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "the request did not arrive in time")
    })
}

/// The liveness probe: it fails only for what a restart repairs.
async fn live(State(options): State<Arc<HttpOptions>>) -> (StatusCode, String) {
    match options.health.stuck(clock::now()) {
        None => (StatusCode::OK, "alive\n".to_owned()),
        Some(stuck) => (StatusCode::SERVICE_UNAVAILABLE, format!("{stuck}\n")),
    }
}

async fn ready(State(options): State<Arc<HttpOptions>>) -> (StatusCode, &'static str) {
    if options.calls.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining: no new calls are taken\n")
    } else if !options.health.takes_calls(clock::now()) {
        (StatusCode::SERVICE_UNAVAILABLE, "stuck: no media worker runs\n")
    } else if options.store.is_low() {
        (StatusCode::SERVICE_UNAVAILABLE, "low disk: less than store.min_free is left, no new calls are taken\n")
    } else if options.is_store_required && options.store.failing_for().is_some() {
        (StatusCode::SERVICE_UNAVAILABLE, "the store cannot be written: the log says why\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn metrics(State(options): State<Arc<HttpOptions>>) -> String {
    // Counted by the media package, which has no metrics.
    metrics::counter!("patchcord_opus_encodes_total").absolute(patchcord_media::opus::encodes());
    // Counted by the logger, possibly before metrics exist.
    metrics::counter!("patchcord_log_lines_lost_total").absolute(telemetry::lines_lost());
    options.metrics.as_ref().map(PrometheusHandle::render).unwrap_or_default()
}
