//! A call as the API shows it: one shape from its first moment to long after its end.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::super::rfc3339;
use crate::call::Attempt;
use crate::calls::snapshot::CallSnapshot;
use crate::store::CallRecord;
use crate::whatsapp::webhook::Direction;

/// Over, but not yet everywhere: Meta is told, or the disk closes a recording. After a crash, a call that the next start
/// has not come to.
pub(super) const ENDING: &str = "ending";

/// One call, live or past.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct CallView {
    /// Ours; sorts by the time the call began.
    #[schema(example = "call_01k0000000000000000000000")]
    pub(super) id: String,
    /// Meta's id. It contains the caller's number.
    wacid: Option<String>,
    /// `answering`, `ringing`, `accepting`, `talking`, for a moment `ending`, and `ended`.
    state: &'static str,
    /// `user_initiated` or `business_initiated`.
    direction: &'static str,
    from: CallerView,
    to: NumberView,
    /// The route by its name.
    route: String,
    /// What the app keeps with the call: the last `client_state` given with an action.
    client_state: Option<String>,
    /// The place, among the route's agent and fallbacks, of the agent that joined last; null while there is none.
    agent_attempt: Option<usize>,
    /// When Meta's webhook came: RFC 3339, UTC.
    began_at: String,
    /// When Meta confirmed our accept.
    accepted_at: Option<String>,
    /// Null while it lives.
    ended_at: Option<String>,
    /// From its beginning until now, or its end.
    duration_ms: u64,
    /// From accept until now, or its end; null before.
    talked_ms: Option<u64>,
    /// When each stage was reached, in milliseconds from the webhook; null for those that were not.
    #[schema(value_type = Option<Object>)]
    stages: Value,
    /// Ids of its recordings.
    recordings: Vec<String>,
    /// Why it ended; null while it lives, as everything below.
    reason: Option<String>,
    /// Whose fault it was: `nobody`, `caller`, `agent`, `meta`, `operator` or `patchcord`.
    fault: Option<String>,
    /// `caller`, `agent`, `app`, `meta` or `patchcord`.
    hung_up_by: Option<String>,
    /// Meta's error code, where one ended the call.
    meta_error_code: Option<i64>,
    /// Counts and quality of its sound.
    #[schema(value_type = Option<Object>)]
    sound: Value,
}

/// Who calls. Each part may be missing.
#[derive(Default, Serialize, Deserialize, ToSchema)]
pub(super) struct CallerView {
    /// The phone number in digits.
    wa_id: Option<String>,
    /// The business-scoped user id.
    user_id: Option<String>,
    name: Option<String>,
}

/// The number that is called.
#[derive(Serialize, ToSchema)]
pub(super) struct NumberView {
    /// Meta's id of the number.
    phone_number_id: String,
    /// As people write it.
    display_phone_number: Option<String>,
}

/// The word for how a live call stands.
pub(super) fn state_of(live: &CallSnapshot) -> &'static str {
    // Its end is told when its record has it.
    if live.status.state == "ended" { ENDING } else { live.status.state }
}

/// Whether all that can be said of it is known without a look at its record.
pub(super) fn is_complete(live: &CallSnapshot) -> bool {
    state_of(live) != ENDING
}

impl CallView {
    /// What is known of it together; None if nothing is.
    pub(super) fn of(record: Option<CallRecord>, live: Option<CallSnapshot>) -> Option<Self> {
        match (record, live) {
            (record, Some(live)) if record.as_ref().is_none_or(|record| record.ended_at.is_none()) => {
                Some(Self::of_live(&live))
            }
            (Some(record), _) => Some(Self::of_record(record)),
            (None, _) => None,
        }
    }

    fn of_live(live: &CallSnapshot) -> Self {
        let (facts, stages) = (&live.facts, live.status.stages.to_json());
        Self {
            id: facts.id.to_string(),
            wacid: Some(facts.wacid.clone()),
            state: state_of(live),
            direction: match facts.direction {
                Direction::UserInitiated => "user_initiated",
                Direction::BusinessInitiated => "business_initiated",
            },
            from: CallerView { wa_id: facts.wa_id.clone(), user_id: facts.user_id.clone(), name: facts.name.clone() },
            to: NumberView {
                phone_number_id: facts.phone_number_id.clone(),
                display_phone_number: facts.display_phone_number.clone(),
            },
            route: facts.route.clone(),
            client_state: live.status.client_state.clone(),
            agent_attempt: live.status.agent.map(Attempt::number),
            began_at: rfc3339(facts.began_at),
            accepted_at: accepted_at(facts.began_at, &stages).map(rfc3339),
            ended_at: None,
            duration_ms: live.duration().as_millis() as u64,
            talked_ms: live.talked().map(|talked| talked.as_millis() as u64),
            stages,
            recordings: live.status.recordings.clone(),
            reason: None,
            fault: None,
            hung_up_by: None,
            meta_error_code: None,
            sound: Value::Null,
        }
    }

    fn of_record(record: CallRecord) -> Self {
        let until = record.ended_at.unwrap_or_else(SystemTime::now);
        let since = |from: SystemTime| until.duration_since(from).unwrap_or_default().as_millis() as u64;
        let stage = |name: &str| record.stages[name].as_f64();
        let (ended, accepted) = (stage("ended_ms"), stage("accepted_ms"));
        let accepted_at = accepted_at(record.began_at, &record.stages);
        let talked = ended.zip(accepted).map(|(ended, accepted)| (ended - accepted).max(0.0) as u64);
        Self {
            state: if record.ended_at.is_some() { "ended" } else { ENDING },
            // Patchcord places no calls yet.
            direction: "user_initiated",
            from: serde_json::from_value(record.from).unwrap_or_default(),
            to: NumberView {
                phone_number_id: record.phone_number_id,
                display_phone_number: record.display_phone_number,
            },
            agent_attempt: None,
            began_at: rfc3339(record.began_at),
            accepted_at: accepted_at.or(record.accepted_at).map(rfc3339),
            ended_at: record.ended_at.map(rfc3339),
            duration_ms: ended.map_or_else(|| since(record.began_at), |ended| ended as u64),
            talked_ms: talked.or_else(|| record.accepted_at.map(since)),
            id: record.call_id,
            wacid: record.wacid,
            route: record.route,
            client_state: record.client_state,
            stages: record.stages,
            recordings: record.recordings,
            reason: record.reason,
            fault: record.fault,
            hung_up_by: record.hung_up_by,
            meta_error_code: record.meta_error_code,
            sound: record.sound,
        }
    }
}

/// The stages are counted by a clock that nobody sets.
fn accepted_at(began_at: SystemTime, stages: &Value) -> Option<SystemTime> {
    let after_ms = stages["accepted_ms"].as_f64()?;
    Some(began_at + Duration::from_secs_f64(after_ms.max(0.0) / 1e3))
}
