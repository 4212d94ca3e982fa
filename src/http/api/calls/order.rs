//! What the orders of placed calls and of calls that an app signals have in common. serde refuses unknown keys only of a struct
//! that has all its fields itself, so a macro puts the common ones into both.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::call::command::{Destination, MAX_CLIENT_STATE_BYTES};
use crate::calls::Agents;
use crate::whatsapp::graph::CallbackData;

/// How long a phone rings if the request does not say it.
pub(super) const USUAL_RING: Duration = Duration::from_secs(45);
/// A phone needs a few seconds to be found, and the media path is given up after 90 s without an answer.
const RING: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(80)];

/// Declares the body of an order: its own fields, and then the common ones.
macro_rules! order_body {
    ($(#[$about:meta])* $name:ident { $($own:tt)* }) => {
        $(#[$about])*
        #[derive(Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub(in crate::http::api) struct $name {
            $($own)*
            /// A route by its name: its agent, then its fallbacks. Without `route`, `queue`, `agent` and `url`, the number's route.
            route: Option<String>,
            /// A queue by its name.
            queue: Option<String>,
            /// A person by the id of its API key, who is signed in and idle.
            agent: Option<String>,
            /// The WebSocket of an agent that speaks `patchcord.v1`. It must be allowed by the configuration.
            url: Option<String>,
            /// Nobody talks to the person until you connect an agent: play and gather from `call.accepted` on.
            #[serde(default)]
            without_agent: bool,
            /// For the agent's `start`, beside those of the route.
            #[serde(default)]
            parameters: BTreeMap<String, String>,
            /// Kept with the call and repeated in its events.
            #[schema(max_length = 4096)]
            client_state: Option<String>,
            /// Your text, kept with the call; events and records have it. Of a call that Patchcord places, Meta repeats it in its
            /// webhooks, as `biz_opaque_callback_data`.
            #[schema(max_length = 512)]
            tracker: Option<String>,
            /// How long the phone of a call that you place rings, from `5s` to `80s`; `45s` if left out.
            #[schema(example = "30s", pattern = "^[0-9]+s$")]
            ring_timeout: Option<String>,
        }

        impl $name {
            /// Takes the common fields out. The error says what to give.
            fn take_common(&mut self) -> Result<order::Common, String> {
                let to = $crate::call::command::Destination {
                    route: self.route.take(),
                    queue: self.queue.take(),
                    agent: self.agent.take(),
                    url: self.url.take(),
                    phone: None,
                    twiml: None,
                    parameters: BTreeMap::new(),
                };
                Ok(order::Common {
                    agents: order::agents(to, self.without_agent)?,
                    parameters: std::mem::take(&mut self.parameters),
                    client_state: order::client_state(self.client_state.take())?,
                    tracker: order::tracker(self.tracker.as_deref())?,
                    ring_timeout: order::ring_timeout(self.ring_timeout.as_deref())?,
                })
            }
        }
    };
}
pub(super) use order_body;

/// The common fields, read.
pub(super) struct Common {
    pub agents: Agents,
    pub parameters: BTreeMap<String, String>,
    pub client_state: Option<String>,
    pub tracker: Option<CallbackData>,
    pub ring_timeout: Option<Duration>,
}

pub(super) fn agents(to: Destination, without_agent: bool) -> Result<Agents, String> {
    match (to.is_given(), without_agent) {
        (true, true) => Err("without_agent: leave it out, or leave out route, queue, agent and url".to_owned()),
        (true, false) => Ok(Agents::Of(to)),
        (false, true) => Ok(Agents::Nobody),
        (false, false) => Ok(Agents::OfNumber),
    }
}

pub(super) fn client_state(text: Option<String>) -> Result<Option<String>, String> {
    match text.as_ref().is_some_and(|text| text.len() > MAX_CLIENT_STATE_BYTES) {
        true => Err(format!("client_state: give a text of at most {MAX_CLIENT_STATE_BYTES} bytes")),
        false => Ok(text),
    }
}

pub(super) fn tracker(text: Option<&str>) -> Result<Option<CallbackData>, String> {
    let read = text.map(CallbackData::parse).transpose();
    read.map_err(|_| "tracker: give at most 512 characters".to_owned())
}

pub(super) fn ring_timeout(text: Option<&str>) -> Result<Option<Duration>, String> {
    let Some(text) = text else { return Ok(None) };
    let [shortest, longest] = RING;
    let time = humantime::parse_duration(text).ok().filter(|time| (shortest..=longest).contains(time));
    time.map(Some).ok_or_else(|| "ring_timeout: give a time from \"5s\" to \"80s\"".to_owned())
}
