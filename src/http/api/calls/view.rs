//! A call as the API shows it: one shape for live and past calls.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::super::rfc3339;
use crate::call::description::{BusinessNumber, WhatsAppUser};
use crate::call::usage::ModelUsage;
use crate::calls::snapshot::{AgentFacts, CallSnapshot, TransferFacts};
use crate::clock;
use crate::store::CallRecord;

/// The state of a call that is being ended at Meta or whose recording is being closed. After a crash, also of a call that the
/// next start has not ended yet.
pub(super) const ENDING: &str = "ending";

/// One call, live or past.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct CallView {
    /// Our id; sorts by the start of the call.
    #[schema(example = "call_01k0000000000000000000000")]
    pub(super) id: String,
    /// Meta's id; null until Meta has named the call. It contains the caller's number.
    wacid: Option<String>,
    /// `answering` (or `placing`, for a call that you place), `ringing`, `accepting`, `talking`, briefly `ending`, and
    /// `ended`.
    state: &'static str,
    /// `user_initiated` or `business_initiated`.
    direction: &'static str,
    /// Who exchanges its messages with Meta: `graph`, Patchcord by the Graph API, or `external`, your app.
    signaling: &'static str,
    /// Yours, of a call that you place or signal.
    tracker: Option<String>,
    from: CallerView,
    to: NumberView,
    /// Name of the route.
    route: String,
    /// The last `client_state` given with an action.
    client_state: Option<String>,
    /// The agent that has the caller; null while none has, and after the end.
    agent: Option<CallAgentView>,
    /// The transfer that is under way, if one is.
    transfer: Option<TransferView>,
    /// The queue in which the caller waits, or from which its agent took it; null after the end.
    queue: Option<String>,
    /// Whether the caller is on hold.
    on_hold: bool,
    /// The last estimate, with the fields of `call.quality`; null before the first, which comes 10 s after accept, and after
    /// the end.
    #[schema(value_type = Option<Object>)]
    quality: Value,
    /// `agent.attempt`, as earlier versions named it.
    agent_attempt: Option<usize>,
    /// Arrival of Meta's webhook: RFC 3339, UTC.
    began_at: String,
    /// Meta's confirmation of our accept: RFC 3339, UTC.
    accepted_at: Option<String>,
    /// End of the call: RFC 3339, UTC; null while it is live.
    ended_at: Option<String>,
    /// From the start until now, or until its end.
    duration_ms: u64,
    /// From accept until now, or until its end; null before accept.
    talked_ms: Option<u64>,
    /// Milliseconds from the webhook to each stage; null for stages that were not reached.
    #[schema(value_type = Option<Object>)]
    stages: Value,
    /// Ids of its recordings.
    recordings: Vec<String>,
    /// Agents of queues that had the caller, by name.
    pub(super) agents: Vec<String>,
    /// Why it ended; null while it is live, like all fields below.
    reason: Option<String>,
    /// Who caused it: `nobody`, `caller`, `agent`, `meta`, `operator` or `patchcord`.
    fault: Option<String>,
    /// Who hung up: `caller`, `agent`, `app`, `meta` or `patchcord`.
    hung_up_by: Option<String>,
    /// Meta's error code, where one ended the call.
    meta_error_code: Option<i64>,
    /// Counters and quality of the audio.
    #[schema(value_type = Option<Object>)]
    sound: Value,
    /// What each speech model of the call has used, so far or in all.
    usage: Vec<ModelUsage>,
}

/// An agent in a call.
#[derive(Serialize, ToSchema)]
pub(super) struct CallAgentView {
    /// `person`, `websocket` or `browser`.
    kind: &'static str,
    /// The name of a person, or the address without secrets.
    name: String,
    /// Its number among the call's attempts: the route's agent and fallbacks, then those of commands.
    attempt: usize,
}

/// A transfer that is under way.
#[derive(Serialize, ToSchema)]
pub(super) struct TransferView {
    /// The agent that is to take over; of the kind `queue` while nobody of the queue has answered.
    to: CallAgentView,
    /// `asking`, or `consulting` while both agents talk.
    stage: &'static str,
}

/// The caller. Each field may be null.
#[derive(Default, Serialize, Deserialize, ToSchema)]
pub(in crate::http::api) struct CallerView {
    /// The phone number in digits.
    wa_id: Option<String>,
    /// The business-scoped user id.
    user_id: Option<String>,
    name: Option<String>,
}

/// The called number.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct NumberView {
    /// Meta's id of the number.
    pub(in crate::http::api) phone_number_id: String,
    /// The number as people write it.
    pub(in crate::http::api) display_phone_number: Option<String>,
}

/// The name of a live call's state.
pub(super) fn state_of(live: &CallSnapshot) -> &'static str {
    // `ended` is shown once the record has the end.
    if live.status.state == "ended" { ENDING } else { live.status.state }
}

/// Whether the live state suffices, without the record.
pub(super) fn is_complete(live: &CallSnapshot) -> bool {
    state_of(live) != ENDING
}

impl CallView {
    /// Combines record and live state; None if there is neither.
    pub(super) fn of(record: Option<CallRecord>, live: Option<CallSnapshot>) -> Option<Self> {
        match (record, live) {
            (record, Some(live)) if record.as_ref().is_none_or(|record| record.end.is_none()) => {
                Some(Self::of_live(&live))
            }
            (Some(record), _) => Some(Self::of_record(record)),
            (None, _) => None,
        }
    }

    pub(super) fn of_live(live: &CallSnapshot) -> Self {
        let (facts, call, stages) = (&live.facts, &live.facts.description, live.status.stages.to_json());
        Self {
            id: facts.id.to_string(),
            wacid: live.status.wacid.clone().or_else(|| call.wacid.clone()),
            state: state_of(live),
            direction: call.direction.name(),
            signaling: facts.signaling.name(),
            tracker: facts.tracker.clone(),
            from: CallerView::of(call.user.clone()),
            to: NumberView::of(call.number.clone()),
            route: facts.route.clone(),
            client_state: live.status.client_state.clone(),
            agent: live.status.agent.as_ref().map(CallAgentView::of),
            transfer: live.status.transfer.as_ref().map(TransferView::of),
            queue: live.status.queue.as_ref().map(ToString::to_string),
            on_hold: live.status.is_held,
            quality: live.status.quality.clone(),
            agent_attempt: live.status.agent.as_ref().map(|agent| agent.attempt.number()),
            began_at: rfc3339(facts.began_at),
            accepted_at: accepted_at(facts.began_at, &stages).map(rfc3339),
            ended_at: None,
            duration_ms: live.duration().as_millis() as u64,
            talked_ms: live.talked().map(|talked| talked.as_millis() as u64),
            stages,
            recordings: live.status.recordings.clone(),
            agents: live.status.agents.clone(),
            reason: None,
            fault: None,
            hung_up_by: None,
            meta_error_code: None,
            sound: Value::Null,
            usage: live.status.usage.sums(clock::now()),
        }
    }

    fn of_record(record: CallRecord) -> Self {
        let end = record.end.as_ref();
        let until = record.ended_at().unwrap_or_else(clock::wall);
        let since = |from: SystemTime| until.duration_since(from).unwrap_or_default().as_millis() as u64;
        let stages = end.map_or(Value::Null, |end| end.stages.clone());
        let stage = |name: &str| stages[name].as_f64();
        let (ended, accepted) = (stage("ended_ms"), stage("accepted_ms"));
        let accepted_at = accepted_at(record.began_at, &stages);
        let talked = ended.zip(accepted).map(|(ended, accepted)| (ended - accepted).max(0.0) as u64);
        Self {
            state: if end.is_some() { "ended" } else { ENDING },
            direction: record.description.direction.name(),
            signaling: record.signaling.name(),
            tracker: record.tracker,
            agent: None,
            transfer: None,
            queue: None,
            on_hold: false,
            quality: Value::Null,
            agent_attempt: None,
            began_at: rfc3339(record.began_at),
            accepted_at: accepted_at.or(record.accepted_at).map(rfc3339),
            ended_at: end.map(|end| rfc3339(end.at)),
            duration_ms: ended.map_or_else(|| since(record.began_at), |ended| ended as u64),
            talked_ms: talked.or_else(|| record.accepted_at.map(since)),
            reason: end.map(|end| end.reason.clone()),
            fault: end.map(|end| end.fault.clone()),
            hung_up_by: end.map(|end| end.hung_up_by.clone()),
            meta_error_code: end.and_then(|end| end.meta_error_code),
            sound: end.map_or(Value::Null, |end| end.sound.clone()),
            id: record.call_id,
            wacid: record.description.wacid,
            from: CallerView::of(record.description.user),
            to: NumberView::of(record.description.number),
            route: record.route,
            client_state: record.client_state,
            stages,
            recordings: record.recordings,
            agents: record.agents,
            usage: record.usage,
        }
    }
}

impl CallerView {
    fn of(user: WhatsAppUser) -> Self {
        let WhatsAppUser { wa_id, user_id, name } = user;
        Self { wa_id, user_id, name }
    }
}

impl NumberView {
    fn of(number: BusinessNumber) -> Self {
        let BusinessNumber { phone_number_id, display_phone_number } = number;
        Self { phone_number_id, display_phone_number }
    }
}

impl CallAgentView {
    fn of(agent: &AgentFacts) -> Self {
        Self { kind: agent.kind, name: agent.name.clone(), attempt: agent.attempt.number() }
    }
}

impl TransferView {
    fn of(transfer: &TransferFacts) -> Self {
        Self { to: CallAgentView::of(&transfer.to), stage: transfer.stage.name() }
    }
}

/// The stages are measured by a monotonic clock.
fn accepted_at(began_at: SystemTime, stages: &Value) -> Option<SystemTime> {
    let after_ms = stages["accepted_ms"].as_f64()?;
    Some(began_at + Duration::from_secs_f64(after_ms.max(0.0) / 1e3))
}
