//! The targets that a command names: those of a route, a queue, or the WebSocket of a URL that the egress guard admits.

use crate::agent::{AgentTarget, WebSocketOptions};
use crate::call::command::Destination;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::egress::{Hosts, Use};
use crate::settings::Settings;

/// The targets of a destination. A URL's host is resolved here, once, which may take 3 s.
pub async fn targets_of(to: &Destination, settings: &Settings, hosts: Hosts) -> Result<Vec<AgentTarget>, Refusal> {
    let mut targets = match (&to.url, &to.queue) {
        (Some(url), _) => {
            let found = settings.egress.check(url, Use::WebSocket, hosts).await;
            let found = found.map_err(|refused| Refusal::new(refused.code(), format!("url: {refused}")))?;
            let agent = WebSocketOptions::at(found.url().clone());
            vec![AgentTarget::WebSocket(WebSocketOptions { addresses: found.addresses().to_vec(), ..agent })]
        }
        (None, Some(name)) => {
            let unknown = || Refusal::new(RefusalCode::UnknownQueue, format!("there is no section [queues.{name}]"));
            vec![AgentTarget::Queue(settings.queues.get(name.as_str()).ok_or_else(unknown)?.clone())]
        }
        (None, None) => {
            let name = to.route.as_deref().unwrap_or_default();
            let route = settings.routes.get(name);
            let unknown = || Refusal::new(RefusalCode::UnknownRoute, format!("there is no section [routes.{name}]"));
            route.ok_or_else(unknown)?.targets.clone()
        }
    };
    for target in &mut targets {
        target.add_parameters(&to.parameters);
    }
    Ok(targets)
}
