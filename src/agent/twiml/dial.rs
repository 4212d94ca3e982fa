//! `<Dial>`: people are called, and the first who answers joins the caller; when they part, the app has the caller back.

use std::rc::Rc;

use serde_json::Value;
use tracing::info;

use super::status::Told;
use super::{Context, Done, Run};
use crate::agent::AgentTarget;
use crate::agent::dialect::identity::Parties;
use crate::call::event::CallEvent;
use crate::clock;
use crate::egress::{Hosts, Use};
use crate::sip::{Host, SipUri};
use crate::twilio::interpreter::{DialStatus, Input, Request};
use crate::twilio::twiml::{Callee, Dial};
use crate::twilio::{API_VERSION, call_sid, rfc2822};

/// What a caller hears while somebody is dialled.
const RINGBACK: &str = "ringback";

/// One who is called.
pub(super) struct Leg {
    /// By which the app knows this call.
    call_sid: String,
    /// Whom the document named.
    called: String,
    /// While it rings or talks.
    participant: Option<u32>,
}

impl Run {
    pub(super) fn dial(&mut self, dial: Dial) {
        let context = self.context.clone();
        if dial.has_caller_id {
            let advice = "identity and caller_identity of the trunk say whom the callee sees";
            let id = context.port.call_id();
            info!(call.id = %id, "callerId of <Dial> is not honoured in call {id}: {advice}");
        }
        let legs = dial.nouns.iter().map(|noun| Leg::of(&noun.callee)).collect();
        context.legs.replace(legs);
        self.start(async move { Done::Dialled(invite(&context, &dial).await) });
    }

    /// The caller hears that somebody is called.
    pub(super) fn ring(&mut self) {
        let ringback = self.context.port.prompts().get(RINGBACK);
        // Without it the caller hears silence.
        self.ringback = ringback.and_then(|prompt| self.context.port.play(vec![prompt], true).ok());
    }

    /// What an event says of those who are dialled.
    pub(super) fn read_dial_event(&mut self, event: &CallEvent) -> Option<Input> {
        let participant = event.data["guest_id"].as_u64();
        let is_it = |leg: &Leg| participant.is_some() && leg.participant.map(u64::from) == participant;
        let callee = self.context.legs.borrow().iter().position(is_it)?;
        match event.kind {
            "call.guest_joined" => {
                self.stop_ringback();
                Some(Input::DialAnswered(callee))
            }
            "call.guest_left" => {
                self.context.legs.borrow_mut()[callee].participant = None;
                self.stop_unheard_ringback();
                Some(Input::DialEnded(callee, status_of(&event.data)))
            }
            _ => None,
        }
    }

    pub(super) fn stop_dial(&mut self, callee: usize) {
        let participant = self.context.legs.borrow_mut().get_mut(callee).and_then(|leg| leg.participant.take());
        match participant {
            Some(participant) => self.context.port.dismiss(participant),
            // Nobody was called yet.
            None => self.job = None,
        }
        self.stop_unheard_ringback();
    }

    /// Nobody who is dialled stays.
    pub(super) fn stop_dials(&mut self) {
        let callees = self.context.legs.borrow().len();
        (0..callees).for_each(|callee| self.stop_dial(callee));
    }

    pub(super) fn tell_of_leg(&mut self, request: Request) {
        let Some(form) = self.context.fields_of_leg(&request) else { return };
        self.tell(Told { url: request.url, method: request.method, form });
    }

    fn stop_unheard_ringback(&mut self) {
        if self.context.legs.borrow().iter().all(|leg| leg.participant.is_none()) {
            self.stop_ringback();
        }
    }

    fn stop_ringback(&mut self) {
        if self.ringback.take().is_some() {
            self.context.port.stop_playback();
        }
    }
}

impl Leg {
    fn of(callee: &Callee) -> Self {
        let called = match callee {
            Callee::Sip(called) | Callee::Number(called) => called.clone(),
            Callee::Route(name) => format!("client:{name}"),
        };
        Self { call_sid: format!("CA{:032x}", rand::random::<u128>()), called, participant: None }
    }
}

impl Context {
    /// The id of the callee's call that a request is about.
    pub(super) fn call_sid_of_leg(&self, callee: Option<usize>) -> Option<String> {
        self.legs.borrow().get(callee?).map(|leg| leg.call_sid.clone())
    }

    /// What the status callback of a callee is told.
    fn fields_of_leg(&self, request: &Request) -> Option<Vec<(String, String)>> {
        let legs = self.legs.borrow();
        let leg = legs.get(request.callee?)?;
        let account = self.twilio()?;
        let from = Parties::of(&account.with_number(self.port.description())).from;
        let own = [
            ("CallSid", leg.call_sid.clone()),
            ("ParentCallSid", call_sid(self.port.call_id())),
            ("AccountSid", account.sid.clone()),
            ("From", from.clone()),
            ("To", leg.called.clone()),
            ("Caller", from),
            ("Called", leg.called.clone()),
            ("Direction", "outbound-dial".to_owned()),
            ("ApiVersion", API_VERSION.to_owned()),
            ("CallbackSource", "call-progress-events".to_owned()),
            ("Timestamp", rfc2822(clock::wall())),
        ];
        let fields = own.into_iter().chain(request.fields.iter().cloned());
        Some(fields.map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

/// Calls everybody at once, as soon as all are known.
async fn invite(context: &Rc<Context>, dial: &Dial) -> Result<(), String> {
    let mut targets = Vec::new();
    for noun in &dial.nouns {
        targets.push(target_of(context, &noun.callee).await?);
    }
    for (leg, target) in context.legs.borrow_mut().iter_mut().zip(targets) {
        leg.participant = Some(context.port.invite(target).map_err(|refusal| refusal.message)?);
    }
    Ok(())
}

/// How a callee left, by the data of `call.guest_left`.
fn status_of(data: &Value) -> DialStatus {
    match (data["reason"].as_str(), data["sip_code"].as_u64()) {
        (Some("left"), _) => DialStatus::Completed,
        (Some("busy" | "declined"), _) | (_, Some(486 | 600 | 603)) => DialStatus::Busy,
        (Some("no_answer"), _) | (_, Some(408 | 480)) => DialStatus::NoAnswer,
        _ => DialStatus::Failed,
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
            let pattern = context.twilio().and_then(|account| account.dial_number.as_ref());
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
