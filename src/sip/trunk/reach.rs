//! Reach: a call through a trunk, at its servers one after the other, until one gives a final answer.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::info;

use super::{Trunk, TrunkCall};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::clock;
use crate::sip::leg::{Callee, HangUp, Invite, SipEvent};
use crate::sip::outgoing::{ANSWERS_WITHIN, AnsweredPhone, Attempt, Caller, Unanswered};
use crate::sip::user_agent::Stack;

/// Gives the phone that answered; None if the agent is not wanted any more.
pub(in crate::sip) async fn reach(
    stack: &Arc<Stack>,
    invite: &Invite,
    call: &TrunkCall,
    events: &mpsc::Sender<SipEvent>,
    commands: &mut mpsc::Receiver<HangUp>,
) -> Result<Option<AnsweredPhone>, AgentFailure> {
    let trunk = &call.trunk;
    let invite = &trunk.with_headers(invite);
    let order = trunk.targets().order(clock::now());
    let mut earlier = Vec::new();
    for (place, index) in order.iter().enumerate() {
        let to = call.at(*index);
        let attempt = Attempt {
            invite,
            to: &to,
            caller: trunk.caller(invite.number.as_deref()),
            auth: trunk.account.clone(),
            answers_within: Some(ANSWERS_WITHIN),
        };
        let Unanswered { how, failure } = match attempt.ring(stack, events, commands).await {
            Ok(answered) => {
                if answered.is_some() {
                    trunk.targets().answered(*index);
                    trunk.count(*index, "answered");
                }
                return Ok(answered);
            }
            Err(unanswered) => unanswered,
        };
        trunk.targets().failed(*index, how, clock::now());
        trunk.count(*index, how.name());
        if !how.has_next() || place + 1 == order.len() {
            return Err(with_earlier(failure, *index, &earlier));
        }
        let (id, name, target) = (invite.call_id().unwrap_or_default(), trunk.name(), index + 1);
        let cause = failure.detail.as_deref().unwrap_or_default();
        info!(call.id = id, "target {target} of trunk {name} did not take call {id} ({cause}): the next is called");
        earlier.push(format!("target {target}: {cause}"));
    }
    Err(AgentFailureKind::NotConfigured.into())
}

/// The failure says which server had the last word, and what the others said before.
fn with_earlier(failure: AgentFailure, index: usize, earlier: &[String]) -> AgentFailure {
    if earlier.is_empty() {
        return failure;
    }
    let last = failure.detail.as_deref().unwrap_or_default();
    let all = format!("{last} (target {}; before it {})", index + 1, earlier.join("; "));
    AgentFailure { sip_code: failure.sip_code, ..failure.kind.because(all) }
}

impl TrunkCall {
    /// The number at one of the servers.
    fn at(&self, index: usize) -> Callee {
        let mut uri = self.trunk.options.targets[index].clone();
        uri.user = Some(self.number.clone());
        Callee::Address(uri)
    }
}

impl Trunk {
    /// With the trunk's headers; those of the route, and our own, go before them.
    fn with_headers(&self, invite: &Invite) -> Invite {
        let is_new = |name: &str| !invite.headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        let more = self.options.headers.iter().filter(|(name, _)| is_new(name)).cloned();
        Invite { headers: invite.headers.iter().cloned().chain(more).collect(), ..invite.clone() }
    }

    /// Who calls: the person's number only if the trunk may learn it.
    fn caller(&self, number: Option<&str>) -> Caller {
        let identity = self.options.identity.as_ref();
        let host = identity.map(|identity| identity.host.clone());
        match (number.filter(|_| self.options.gives_number), identity.and_then(|identity| identity.user.clone())) {
            (Some(digits), _) => Caller { user: format!("+{digits}"), host, is_asserted: true },
            (None, Some(user)) => Caller { user, host, is_asserted: true },
            (None, None) => Caller::us(),
        }
    }

    fn count(&self, index: usize, outcome: &'static str) {
        let (trunk, target) = (self.name().to_owned(), self.options.targets[index].to_string());
        metrics::counter!("patchcord_sip_trunk_calls_total", "trunk" => trunk, "target" => target, "outcome" => outcome)
            .increment(1);
    }
}
