//! What the phone page asks for: its offer, who calls, and what goes wrong on purpose.

use std::time::Duration;

use patchcord_simulator::browser::{BrowserCaller, Faults, GraphFault, WebhookFault};
use serde::Deserialize;

use super::order::{CALLER_NAME, CALLER_NUMBER, check_caller};
use super::{SEED_BITS, draw_seed};

/// A browser's offer with one audio line has about 2 kB.
const SDP_BYTES: usize = 64 << 10;
/// Meta gives up after 45 s without accept, and the service after 30.
const LATEST_ANSWER_MS: f64 = 30_000.0;
const LONGEST_DELAY_MS: f64 = 5_000.0;

/// The body of `POST /api/calls`; all but `sdp` may be left out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BrowserOrder {
    sdp: String,
    #[serde(default = "caller_number")]
    from: String,
    #[serde(default = "caller_name")]
    name: String,
    #[serde(default)]
    faults: FaultOrder,
    /// Chance; drawn and told in the reply unless given.
    seed: Option<u64>,
}

fn caller_number() -> String {
    CALLER_NUMBER.to_owned()
}

fn caller_name() -> String {
    CALLER_NAME.to_owned()
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FaultOrder {
    webhooks: Option<WebhookOrder>,
    graph_error: Option<GraphOrder>,
    late_answer_ms: f64,
    loss_percent: f64,
    delay_ms: f64,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WebhookOrder {
    Doubled,
    Reordered,
}

#[derive(Clone, Copy, Deserialize)]
enum GraphOrder {
    #[serde(rename = "pre_accept_500")]
    PreAccept500,
    #[serde(rename = "accept_500")]
    Accept500,
    #[serde(rename = "accept_timeout")]
    AcceptTimeout,
}

impl BrowserOrder {
    /// The error is a sentence.
    pub(super) fn read(body: &[u8]) -> Result<BrowserCaller, String> {
        let order: Self = serde_json::from_slice(body).map_err(|error| format!("the body: {error}"))?;
        check_caller(&order.from, &order.name)?;
        check_sdp(&order.sdp, "offer")?;
        if order.seed.is_some_and(|seed| seed >> SEED_BITS != 0) {
            return Err(format!("seed: give a whole number below 2^{SEED_BITS}"));
        }
        let seed = order.seed.unwrap_or_else(draw_seed);
        let BrowserOrder { sdp, from, name, faults, .. } = order;
        Ok(BrowserCaller { from, name, sdp, faults: faults.check()?, seed: Some(seed) })
    }
}

/// The error is a sentence.
pub(super) fn check_sdp(sdp: &str, kind: &str) -> Result<(), String> {
    match sdp.len() <= SDP_BYTES && sdp.starts_with("v=0") {
        true => Ok(()),
        false => Err(format!("sdp: give the browser's {kind}, which begins with v=0, in at most {SDP_BYTES} bytes")),
    }
}

impl FaultOrder {
    fn check(self) -> Result<Faults, String> {
        for (name, value, most) in [
            ("late_answer_ms", self.late_answer_ms, LATEST_ANSWER_MS),
            ("loss_percent", self.loss_percent, 100.0),
            ("delay_ms", self.delay_ms, LONGEST_DELAY_MS),
        ] {
            // Not a number is in no range.
            if !(0.0..=most).contains(&value) {
                return Err(format!("faults.{name}: give a number from 0 to {most}"));
            }
        }
        Ok(Faults {
            webhooks: match self.webhooks {
                None => WebhookFault::None,
                Some(WebhookOrder::Doubled) => WebhookFault::Doubled,
                Some(WebhookOrder::Reordered) => WebhookFault::Reordered,
            },
            graph: self.graph_error.map(|error| match error {
                GraphOrder::PreAccept500 => GraphFault::PreAccept500,
                GraphOrder::Accept500 => GraphFault::Accept500,
                GraphOrder::AcceptTimeout => GraphFault::AcceptTimeout,
            }),
            late_answer: Duration::from_secs_f64(self.late_answer_ms / 1e3),
            loss: self.loss_percent / 100.0,
            delay: Duration::from_secs_f64(self.delay_ms / 1e3),
        })
    }
}
