//! `/v1/routes`: the configured routes, without secrets.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Query, State};
use patchcord_media::opus::Profile;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::auth::Caller;
use super::page::PageQuery;
use crate::agent::{AgentTarget, shown_address};
use crate::config::api::Scope;
use crate::http::error::{ApiError, Problem};
use crate::routes::Route;
use crate::sip::TrunkNumber;
use crate::twilio::Notation;

/// Routes, sorted by name.
#[derive(Serialize, ToSchema)]
pub(super) struct RoutePage {
    routes: Vec<RouteView>,
    /// `after` of the next page; null on the last page.
    next: Option<String>,
}

/// One configured route.
#[derive(Serialize, ToSchema)]
pub(super) struct RouteView {
    name: String,
    /// Left out for the key of an agent, which may transfer callers to it.
    #[serde(flatten)]
    settings: Option<RouteSettings>,
}

/// The settings of a route. Headers and parameters are not shown, because they may be secret.
#[derive(Serialize, ToSchema)]
pub(super) struct RouteSettings {
    /// The numbers that use it, by Meta's ids.
    phone_number_ids: Vec<String>,
    agent: TargetView,
    /// Tried in this order when the agent refuses or is lost.
    fallback: Vec<TargetView>,
    /// `native`
    dialect: &'static str,
    /// `pcm_s16le` or `opus`
    encoding: &'static str,
    /// Hz, in both directions.
    sample_rate: u32,
    /// `when_agent_ready`, `at_once` or `on_command`
    answer: &'static str,
    ringback: String,
    hold: String,
    /// Whether its prompts repeat.
    #[serde(rename = "loop")]
    repeat: bool,
    record: bool,
    /// `off`, `events` or `clear`
    barge_in: &'static str,
    /// `eco` or `hq`
    profile: &'static str,
}

/// A target of a call.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum TargetView {
    /// A voice bot.
    Websocket {
        /// The URL without credentials and query; of several instances that of the first.
        url: String,
        /// Those of all its instances.
        urls: Vec<String>,
        /// Which of them a call dials first: `first` or `least_busy`.
        choice: &'static str,
        /// How long it is dialled again when its connection breaks in the middle of a call.
        redial_for_ms: u64,
    },
    /// The application, which opens a WebSocket to us.
    App,
    /// A voice bot that speaks AudioSocket.
    #[serde(rename = "audiosocket")]
    AudioSocket {
        /// The address, without a UUID.
        url: String,
    },
    /// An HTTP endpoint that answers a WebRTC offer.
    Offer {
        /// The URL without credentials and query.
        url: String,
        /// `json`, `sdp` or `form`
        offer_format: &'static str,
    },
    /// An app that answers TwiML.
    Twiml {
        /// The URL without credentials and query.
        url: String,
    },
    /// An app that answers NCCOs, as apps written for Vonage do.
    Ncco {
        /// The URL without credentials and query.
        url: String,
    },
    /// A speech model.
    Model {
        /// The vendor and its name of the model, such as `openai-realtime:gpt-realtime`.
        model: String,
    },
    /// A SIP phone.
    Sip {
        /// Its address.
        uri: String,
    },
    /// All registered phones of a user.
    SipUser {
        /// The user's name.
        user: String,
    },
    /// A number behind a trunk.
    SipTrunk {
        /// The trunk's name.
        trunk: String,
        /// The number.
        number: String,
    },
    /// A queue, whose agents take the call at a page.
    Queue {
        /// Its name.
        queue: String,
    },
    /// A person, who takes the call at a page.
    Person {
        /// The id of its API key.
        agent: String,
    },
    /// Prompts; the call ends after the last one.
    Prompts {
        /// Their names, in order.
        prompts: Vec<String>,
    },
}

/// List the routes
///
/// The key of an agent gets their names alone.
#[utoipa::path(get, path = "/v1/routes", tag = "routes", params(PageQuery), responses(
    (status = 200, description = "A page of the routes, by name", body = RoutePage),
    (status = 400, description = "`invalid_page`, `bad_request`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
    Query(query): Query<PageQuery>,
) -> Result<Json<RoutePage>, ApiError> {
    let page = query.read("the name of a route", |text| Some(text.to_owned()))?;
    let settings = api.options.settings.get();
    let behind = settings.routes.iter().filter(|route| page.after.as_ref().is_none_or(|after| route.name > *after));
    let (found, next) = page.cut(behind.take(page.to_find()).collect(), |route| route.name.clone());
    let sees_all = caller.may(Scope::CallsRead);
    let routes = found.into_iter().filter_map(|route| {
        let shown = || settings_of(route, settings.numbers.ids_on(&route.name));
        let settings = if sees_all { Some(shown()?) } else { None };
        Some(RouteView { name: route.name.clone(), settings })
    });
    Ok(Json(RoutePage { routes: routes.collect(), next }))
}

/// None for a route without targets, which the configuration does not admit.
fn settings_of(route: &Route, phone_number_ids: Vec<String>) -> Option<RouteSettings> {
    let (agent, fallback) = route.targets.split_first()?;
    Some(RouteSettings {
        phone_number_ids,
        agent: target(agent)?,
        fallback: fallback.iter().filter_map(target).collect(),
        dialect: route.agents.dialect.name(),
        encoding: route.agents.format.encoding.name(),
        sample_rate: route.agents.format.sample_rate.hz(),
        answer: route.answer.name(),
        ringback: route.ringback.clone(),
        hold: route.hold.clone(),
        repeat: route.agents.repeat,
        record: route.record,
        barge_in: route.barge_in.name(),
        profile: match route.agents.profile {
            Profile::Eco => "eco",
            Profile::Hq => "hq",
            // No configuration asks for it.
            Profile::Prompt => "prompt",
        },
    })
}

/// None for a page and a phone that called, which no route names.
fn target(target: &AgentTarget) -> Option<TargetView> {
    match target {
        AgentTarget::WebSocket(agent) => Some(TargetView::Websocket {
            url: shown_address(&agent.url),
            urls: agent.urls().map(shown_address).collect(),
            choice: agent.choice.name(),
            redial_for_ms: agent.redial_for.as_millis() as u64,
        }),
        AgentTarget::App(_) => Some(TargetView::App),
        AgentTarget::AudioSocket(_) => Some(TargetView::AudioSocket { url: target.shown() }),
        AgentTarget::Browser(_) | AgentTarget::CallingPhone(_) => None,
        AgentTarget::Offer(agent) => {
            Some(TargetView::Offer { url: shown_address(&agent.url), offer_format: agent.format.name() })
        }
        AgentTarget::Twiml(app) => app.home.as_ref().map(|home| {
            let url = shown_address(&home.local);
            match app.notation {
                Notation::Twiml => TargetView::Twiml { url },
                Notation::Ncco => TargetView::Ncco { url },
            }
        }),
        AgentTarget::Model(model) => Some(TargetView::Model { model: model.to_string() }),
        AgentTarget::Sip(uri) => Some(TargetView::Sip { uri: uri.to_string() }),
        AgentTarget::SipUser(name) => Some(TargetView::SipUser { user: name.clone() }),
        AgentTarget::Trunk(TrunkNumber { trunk, number, .. }) => {
            Some(TargetView::SipTrunk { trunk: trunk.clone(), number: number.clone() })
        }
        AgentTarget::Queue(name) => Some(TargetView::Queue { queue: name.to_string() }),
        AgentTarget::Person(name) => Some(TargetView::Person { agent: name.to_string() }),
        AgentTarget::Prompts { names, .. } => Some(TargetView::Prompts { prompts: names.clone() }),
    }
}
