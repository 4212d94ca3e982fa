//! Naming: how a call that we place gets Meta's id, from the reply to connect or from the first webhook.

use tracing::{info, warn};

use super::placements::{CallHints, Dialled, Standing};
use super::table::{CallTable, LiveCall, SharedTable};
use super::terminations::Terminations;
use crate::call::Input;
use crate::call::event::CallId;
use crate::clock;
use crate::directory::Owner;
use crate::store::{Termination, TerminationAction};
use crate::whatsapp::webhook::{Notice, Progress, Terminate, TerminateStatus};
use crate::whatsapp::{PhoneNumberId, WaCallId};

/// Claims the wacids of calls that we place. Clones share the calls.
#[derive(Clone)]
pub(super) struct Naming {
    table: SharedTable,
    terminations: Terminations,
}

impl Naming {
    pub fn new(table: SharedTable, terminations: Terminations) -> Self {
        Self { table, terminations }
    }

    /// Meta's reply to connect named the call.
    pub fn replied(&self, call: &CallId, wacid: &WaCallId) {
        self.name(&mut self.table.lock(), call, wacid);
    }

    /// The application names a call that it signals. The same name again changes nothing. An error is what owns the
    /// wacid.
    pub fn claim(&self, call: &CallId, wacid: &WaCallId) -> Result<(), Owner> {
        let mut table = self.table.lock();
        match table.directory.wacid(call) {
            Some(known) if known == wacid => Ok(()),
            Some(_) => Err(Owner::Call(call.clone())),
            None => table.directory.claim(wacid, call),
        }
    }

    /// Meta does not have the call, and does not count it.
    pub fn refused(&self, call: &CallId) {
        let mut table = self.table.lock();
        if let Some(number) = table.placements.forget(call) {
            table.pacing.not_taken(&number);
        }
    }

    /// Whether the call ended before its connect was sent.
    pub fn is_abandoned(&self, call: &CallId) -> bool {
        self.table.lock().placements.is_abandoned(call)
    }

    /// Meta's id of a live call.
    pub fn wacid(&self, call: &CallId) -> Option<WaCallId> {
        self.table.lock().directory.wacid(call).cloned()
    }

    /// The same for a call that ends. If Meta names it later, it is ended there then.
    pub fn wacid_at_end(&self, call: &CallId) -> Option<WaCallId> {
        let mut table = self.table.lock();
        let wacid = table.directory.wacid(call).cloned();
        if wacid.is_none() {
            table.placements.abandon(call, clock::now());
        }
        wacid
    }

    /// A call of an earlier process that Meta may have, and never named to us.
    pub fn lost(&self, call: CallId, dialled: Dialled) {
        self.table.lock().placements.begin_abandoned(call, dialled, clock::now());
    }

    /// Gives a webhook of a call that we placed to it. None if it is of no call of ours.
    pub fn take(&self, notice: &Notice) -> Option<Taken> {
        let (wacid, hints) = hints_of(notice)?;
        let mut table = self.table.lock();
        let now = clock::now();
        table.placements.forget_old(now);
        match table.directory.owner(wacid) {
            Owner::Call(call) => return Some(deliver(&table, &call, notice)),
            Owner::Ended => return Some(Taken::Late),
            Owner::Nobody => {}
        }
        if let Some(call) = table.placements.find(&hints) {
            let is_over = matches!(notice, Notice::Terminate(_));
            if is_over && table.placements.is_abandoned(&call) {
                table.placements.forget(&call);
                return Some(Taken::Late);
            }
            self.name(&mut table, &call, wacid);
            return Some(deliver(&table, &call, notice));
        }
        table.placements.keep(&hints, wacid, || notice.clone(), now).then_some(Taken::Early)
    }

    /// Whether a webhook is of a call that we placed.
    pub fn owns(&self, notice: &Notice) -> bool {
        let Some((wacid, hints)) = hints_of(notice) else { return false };
        let table = self.table.lock();
        table.directory.owner(wacid) != Owner::Nobody || table.placements.find(&hints).is_some()
    }

    /// Whether a webhook is of a call that we placed and Meta has not named yet.
    pub fn is_of_unnamed(&self, notice: &Notice) -> bool {
        hints_of(notice).is_some_and(|(_, hints)| self.table.lock().placements.find(&hints).is_some())
    }

    fn name(&self, table: &mut CallTable, call: &CallId, wacid: &WaCallId) {
        let Some((number, standing, early)) = table.placements.name(call, wacid) else { return };
        match standing {
            Standing::Live => {
                match table.directory.claim(wacid, call) {
                    Ok(()) => {}
                    Err(Owner::Call(_) | Owner::Nobody) => {
                        warn!("Meta named call {call} with an id that another call has");
                    }
                    // Its `terminate` came first, with nothing in it that showed whose it was.
                    Err(Owner::Ended) => {
                        let ended = Input::Terminated { failed: false, error: None, picked_up: false };
                        table.live.get(call).map(|live| live.session.end(ended));
                    }
                }
                for notice in early {
                    deliver(table, call, &notice);
                }
            }
            Standing::Abandoned { .. } => {
                table.directory.end_unclaimed(wacid, clock::now());
                if !early.iter().any(|notice| matches!(notice, Notice::Terminate(_))) {
                    info!("Meta still has call {call}, which has ended here: ending it at Meta");
                    self.end_at_meta(call, wacid, &number);
                }
            }
        }
    }

    fn end_at_meta(&self, call: &CallId, wacid: &WaCallId, number: &PhoneNumberId) {
        self.terminations.leave(Termination {
            call_id: call.as_str().to_owned(),
            wacid: wacid.as_str().to_owned(),
            phone_number_id: number.as_str().to_owned(),
            action: TerminationAction::Terminate,
        });
        self.terminations.wake();
    }
}

/// What became of a webhook of a call that we placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Its call has it.
    Delivered,
    /// Its call is over, or has heard it.
    Late,
    /// It waits for its call to be named.
    Early,
}

fn deliver(table: &CallTable, call: &CallId, notice: &Notice) -> Taken {
    let Some(live) = table.live.get(call) else { return Taken::Late };
    let has_room = match notice {
        Notice::Connect(connect) => live.session.hear(Input::AnswerReceived(connect.session.sdp.as_str().into())),
        Notice::Status(status) => live.session.hear(match status.progress {
            Progress::Ringing => Input::CalleeRings,
            Progress::Accepted => Input::PickedUp,
            Progress::Rejected => Input::Declined,
        }),
        Notice::Terminate(terminate) => live.session.end(input_of(live, terminate)),
        Notice::PermissionReply(_) | Notice::CallsPaused(_) => true,
        Notice::NotOurs { .. } | Notice::Unknown { .. } | Notice::Malformed { .. } => true,
    };
    if has_room { Taken::Delivered } else { Taken::Late }
}

/// What Meta's `terminate` means to a call.
pub(super) fn input_of(live: &LiveCall, terminate: &Terminate) -> Input {
    match terminate.status {
        TerminateStatus::Rejected if live.is_placed => Input::Declined,
        TerminateStatus::Completed
        | TerminateStatus::Failed
        | TerminateStatus::Rejected
        | TerminateStatus::Unstated => Input::Terminated {
            failed: terminate.status == TerminateStatus::Failed,
            error: terminate.errors.first().and_then(|error| error.code),
            picked_up: terminate.start_time.is_some() || terminate.duration_seconds.is_some(),
        },
    }
}

fn hints_of(notice: &Notice) -> Option<(&WaCallId, CallHints<'_>)> {
    match notice {
        Notice::Connect(connect) => Some((
            &connect.call_id,
            CallHints {
                number: connect.phone_number_id.as_ref(),
                callee: &connect.to,
                callback_data: connect.biz_opaque_callback_data.as_deref(),
            },
        )),
        Notice::Status(status) => Some((
            &status.call_id,
            CallHints {
                number: status.phone_number_id.as_ref(),
                callee: &status.recipient,
                callback_data: status.biz_opaque_callback_data.as_deref(),
            },
        )),
        Notice::Terminate(terminate) => Some((
            &terminate.call_id,
            CallHints {
                number: terminate.phone_number_id.as_ref(),
                callee: &terminate.to,
                callback_data: terminate.biz_opaque_callback_data.as_deref(),
            },
        )),
        Notice::PermissionReply(_) | Notice::CallsPaused(_) => None,
        Notice::NotOurs { .. } | Notice::Unknown { .. } | Notice::Malformed { .. } => None,
    }
}
