//! `/v1/routes`: where callers are put through to, without what is secret.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use url::Url;
use utoipa::ToSchema;

use super::Api;
use crate::config::route::{AgentTarget, Answer, BargeIn, Dialect, Encoding, Profile, Route};

/// All routes, by name.
#[derive(Serialize, ToSchema)]
pub(super) struct RouteList {
    routes: Vec<RouteView>,
}

/// One route as configured. Headers and parameters are not shown: they may be secret.
#[derive(Serialize, ToSchema)]
pub(super) struct RouteView {
    name: String,
    /// The numbers whose callers take it, by Meta's ids.
    phone_number_ids: Vec<String>,
    agent: TargetView,
    /// Tried in this order when the agent refuses or is lost.
    fallback: Vec<TargetView>,
    /// `native`
    dialect: &'static str,
    /// `pcm_s16le` or `opus`
    encoding: &'static str,
    /// Hz towards and from the agent.
    sample_rate: u32,
    /// `when_agent_ready`, `at_once` or `on_command`
    answer: &'static str,
    ringback: String,
    hold: String,
    /// Whether its prompts begin again when they have ended.
    #[serde(rename = "loop")]
    repeat: bool,
    record: bool,
    /// `off`, `events` or `clear`
    barge_in: &'static str,
    /// `eco` or `hq`
    profile: &'static str,
}

/// Whom a caller can be put through to.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum TargetView {
    /// A voice bot.
    Websocket {
        /// Without credentials and query.
        url: String,
    },
    /// Prompts, then we hang up.
    Prompts {
        /// By name, in their order.
        prompts: Vec<String>,
    },
}

/// The routes
#[utoipa::path(get, path = "/v1/routes", tag = "routes", responses(
    (status = 200, description = "All routes, by name", body = RouteList),
))]
pub(super) async fn list(State(api): State<Arc<Api>>) -> Json<RouteList> {
    let settings = api.options.settings.get();
    let numbers = &settings.numbers_with_routes;
    let routes = settings.configured_routes.iter().map(|(name, route)| {
        let ids = numbers.iter().filter(|(_, route)| route == name).map(|(id, _)| id.clone()).collect();
        view(name, route, ids)
    });
    Json(RouteList { routes: routes.collect() })
}

fn view(name: &str, route: &Route, phone_number_ids: Vec<String>) -> RouteView {
    RouteView {
        name: name.to_owned(),
        phone_number_ids,
        agent: target(&route.agent),
        fallback: route.fallback.iter().map(target).collect(),
        dialect: match route.dialect {
            Dialect::Native => "native",
        },
        encoding: match route.encoding {
            Encoding::PcmS16le => "pcm_s16le",
            Encoding::Opus => "opus",
        },
        sample_rate: route.sample_rate,
        answer: match route.answer {
            Answer::WhenAgentReady => "when_agent_ready",
            Answer::AtOnce => "at_once",
            Answer::OnCommand => "on_command",
        },
        ringback: route.ringback.clone(),
        hold: route.hold.clone(),
        repeat: route.repeat,
        record: route.record,
        barge_in: match route.barge_in {
            BargeIn::Off => "off",
            BargeIn::Events => "events",
            BargeIn::Clear => "clear",
        },
        profile: match route.profile {
            Profile::Eco => "eco",
            Profile::Hq => "hq",
        },
    }
}

fn target(target: &AgentTarget) -> TargetView {
    match target {
        AgentTarget::WebSocket(url) => TargetView::Websocket { url: shown(url.clone()) },
        AgentTarget::Prompts(names) => TargetView::Prompts { prompts: names.clone() },
    }
}

/// Only a URL that has no host could refuse to lose its credentials, and then it has none.
fn shown(mut url: Url) -> String {
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}
