//! Status callbacks: what an app is told beside the requests for documents. Nobody waits for the answers.

use std::rc::Rc;

use tokio::sync::mpsc;
use tracing::info;
use url::Url;

use super::Context;
use super::webhook;
use crate::twilio::Method;

/// Callbacks that wait; one more is dropped. A call has a few.
const MAX_WAITING: usize = 32;

/// One callback.
#[derive(Debug)]
pub(super) struct Told {
    pub url: Url,
    pub method: Method,
    pub form: Vec<(String, String)>,
}

pub(super) fn channel() -> (mpsc::Sender<Told>, mpsc::Receiver<Told>) {
    mpsc::channel(MAX_WAITING)
}

/// Sends callbacks one after another, each once, until nobody has any more.
pub(super) async fn tell_all(context: Rc<Context>, mut waiting: mpsc::Receiver<Told>) {
    while let Some(Told { url, method, form }) = waiting.recv().await {
        let Err(failure) = webhook::send(&context, &url, method, form).await else { continue };
        let id = context.port.call_id();
        info!(call.id = %id, "a status callback of call {id} failed: {failure}");
        // The task ends behind the call, and does not wait for such an app again and again.
        if context.port.is_dismissed() {
            return;
        }
    }
}
