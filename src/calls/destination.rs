//! The targets that a command names: those of a route, a queue, a person, or the agent of a URL that the egress guard admits.

use crate::agent::{AgentTarget, AudioSocketOptions, OfferOptions, TwimlOptions, WebSocketOptions};
use crate::call::command::Destination;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::egress::{Hosts, Use};
use crate::settings::Settings;
use crate::sip::SipUri;
use crate::twilio::Source;

/// The targets of a destination. A URL's host is resolved here, once, which may take 3 s.
pub async fn targets_of(to: &Destination, settings: &Settings, hosts: Hosts) -> Result<Vec<AgentTarget>, Refusal> {
    if let Some(source) = &to.twiml {
        return Ok(vec![app_of(source, settings, hosts).await?]);
    }
    let mut targets = match (&to.url, &to.queue, &to.agent) {
        (Some(url), ..) => vec![target_at(url, settings, hosts).await?],
        (None, Some(name), _) => {
            let unknown = || Refusal::new(RefusalCode::UnknownQueue, format!("there is no section [queues.{name}]"));
            vec![AgentTarget::Queue(settings.queues.get(name.as_str()).ok_or_else(unknown)?.clone())]
        }
        (None, None, Some(name)) => {
            let unknown = || {
                let advice = format!("no API key with a scope \"agent:QUEUE\" has the id {name:?}");
                Refusal::new(RefusalCode::UnknownAgent, advice)
            };
            vec![AgentTarget::Person(settings.agent_name(name).ok_or_else(unknown)?)]
        }
        (None, None, None) if to.phone.is_some() => {
            let uri = SipUri::parse_referred(to.phone.as_deref().unwrap_or_default());
            vec![AgentTarget::Sip(uri.map_err(|advice| Refusal::new(RefusalCode::InvalidCommand, advice))?)]
        }
        (None, None, None) => {
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

/// TwiML that was given, or the app that answers it.
async fn app_of(source: &Source, settings: &Settings, hosts: Hosts) -> Result<AgentTarget, Refusal> {
    let (url, method) = match source {
        Source::Document(document) => return Ok(AgentTarget::Twiml(TwimlOptions::document(document.clone()))),
        Source::Url(url, method) => (url, *method),
    };
    if let Some(home) = settings.routes.home_of(url) {
        let options = TwimlOptions { home: Some(home.clone()), ..TwimlOptions::at(url.clone(), method, Vec::new()) };
        return Ok(AgentTarget::Twiml(options));
    }
    let found = settings.egress.check(url.as_str(), Use::Web, hosts).await;
    let found = found.map_err(|refused| Refusal::new(refused.code(), format!("Url: {refused}")))?;
    Ok(AgentTarget::Twiml(TwimlOptions::at(found.url().clone(), method, found.addresses().to_vec())))
}

/// The agent at a WebSocket, at an AudioSocket, or behind `offer:` and the URL of an endpoint that answers offers.
async fn target_at(url: &str, settings: &Settings, hosts: Hosts) -> Result<AgentTarget, Refusal> {
    let (text, meant_for) = match url.strip_prefix("offer:") {
        Some(url) => (url, Use::Web),
        None if url.starts_with("audiosocket:") => (url, Use::AudioSocket),
        None => (url, Use::WebSocket),
    };
    let found = settings.egress.check(text, meant_for, hosts).await;
    let found = found.map_err(|refused| Refusal::new(refused.code(), format!("url: {refused}")))?;
    let (url, addresses) = (found.url().clone(), found.addresses().to_vec());
    Ok(match meant_for {
        Use::AudioSocket => {
            let wrong = |advice| Refusal::new(RefusalCode::InvalidUrl, format!("url: {advice}"));
            AgentTarget::AudioSocket(AudioSocketOptions { addresses, ..AudioSocketOptions::read(text).map_err(wrong)? })
        }
        Use::Web => AgentTarget::Offer(OfferOptions { addresses, ..OfferOptions::at(url) }),
        Use::WebSocket => AgentTarget::WebSocket(WebSocketOptions { addresses, ..WebSocketOptions::at(url) }),
    })
}
