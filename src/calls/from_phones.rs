//! Calls from phones: a SIP phone dials a WhatsApp user, we place the call, and the phone is its agent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use tracing::info;

use super::origin::Placement;
use super::{Agents, CallOrder, Calls};
use crate::agent::CallingPhone;
use crate::call::command::{CallCommand, CourseCommand};
use crate::call::event::{CallEvent, CallId};
use crate::call::refusal::{Refusal, RefusalCode};
use crate::egress::Hosts;
use crate::sip::{IncomingCall, PhoneCaller, Responder};
use crate::whatsapp::PhoneNumberId;
use crate::whatsapp::graph::Callee;

/// How long the person's phone rings; the SIP phone gives up earlier if its user does.
const RINGS_FOR: Duration = Duration::from_secs(45);

/// Who may call, and from which number. Nobody by default: a call costs money.
#[derive(Clone, Debug, Default)]
pub struct PhoneRules {
    /// By name of the user.
    pub users: HashMap<String, PhoneRule>,
    /// By name of the trunk.
    pub trunks: HashMap<String, PhoneRule>,
}

/// What the phones of one user, or behind one trunk, may do.
#[derive(Clone, Debug, Default)]
pub struct PhoneRule {
    /// Whether they may call.
    pub may_call: bool,
    /// The business number to call from; None for the only one there is.
    pub number: Option<PhoneNumberId>,
}

/// Takes calls of phones until the user agent stops.
pub async fn run(
    mut incoming: mpsc::Receiver<IncomingCall>,
    calls: Calls,
    rules: PhoneRules,
    events: broadcast::Sender<CallEvent>,
) {
    let rules = Arc::new(rules);
    let mut following = JoinSet::new();
    while let Some(call) = incoming.recv().await {
        while following.try_join_next().is_some() {}
        following.spawn(place(call, calls.clone(), rules.clone(), events.subscribe()));
    }
}

async fn place(call: IncomingCall, calls: Calls, rules: Arc<PhoneRules>, mut events: broadcast::Receiver<CallEvent>) {
    let IncomingCall { caller, dialled, parameters, phone } = call;
    let responder = phone.responder.clone();
    let rule = rules.of(&caller).filter(|rule| rule.may_call);
    let Some(rule) = rule else { return refuse(&responder, 403, "calls_not_allowed") };
    let Some(callee) = callee_of(&dialled) else { return refuse(&responder, 484, "number_invalid") };
    let client_state = (!parameters.is_empty()).then(|| json!(parameters).to_string());
    let order = CallOrder {
        placement: Placement { callee, tracker: None, ring_timeout: RINGS_FOR },
        phone_number_id: rule.number.clone(),
        agents: Agents::Phone(CallingPhone::new(phone)),
        parameters,
        client_state,
        status_callback: None,
    };
    let id = match calls.place(order, Hosts::Listed).await {
        Ok(call) => call.facts.id.clone(),
        Err(refusal) => {
            let (code, reason) = code_of_refusal(&refusal);
            return refuse(&responder, code, reason);
        }
    };
    info!(call.id = %id, "a phone of {} places call {id}", caller.name());
    tokio::select! {
        () = follow(&id, &calls, &responder, &mut events) => {}
        () = responder.gave_up() => {
            // The agent hangs up too, if it is there already. The call may have ended by itself.
            let _ = calls.perform(&id, CallCommand::Course(CourseCommand::Hangup), None, Hosts::Listed).await;
        }
    }
}

/// Says to the phone how its call goes, until it is accepted or over.
async fn follow(id: &CallId, calls: &Calls, responder: &Responder, events: &mut broadcast::Receiver<CallEvent>) {
    loop {
        match events.recv().await {
            Ok(event) if event.call_id != *id => {}
            Ok(event) => match event.kind {
                "call.ringing" => responder.rings(),
                "call.accepted" => return metrics::counter!("patchcord_sip_calls_taken_total").increment(1),
                "call.ended" => {
                    let (code, reason) = code_of_end(&event.data);
                    return refuse(responder, code, reason);
                }
                _ => {}
            },
            // What was missed may have been the end.
            Err(broadcast::error::RecvError::Lagged(_)) if calls.get(id).is_some() => {}
            Err(_) => return refuse(responder, 500, "internal_error"),
        }
    }
}

fn refuse(responder: &Responder, code: u16, reason: &'static str) {
    metrics::counter!("patchcord_sip_calls_refused_total", "reason" => reason).increment(1);
    responder.refuse(code, reason);
}

impl PhoneRules {
    fn of(&self, caller: &PhoneCaller) -> Option<&PhoneRule> {
        match caller {
            PhoneCaller::User(name) => self.users.get(name),
            PhoneCaller::Trunk(name) => self.trunks.get(name),
        }
    }
}

/// The person that a phone has dialled: a number with its country code, behind `+`, `00` or nothing, and with the signs that
/// people write into numbers (RFC 3966 §5.1.1).
fn callee_of(dialled: &str) -> Option<Callee> {
    let digits: String = dialled.chars().filter(|sign| !"-.() ".contains(*sign)).collect();
    Callee::number(digits.strip_prefix("00").unwrap_or(&digits)).ok()
}

/// The answer to a phone whose call could not be placed.
fn code_of_refusal(refusal: &Refusal) -> (u16, &'static str) {
    use RefusalCode as Code;
    let is_temporary = matches!(
        refusal.code,
        Code::Overloaded | Code::ShuttingDown | Code::NumberRateLimited | Code::NumberDayLimit | Code::NumberBusy
    );
    let is_forbidden =
        matches!(refusal.code, Code::NoPermission | Code::CallLimit | Code::CountryNotSupported | Code::CallingPaused);
    let code = match (is_temporary, is_forbidden) {
        (true, _) => 503,
        (false, true) => 403,
        (false, false) => 500,
    };
    (code, refusal.code.name())
}

/// The answer to a phone whose call has ended before it was accepted.
fn code_of_end(ended: &Value) -> (u16, &'static str) {
    let code_of_meta = ended["meta_error_code"].as_i64();
    match ended["reason"].as_str().unwrap_or_default() {
        "no_permission" => (403, "no_permission"),
        "call_limit" => (403, "call_limit"),
        "country_not_supported" => (403, "country_not_supported"),
        "calling_paused" => (403, "calling_paused"),
        "callee_busy" => (486, "callee_busy"),
        "callee_declined" => (603, "callee_declined"),
        "no_answer" => (480, "no_answer"),
        "callee_unreachable" => (404, "callee_unreachable"),
        "overloaded" => (503, "overloaded"),
        "number_overloaded" => (503, "number_overloaded"),
        "shutting_down" => (503, "shutting_down"),
        // Meta's word for a parameter, which is the number here.
        "connect_failed" if code_of_meta == Some(100) => (484, "number_invalid"),
        "connect_failed" => (502, "connect_failed"),
        "answer_refused" => (502, "answer_refused"),
        "media_never_connected" => (504, "media_never_connected"),
        "hung_up_by_api" => (480, "hung_up_by_api"),
        _ => (500, "call_failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_as_people_dial_them() {
        let is = |dialled: &str| matches!(callee_of(dialled), Some(Callee::WaId(digits)) if digits == "12025550143");
        for dialled in ["12025550143", "+12025550143", "0012025550143", "+1-202-555.0143", "+1 (202) 5550143"] {
            assert!(is(dialled), "{dialled}");
        }
        for dialled in ["", "0202555", "alice", "+1202555014312345", "123", "+"] {
            assert!(callee_of(dialled).is_none(), "{dialled}");
        }
    }

    #[test]
    fn each_end_has_a_code_for_the_phone() {
        let code = |ended: Value| code_of_end(&ended).0;
        assert_eq!(code(json!({ "reason": "no_permission" })), 403);
        assert_eq!(code(json!({ "reason": "callee_busy" })), 486);
        assert_eq!(code(json!({ "reason": "callee_declined" })), 603);
        assert_eq!(code(json!({ "reason": "no_answer" })), 480);
        assert_eq!(code(json!({ "reason": "connect_failed", "meta_error_code": 100 })), 484);
        assert_eq!(code(json!({ "reason": "connect_failed", "meta_error_code": 4 })), 502);
        assert_eq!(code(json!({ "reason": "something_new" })), 500);
    }
}
