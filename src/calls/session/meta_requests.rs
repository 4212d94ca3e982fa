//! MetaRequests: what a session asks of Meta for its call, each as a future that gives the call's next input.

use std::sync::Arc;

use futures_util::FutureExt;
use tracing::Instrument;

use crate::call::Input;
use crate::call::end::{EndReason, GraphTrouble};
use crate::call::event::CallId;
use crate::calls::naming::Naming;
use crate::calls::origin::{Origin, Placement};
use crate::calls::terminations::Terminations;
use crate::permissions::Permissions;
use crate::routes::Number;
use crate::settings::CurrentSettings;
use crate::store::{Termination, TerminationAction, Written};
use crate::whatsapp::WaCallId;
use crate::whatsapp::graph::{CallbackData, FailureKind, GraphClient, GraphFailure, NumberCredentials};

/// The requests of one call.
pub(super) struct MetaRequests {
    pub call: CallId,
    /// Meta's id of the call. Only a call that we place begins without one.
    pub wacid: Option<WaCallId>,
    pub number: Arc<Number>,
    pub settings: CurrentSettings,
    pub graph: GraphClient,
    pub terminations: Terminations,
    pub naming: Naming,
    pub permissions: Permissions,
    /// An earlier process may have given Meta another answer.
    pub is_resumed: bool,
}

impl MetaRequests {
    pub fn pre_accept(&self, answer: Arc<str>) -> impl Future<Output = Option<Input>> + use<> {
        let (graph, number, wacid) = (self.graph.clone(), self.credentials(), self.wacid.clone());
        let is_resumed = self.is_resumed;
        async move {
            let result = graph.pre_accept(&number, &wacid?, &answer).await;
            Some(match result {
                // Meta has the answer of the previous process, whose media is gone.
                Ok(done) if is_resumed && done.was_done_before => Input::HangUp(EndReason::ServiceLost),
                Err(failure) if is_resumed && matches!(failure.kind, FailureKind::Refused(_)) => {
                    Input::HangUp(EndReason::ServiceLost)
                }
                result => Input::PreAccepted(result.map(drop).map_err(|failure| trouble(&failure))),
            })
        }
    }

    /// Sends accept once the call's first record is on disk, or its deadline has passed.
    pub fn accept(&self, answer: Arc<str>, first_record: Written) -> impl Future<Output = Option<Input>> + use<> {
        let (graph, number, wacid) = (self.graph.clone(), self.credentials(), self.wacid.clone());
        let tracker = CallbackData::parse(self.call.as_str()).ok();
        async move {
            // The store logs a disk that does not answer in time; the call goes on.
            let _ = first_record.confirmed().await;
            let result = graph.accept(&number, &wacid?, &answer, tracker.as_ref()).await;
            Some(Input::Accepted(result.map(drop).map_err(|failure| trouble(&failure))))
        }
    }

    /// Sends connect once the call's first record is on disk, or its deadline has passed, so that the next process ends
    /// a call that Meta has.
    pub fn connect(
        &self,
        offer: Arc<str>,
        placement: &Placement,
        first_record: Written,
    ) -> impl Future<Output = Option<Input>> + use<> {
        let (graph, number, naming, call) =
            (self.graph.clone(), self.credentials(), self.naming.clone(), self.call.clone());
        let (callee, callback_data) = (placement.callee.clone(), placement.callback_data(&call));
        let permissions = self.permissions.clone();
        async move {
            // The store logs a disk that does not answer in time; the call goes on.
            let _ = first_record.confirmed().await;
            if naming.is_abandoned(&call) {
                naming.refused(&call);
                return None;
            }
            let result = graph.connect(&number, &callee, &offer, Some(&callback_data)).await;
            let outcome = match &result {
                Ok(wacid) => {
                    naming.replied(&call, wacid);
                    Ok(())
                }
                Err(failure) => {
                    if let FailureKind::Refused(error) = &failure.kind {
                        permissions.refused(&number.phone_number_id, &callee, error);
                    }
                    Err(trouble(failure))
                }
            };
            if outcome.is_err_and(|trouble| trouble != GraphTrouble::Unknown) {
                naming.refused(&call);
            }
            Some(Input::Connected(outcome))
        }
    }

    /// Caller and agent talk: the limits of permissions count it.
    pub fn call_answered(&self, origin: &Origin) {
        let (number, call) = (&self.number.phone_number_id, self.call.as_str());
        match origin {
            Origin::Offered(connect) => self.permissions.caller_answered(number, &connect.from, call),
            Origin::Placed(placement) => self.permissions.call_answered(number, &placement.callee, call),
            // The application asks for permissions itself.
            Origin::External(_) => {}
        }
    }

    /// A call that we placed was not answered.
    pub fn call_unanswered(&self, origin: &Origin) {
        if let Origin::Placed(placement) = origin {
            self.permissions.call_unanswered(&self.number.phone_number_id, &placement.callee, self.call.as_str());
        }
    }

    /// Stores the termination at once; the future is its first attempt. None for a call that Meta has not named.
    pub fn end(&self, action: TerminationAction) -> Option<impl Future<Output = Option<Input>> + use<>> {
        let attempt = self.terminations.begin(Termination {
            call_id: self.call.as_str().to_owned(),
            wacid: self.wacid.as_ref()?.as_str().to_owned(),
            phone_number_id: self.number.phone_number_id.as_str().to_owned(),
            action,
        });
        Some(attempt.map(|()| None).in_current_span())
    }

    /// With the number's current token: the one at the call's beginning may have been withdrawn.
    fn credentials(&self) -> NumberCredentials {
        let number = self.settings.get().numbers.get(&self.number.phone_number_id);
        let number = number.as_ref().unwrap_or(&self.number);
        NumberCredentials { phone_number_id: number.phone_number_id.clone(), access_token: number.access_token.clone() }
    }
}

fn trouble(failure: &GraphFailure) -> GraphTrouble {
    match &failure.kind {
        FailureKind::Refused(error) => GraphTrouble::Refused(error.code),
        FailureKind::Unknown(_) => GraphTrouble::Unknown,
        FailureKind::Unreachable(_) => GraphTrouble::Unreachable,
        FailureKind::NoSockets(_) => GraphTrouble::NoSockets,
    }
}
