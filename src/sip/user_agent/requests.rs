//! What phones and trunks send: each request goes to its dialog, to the registrar, or to a new call.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rsipstack::dialog::DialogId;
use rsipstack::dialog::dialog::Dialog;
use rsipstack::dialog::invite_dialog::InviteDialog;
use rsipstack::sip::typed::Contact;
use rsipstack::sip::{Header, HeadersExt, Method, StatusCode};
use rsipstack::transaction::TransactionReceiver;
use rsipstack::transaction::transaction::Transaction;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Stack, abilities};
use crate::sip::incoming;

/// Requests of phones that are answered at once; one more is dropped, and the phone repeats it.
const MAX_REQUESTS: usize = 1024;
/// The library lists an answered dialog when its task runs next after the ACK, which takes a while on a busy machine.
const LISTED_WITHIN: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(2);

/// Hands each request to its dialog, to the registrar, or to a new call. The gate has let only these pass.
pub(super) async fn take_requests(mut incoming: TransactionReceiver, stack: Arc<Stack>) {
    let places = Arc::new(Semaphore::new(MAX_REQUESTS));
    let mut answering = JoinSet::new();
    while let Some(transaction) = incoming.recv().await {
        while answering.try_join_next().is_some() {}
        let Ok(place) = places.clone().try_acquire_owned() else {
            metrics::counter!("patchcord_sip_dropped_total", "reason" => "busy").increment(1);
            continue;
        };
        let stack = stack.clone();
        let mut request = Box::pin(async move {
            answer(&stack, transaction).await;
            drop(place);
        });
        // Begun here: a phone's hold and the REFER behind it must reach its dialog in their order.
        let begun = poll_fn(|context| Poll::Ready(request.as_mut().poll(context))).await;
        if begun.is_pending() {
            answering.spawn(request);
        }
    }
}

/// A request that fits no dialog is of one that has just ended, or forged.
async fn answer(stack: &Arc<Stack>, mut transaction: Transaction) {
    let registrations = stack.registrations.as_ref().filter(|_| transaction.original.method == Method::Register);
    if let Some(registrations) = registrations {
        // A phone that has gone misses its answer.
        let _ = registrations.answer(&mut transaction).await;
        return;
    }
    let known = dialog_of(stack, &transaction).await;
    if known.is_none() && transaction.original.method == Method::Invite && !has_tag(&transaction) {
        return incoming::take(stack, transaction).await;
    }
    if known.is_none() && transaction.original.method == Method::Options && !has_tag(&transaction) {
        return answer_trunk(stack, transaction).await;
    }
    let answered = match known {
        Some(Dialog::Invite(mut dialog)) => dialog.handle(&mut transaction).await,
        Some(
            Dialog::ServerSubscription(_)
            | Dialog::ClientSubscription(_)
            | Dialog::ServerPublication(_)
            | Dialog::ClientPublication(_),
        )
        | None => answer_early(stack, &mut transaction).await,
    };
    if answered.is_err() {
        metrics::counter!("patchcord_sip_dropped_total", "reason" => "not_in_dialog").increment(1);
    }
}

/// The dialog of a request. What a phone sends right behind our ACK may come before the library lists its dialog.
async fn dialog_of(stack: &Stack, transaction: &Transaction) -> Option<Dialog> {
    let listed = || stack.dialogs.match_dialog(transaction);
    let is_for_early = matches!(transaction.original.method, Method::Update | Method::Options);
    if let Some(dialog) = listed() {
        return Some(dialog);
    }
    if is_for_early || called(stack, transaction).is_none() {
        return None;
    }
    let listing = async {
        loop {
            sleep(LOOK).await;
            if let Some(dialog) = listed() {
                return dialog;
            }
        }
    };
    timeout(LISTED_WITHIN, listing).await.ok()
}

/// The call to a phone that a request belongs to, answered or not.
fn called(stack: &Stack, transaction: &Transaction) -> Option<InviteDialog> {
    let id = DialogId::try_from(transaction).ok()?;
    let calls = stack.dialogs.get_client_dialog_by_call_id(&id.call_id);
    calls.into_iter().find(|call| call.id().local_tag == id.local_tag)
}

/// A trunk that asks whether we are there.
async fn answer_trunk(stack: &Stack, mut transaction: Transaction) {
    let Some(flow) = stack.flows.of(&transaction) else { return };
    if stack.trunks.at(flow.ip()).is_some() {
        flow.prove();
        // A server that has gone misses its answer.
        let _ = transaction.reply_with(StatusCode::OK, abilities().into(), None).await;
    }
}

/// Whether a request says that it belongs to a dialog.
fn has_tag(transaction: &Transaction) -> bool {
    transaction.original.to_header().and_then(|to| to.tag()).is_ok_and(|tag| tag.is_some())
}

/// A request of a phone that we call and that has not answered: the library looks for answered calls only.
async fn answer_early(stack: &Stack, transaction: &mut Transaction) -> rsipstack::Result<()> {
    let call = called(stack, transaction).filter(|call| call.state().can_cancel());
    let has_offer = !transaction.original.body().is_empty();
    let code = match (&call, transaction.original.method()) {
        (Some(_), Method::Update) if has_offer => {
            // RFC 3311 §5.2. The phone asks again once it has answered.
            StatusCode::RequestPending
        }
        (Some(_), Method::Update | Method::Options) => StatusCode::OK,
        _ => StatusCode::CallTransactionDoesNotExist,
    };
    let contact = call.and_then(|call| call.snapshot().local_contact);
    let contact = contact.map(|uri| Header::Contact(Contact { display_name: None, uri, params: Vec::new() }.into()));
    transaction.reply_with(code, abilities().into_iter().chain(contact).collect(), None).await
}
