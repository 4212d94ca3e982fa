//! Where a command leads: to the agents of a route, or to one by its URL, past the guard.

use std::collections::BTreeMap;

use patchcord_media::opus::{Profile, SampleRate};

use crate::agent::{AgentOptions, DialectName, Encoding, SoundFormat};
use crate::call::command::Destination;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::egress::{self, Hosts, Use};
use crate::routes::Stop;
use crate::settings::Settings;

/// Whom a destination names. A URL's host is resolved here, which may take 3 s, and never again.
pub async fn stops_of(to: &Destination, settings: &Settings, hosts: Hosts) -> Result<Vec<Stop>, Refusal> {
    let mut stops = match (&to.route, &to.url) {
        (None, Some(url)) => {
            let found = settings.egress.check(url, Use::WebSocket, hosts).await;
            let found = found.map_err(|refused| Refusal::new(refused.code(), format!("url: {refused}")))?;
            vec![Stop::Agent(agent_at(&found))]
        }
        (name, _) => {
            let name = name.as_deref().unwrap_or_default();
            let route = settings.routes.get(name);
            let unknown = || Refusal::new(RefusalCode::UnknownRoute, format!("there is no section [routes.{name}]"));
            route.ok_or_else(unknown)?.stops.clone()
        }
    };
    for stop in &mut stops {
        if let Stop::Agent(agent) = stop {
            agent.parameters.extend(to.parameters.clone());
        }
    }
    Ok(stops)
}

/// As a route has it that says no more than where its agent is.
fn agent_at(found: &egress::Destination) -> AgentOptions {
    AgentOptions {
        url: found.url().clone(),
        addresses: found.addresses().to_vec(),
        headers: Vec::new(),
        dialect: DialectName::Native,
        format: SoundFormat { encoding: Encoding::PcmS16le, sample_rate: SampleRate::Hz16000 },
        profile: Profile::Eco,
        parameters: BTreeMap::new(),
    }
}
