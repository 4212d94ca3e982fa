//! Calls of the business to a browser: they ring in a page, which takes them, declines them or lets them ring.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};

use super::BrowserCall;
use crate::call::{EndedBy, LiveCall, Stage};
use crate::callee::Setup;
use crate::meta::{MetaShared, unix_ms};
use crate::phone::shell::{Order, now};

/// A browser that may be called, until this is dropped.
#[derive(Debug)]
pub struct BrowserPhone {
    meta: Arc<MetaShared>,
    id: u64,
    ringing: Mutex<mpsc::Receiver<RingingCall>>,
}

/// A call that rings in a browser. It goes on when this is dropped.
#[derive(Debug, Clone)]
pub struct RingingCall {
    /// The business's offer, for the browser.
    pub offer: String,
    /// The call as the business's other calls are seen.
    pub call: BrowserCall,
    pub(crate) live: LiveCall,
}

impl BrowserPhone {
    pub(crate) fn new(meta: Arc<MetaShared>, id: u64, ringing: mpsc::Receiver<RingingCall>) -> Self {
        Self { meta, id, ringing: Mutex::new(ringing) }
    }

    /// The next call to this browser. None once Meta is gone.
    pub async fn next_call(&self) -> Option<RingingCall> {
        self.ringing.lock().await.recv().await
    }
}

impl Drop for BrowserPhone {
    fn drop(&mut self) {
        self.meta.browser_phones().retain(|(id, _)| *id != self.id);
    }
}

impl BrowserCall {
    /// The browser's answer to the business's offer, while it rings: Meta sends it on, and says that the phone rings. False
    /// if it has answered before, or the call is over.
    pub fn answer(&self, sdp: &str) -> bool {
        let record = &self.live.record;
        if self.has_ended() || record.sdp.set(sdp.to_owned()).is_err() {
            return false;
        }
        self.deliver(&["connect", "RINGING"]);
        true
    }

    /// The person takes the call. False if it does not ring.
    pub fn pick_up(&self) -> bool {
        let record = &self.live.record;
        let rings = {
            let mut state = record.lock();
            let rings = !record.sdp().is_empty() && state.ended.is_none() && state.accepted_unix_s.is_none();
            if rings {
                state.accepted_unix_s = Some((unix_ms() / 1000) as u64);
            }
            rings
        };
        if rings {
            record.reach(Stage::Accepted, now());
            self.deliver(&["ACCEPTED"]);
        }
        rings
    }

    /// The person declines the call. False if it does not ring.
    pub fn decline(&self) -> bool {
        let record = &self.live.record;
        let rings = record.lock().accepted_unix_s.is_none() && record.end(EndedBy::Declined, now());
        if rings {
            let (meta, live, line) = (self.meta.clone(), self.live.clone(), self.line.clone());
            self.meta.spawn(async move {
                // Their outcomes are in the trace.
                let _ = line.deliver(&meta, &live.record, "REJECTED").await;
                live.line.order(Order::Vanish).await;
                let _ = meta.send_terminate(&live).await;
            });
        }
        rings
    }

    /// Sends webhooks in this order, in the background.
    fn deliver(&self, events: &'static [&'static str]) {
        let (meta, live, line) = (self.meta.clone(), self.live.clone(), self.line.clone());
        self.meta.spawn(async move {
            for event in events {
                // The outcome is in the trace.
                let _ = line.deliver(&meta, &live.record, event).await;
            }
        });
    }
}

/// The offer with a role that has the browser take the one asked for: browsers answer `actpass` with `active`.
pub(crate) fn offer_for(offer: &str, relay: Setup) -> String {
    let role = match relay {
        Setup::Passive => "a=setup:active",
        Setup::Active => "a=setup:passive",
    };
    offer.replace("a=setup:actpass", role)
}
