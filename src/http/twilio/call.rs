//! A call as Twilio's API shows it, live or past.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::agent::dialect::identity::Parties;
use crate::call::description::{CallDescription, CallDirection};
use crate::call::event::CallId;
use crate::calls::snapshot::CallSnapshot;
use crate::store::CallRecord;
use crate::twilio::{API_VERSION, Account, call_sid, rfc2822, status_of_end};

/// What is known of a call.
pub(super) struct Known {
    id: CallId,
    description: CallDescription,
    pub status: &'static str,
    began_at: SystemTime,
    pub accepted_at: Option<SystemTime>,
    pub ended_at: Option<SystemTime>,
}

impl Known {
    pub fn of_live(call: &CallSnapshot) -> Self {
        let (facts, stages) = (&call.facts, &call.status.stages);
        let accepted_at = stages.accepted.map(|after| facts.began_at + after);
        let rings = stages.ringing.is_some() || facts.description.direction == CallDirection::UserInitiated;
        let status = match (accepted_at, rings) {
            (Some(_), _) => "in-progress",
            (None, true) => "ringing",
            (None, false) => "queued",
        };
        Self {
            id: facts.id.clone(),
            description: facts.description.clone(),
            status,
            began_at: facts.began_at,
            accepted_at,
            ended_at: None,
        }
    }

    pub fn of_record(record: &CallRecord, id: CallId) -> Self {
        let status = match record.end_reason() {
            Some(reason) => status_of_end(record.accepted_at.is_some(), reason),
            None => "in-progress",
        };
        Self {
            id,
            description: record.description.clone(),
            status,
            began_at: record.began_at,
            accepted_at: record.accepted_at,
            ended_at: record.ended_at(),
        }
    }
}

pub(super) fn call_json(call: &Known, account: &Account) -> Value {
    let Parties { from, to } = Parties::of(&account.with_number(&call.description));
    let sid = call_sid(&call.id);
    let talked = call.accepted_at.zip(call.ended_at);
    let talked = talked.map(|(from, to)| to.duration_since(from).unwrap_or_default().as_secs().to_string());
    let direction = match call.description.direction {
        CallDirection::UserInitiated => "inbound",
        CallDirection::BusinessInitiated => "outbound-api",
    };
    let account_sid = &account.sid;
    let uri = format!("/{API_VERSION}/Accounts/{account_sid}/Calls/{sid}.json");
    json!({
        "sid": sid,
        "account_sid": account_sid,
        "api_version": API_VERSION,
        "status": call.status,
        "direction": direction,
        "from": from,
        "from_formatted": from,
        "to": to,
        "to_formatted": to,
        "caller_name": call.description.user.name,
        "date_created": rfc2822(call.began_at),
        "date_updated": rfc2822(call.ended_at.or(call.accepted_at).unwrap_or(call.began_at)),
        "start_time": call.accepted_at.map(rfc2822),
        "end_time": call.ended_at.map(rfc2822),
        "duration": talked,
        "answered_by": null,
        "forwarded_from": null,
        "group_sid": null,
        "parent_call_sid": null,
        "phone_number_sid": null,
        "price": null,
        "price_unit": "USD",
        "queue_time": "0",
        "trunk_sid": null,
        "annotation": null,
        "uri": uri,
        "subresource_uris": {},
    })
}
