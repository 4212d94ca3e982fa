//! How calls come to be: a phone is made, its offer is announced, and it rings until somebody acts.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::Context;
use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::{Direction, MetaShared, report, unix_ms};
use crate::browser::incoming::{RingingCall, offer_for};
use crate::browser::{BrowserCall, BrowserCaller, BrowserLine, Faults};
use crate::call::trace::Trace;
use crate::call::{Call, CallRecord, CallState, CallerOptions, EndedBy, LiveCall, Stage};
use crate::callee::CalleeOptions;
use crate::network::Conditions;
use crate::phone::answer::Answer;
use crate::phone::shell::{Order, PhoneLine, PhoneShell, now};
use crate::phone::{Phone, PhoneEvent, PhoneOptions};
use crate::relay::Relay;
impl MetaShared {
    /// The business calls: a phone begins to ring, with this answer to the business's offer.
    pub(crate) async fn ring_callee(
        self: &Arc<Self>,
        callee: &CalleeOptions,
        offer: Answer,
        opaque: Option<String>,
    ) -> anyhow::Result<Call> {
        let call = self.make_phone(callee.person.clone(), Direction::BusinessInitiated, |sdp| {
            sdp.replace("a=setup:actpass", &format!("a=setup:{}", callee.setup.name()))
        });
        let call = call.await?;
        call.live.record.lock().opaque = opaque;
        call.live.line.order(Order::LearnAnswer(Box::new(offer))).await;
        Ok(call)
    }

    /// The business calls: a browser gets its offer.
    pub(crate) fn ring_browser_callee(
        self: &Arc<Self>,
        callee: &CalleeOptions,
        offer: &str,
        opaque: Option<String>,
    ) -> RingingCall {
        let seed = callee.person.seed.unwrap_or_else(draw_seed);
        let trace = Arc::new(Trace::new());
        let record = self.record(&callee.person, Direction::BusinessInitiated, (seed, None), Some(trace.clone()));
        record.lock().opaque = opaque;
        let browser = Arc::new(BrowserLine::new(trace, Faults::default(), None));
        let live = LiveCall { record: Arc::new(record), line: PhoneLine::to_nobody(), browser: Some(browser.clone()) };
        self.remember(&live);
        self.spawn(self.clone().give_up_ringing(live.clone()));
        let offer = offer_for(offer, callee.setup);
        RingingCall { offer, live: live.clone(), call: BrowserCall::new(self.clone(), live, browser) }
    }

    pub(super) async fn ring(self: &Arc<Self>, options: CallerOptions) -> anyhow::Result<Call> {
        self.make_phone(options, Direction::UserInitiated, str::to_owned).await
    }

    pub(super) async fn make_phone(
        self: &Arc<Self>,
        options: CallerOptions,
        direction: Direction,
        sdp: impl FnOnce(&str) -> String,
    ) -> anyhow::Result<Call> {
        let seed = options.seed.unwrap_or_else(draw_seed);
        let mut sockets = vec![UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.context("bind a phone")?];
        if options.ipv6 {
            sockets.push(UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).await.context("bind a phone on ::1")?);
        }
        let addresses: Vec<SocketAddr> = sockets.iter().map(UdpSocket::local_addr).collect::<Result<_, _>>()?;
        let phone = Phone::new(phone_options(&options, seed), &addresses, unix_ms(), now())?;
        let record = Arc::new(self.record(&options, direction, (seed, Some(sdp(phone.offer()))), None));
        let (events, weak) = (record.clone(), Arc::downgrade(self));
        let on_event = move |event: PhoneEvent| {
            match &event {
                PhoneEvent::HeardNothing => MetaShared::end_later(&weak, &events, EndedBy::HeardNothing),
                PhoneEvent::RangInVain => MetaShared::end_later(&weak, &events, EndedBy::RangInVain),
                PhoneEvent::MediaUp | PhoneEvent::Heard(_) | PhoneEvent::Echo(_) | PhoneEvent::Objected(_) => {}
            }
            events.on_phone_event(event);
        };
        let shell = PhoneShell { phone, sockets, network: options.network, seed, on_event };
        let (line, running) = shell.start().context("start a phone")?;
        let live = LiveCall { record, line, browser: None };
        self.remember(&live);
        let phone_task = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(running);
        Ok(Call { meta: self.clone(), live, phone_task })
    }

    pub(super) async fn ring_browser(self: &Arc<Self>, caller: BrowserCaller) -> anyhow::Result<BrowserCall> {
        let seed = caller.seed.unwrap_or_else(draw_seed);
        let faults = caller.faults;
        let conditions = Conditions { loss: faults.loss, delay: faults.delay, ..Conditions::default() };
        let relay = match conditions == Conditions::default() {
            true => None,
            false => Some(Relay::open(conditions, seed).await?),
        };
        let (relay, rewrite) = relay.unzip();
        let offer = rewrite.as_ref().map_or(caller.sdp.clone(), |rewrite| rewrite.offer(&caller.sdp));
        let options = CallerOptions { from: Some(caller.from), name: caller.name, ..CallerOptions::default() };
        let trace = Arc::new(Trace::new());
        let record =
            Arc::new(self.record(&options, Direction::UserInitiated, (seed, Some(offer)), Some(trace.clone())));
        let browser = Arc::new(BrowserLine::new(trace, faults, rewrite));
        let live = LiveCall { record, line: PhoneLine::to_nobody(), browser: Some(browser.clone()) };
        self.remember(&live);
        self.spawn(self.clone().announce(live.clone(), browser.clone()));
        if let Some(relay) = relay {
            let record = live.record.clone();
            self.spawn(async move {
                tokio::select! {
                    () = relay.run() => {}
                    () = record.until(|state| state.ended.is_some()) => {}
                }
            });
        }
        Ok(BrowserCall::new(self.clone(), live, browser))
    }

    /// Sends the connect webhook of a call from a browser, which rings then.
    pub(super) async fn announce(self: Arc<Self>, live: LiveCall, browser: Arc<BrowserLine>) {
        let record = &live.record;
        match browser.deliver(&self, record, "connect").await {
            Ok(200) => {}
            Ok(_) | Err(_) => {
                if record.end(EndedBy::WebhookFailed, now()) {
                    browser.trace.close();
                }
                return;
            }
        }
        self.give_up_ringing(live).await;
    }

    /// Gives the call up when nobody accepts it.
    pub(super) async fn give_up_ringing(self: Arc<Self>, live: LiveCall) {
        let record = &live.record;
        let settled = record.until(|state| state.ended.is_some() || state.stages.contains_key(&Stage::Accepted));
        if tokio::time::timeout(CallerOptions::default().ring_patience, settled).await.is_err() {
            report("terminate", self.finish(&live, EndedBy::RangInVain).await);
        }
    }

    pub(super) fn record(
        &self,
        options: &CallerOptions,
        direction: Direction,
        (seed, sdp): (u64, Option<String>),
        trace: Option<Arc<Trace>>,
    ) -> CallRecord {
        CallRecord {
            parties: self.parties_with(options, direction),
            sdp: sdp.map_or_else(OnceLock::new, OnceLock::from),
            connect_timestamp: ((unix_ms() / 1000) as u64).saturating_add_signed(options.timestamp_offset_s),
            placed_at: now(),
            seed,
            changed: watch::Sender::new(()),
            trace,
            state: Mutex::new(CallState::default()),
        }
    }
}

fn phone_options(options: &CallerOptions, seed: u64) -> PhoneOptions {
    PhoneOptions {
        speech: options.speech.clone(),
        dtx: options.dtx,
        talk_before_accept: options.talk_before_accept,
        quirks: options.offer_quirks.clone(),
        clock_drift_ppm: options.clock_drift_ppm,
        patience: options.patience,
        patience_mid_call: options.patience_mid_call,
        ring_patience: options.ring_patience,
        late_after: options.late_after,
        report_packets: options.keeps_packets,
        measures_echo: options.measures_echo,
        seed,
        first_sequence: options.first_sequence,
        first_timestamp: options.first_timestamp,
    }
}

/// A seed that every reader of JSON holds exactly, JavaScript too.
fn draw_seed() -> u64 {
    rand::random::<u64>() >> 11
}
