//! `/v1/routes`: where callers are put through to, without what is secret.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::page::PageQuery;
use crate::agent::shown_address;
use crate::config::route::{AgentTarget, Answer, BargeIn, Encoding, Profile, Route};
use crate::http::error::{ApiError, Problem};

/// Routes, by name.
#[derive(Serialize, ToSchema)]
pub(super) struct RoutePage {
    routes: Vec<RouteView>,
    /// Ask for `after` this name to get the next page; null on the last.
    next: Option<String>,
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
#[utoipa::path(get, path = "/v1/routes", tag = "routes", params(PageQuery), responses(
    (status = 200, description = "A page of the routes, by name", body = RoutePage),
    (status = 400, description = "`invalid_page`, `bad_request`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Query(query): Query<PageQuery>,
) -> Result<Json<RoutePage>, ApiError> {
    let page = query.read("the name of a route", |text| Some(text.to_owned()))?;
    let settings = api.options.settings.get();
    let numbers = &settings.numbers_with_routes;
    let behind =
        settings.configured_routes.iter().filter(|(name, _)| page.after.as_ref().is_none_or(|after| *name > after));
    let (found, next) = page.cut(behind.take(page.to_find()).collect(), |(name, _)| (*name).clone());
    let routes = found.into_iter().map(|(name, route)| {
        let ids = numbers.iter().filter(|(_, route)| route == name).map(|(id, _)| id.clone()).collect();
        view(name, route, ids)
    });
    Ok(Json(RoutePage { routes: routes.collect(), next }))
}

fn view(name: &str, route: &Route, phone_number_ids: Vec<String>) -> RouteView {
    RouteView {
        name: name.to_owned(),
        phone_number_ids,
        agent: target(&route.agent),
        fallback: route.fallback.iter().map(target).collect(),
        dialect: route.dialect.name(),
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
        AgentTarget::WebSocket(url) => TargetView::Websocket { url: shown_address(url) },
        AgentTarget::Prompts(names) => TargetView::Prompts { prompts: names.clone() },
    }
}
