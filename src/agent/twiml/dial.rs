//! `<Dial>`: somebody is called and joins the caller; when they part, the app has the caller back.

use crate::agent::AgentTarget;
use crate::egress::{Hosts, Use};
use crate::sip::{Host, SipUri};

use super::{Callee, Context, Done, RINGBACK, Run};

impl Run {
    pub(super) fn dial(&mut self, callee: Callee) {
        let context = self.context.clone();
        self.start(async move {
            let target = target_of(&context, &callee).await;
            let invited = target.and_then(|target| context.port.invite(target).map_err(|refusal| refusal.message));
            Done::Dialled(invited.map(|participant| context.dialled.set(Some(participant))))
        });
    }

    /// The caller hears that somebody is called.
    pub(super) fn ring(&mut self) {
        let ringback = self.context.port.prompts().get(RINGBACK);
        // Without it the caller hears silence.
        self.ringback = ringback.and_then(|prompt| self.context.port.play(vec![prompt], true).ok());
    }

    pub(super) fn stop_ringback(&mut self) {
        if self.ringback.take().is_some() {
            self.context.port.stop_playback();
        }
    }

    pub(super) fn stop_dial(&mut self) {
        self.stop_ringback();
        if let Some(participant) = self.context.dialled.take() {
            self.context.port.dismiss(participant);
        }
    }
}

/// Whom a document names. The error is for people.
async fn target_of(context: &Context, callee: &Callee) -> Result<AgentTarget, String> {
    match callee {
        Callee::Route(name) => {
            let route = context.options.settings.get().routes.get(name);
            let agent = route.and_then(|route| route.first_agent().cloned());
            // What an app calls its clients may be personal, and this is logged.
            agent.ok_or_else(|| "<Client> names no route whose agent can be dialled".to_owned())
        }
        Callee::Number(number) => {
            let advice = "set twilio.dial_number, such as \"sip-trunk:pbx/{number}\"";
            let pattern = context.account.dial_number.as_ref();
            let pattern =
                pattern.ok_or_else(|| format!("<Dial> of a number needs a trunk or SIP address: {advice}"))?;
            let target = AgentTarget::parse(&pattern.replace("{number}", number));
            target.map_err(|wrong| format!("twilio.dial_number: {wrong}"))
        }
        Callee::Sip(text) => {
            let uri = SipUri::parse_referred(text).map_err(|wrong| format!("<Sip>: {wrong}"))?;
            // The document is foreign, as the URLs in it are.
            let host = match &uri.host {
                Host::Name(name) => name.clone(),
                Host::Address(address) if address.is_ipv6() => format!("[{address}]"),
                Host::Address(address) => address.to_string(),
            };
            let egress = &context.options.settings.get().egress;
            let checked = egress.check(&format!("https://{host}"), Use::Web, Hosts::Listed).await;
            checked.map_err(|refused| format!("<Sip>: {refused}"))?;
            Ok(AgentTarget::Sip(uri))
        }
    }
}
