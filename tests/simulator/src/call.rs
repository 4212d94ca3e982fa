//! One simulated call: who calls, and the handle that a test holds.

mod record;
pub mod trace;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::task::AbortHandle;

use crate::DEADLINE;
use crate::browser::BrowserLine;
use crate::meta::{MetaShared, unix_ms};
use crate::network::NetworkOptions;
use crate::objection::Objection;
use crate::phone::PhoneCounts;
use crate::phone::ear::{self, HeardPacket};
use crate::phone::offer::OfferQuirks;
use crate::phone::shell::{Order, PhoneLine, now};
use crate::phone::voice::KeyPacket;
use crate::speech::Speech;

pub(crate) use record::{CallRecord, CallState};

/// Who calls, and how the phone and its network behave.
#[derive(Debug, Clone)]
pub struct CallerOptions {
    /// The caller's number in digits; None for a user whom Meta names by user id alone.
    pub from: Option<String>,
    /// The caller's business-scoped user id.
    pub user_id: Option<String>,
    /// The caller's user name.
    pub username: Option<String>,
    /// The name in the caller's profile.
    pub name: String,
    /// What came with the call button, if it was one.
    pub cta_payload: Option<String>,
    /// What came with the deep link, if it was one.
    pub deeplink_payload: Option<String>,
    /// What the caller says.
    pub speech: Speech,
    /// Leave out its silences, as an Opus encoder with DTX does.
    pub dtx: bool,
    /// Say it from media up on instead of from accept on.
    pub talk_before_accept: bool,
    /// How the offer differs from the usual one.
    pub offer_quirks: OfferQuirks,
    /// Also listen on `::1`.
    pub ipv6: bool,
    /// The network between phone and service.
    pub network: NetworkOptions,
    /// Added to the `timestamp` of the connect webhook, in seconds.
    pub timestamp_offset_s: i64,
    /// When the connect webhook is sent.
    pub announce: Announce,
    /// How long after accept the phone hears nothing before it hangs up with 138021.
    pub patience: Duration,
    /// The same in the middle of a call.
    pub patience_mid_call: Duration,
    /// How long it rings before Meta gives up.
    pub ring_patience: Duration,
    /// How much faster the phone's clock runs than ours, in parts per million.
    pub clock_drift_ppm: i32,
    /// Packets of the service further apart than this are an objection.
    pub late_after: Duration,
    /// Keep every packet heard. Off for load: only the first is kept, the rest is counted.
    pub keeps_packets: bool,
    /// Time the echoes of bursts of sound, for an agent that echoes ([`Call::echoes`]).
    pub measures_echo: bool,
    /// Chance; drawn, and told in every error, unless given.
    pub seed: Option<u64>,
    /// First RTP sequence number of the phone, to see it wrap.
    pub first_sequence: Option<u16>,
    /// First RTP timestamp of the phone, to see it wrap.
    pub first_timestamp: Option<u32>,
}

impl Default for CallerOptions {
    fn default() -> Self {
        Self {
            from: Some("12025550143".to_owned()),
            user_id: None,
            username: None,
            name: "Example Caller".to_owned(),
            cta_payload: None,
            deeplink_payload: None,
            speech: Speech::silence(),
            dtx: false,
            talk_before_accept: false,
            offer_quirks: OfferQuirks::default(),
            ipv6: false,
            network: NetworkOptions::default(),
            timestamp_offset_s: 0,
            announce: Announce::AtOnce,
            patience: Duration::from_secs(20),
            patience_mid_call: Duration::from_secs(30),
            ring_patience: Duration::from_secs(45),
            clock_drift_ppm: 0,
            late_after: Duration::from_secs(1),
            keeps_packets: true,
            measures_echo: false,
            seed: None,
            first_sequence: None,
            first_timestamp: None,
        }
    }
}

/// When the connect webhook goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announce {
    /// Before `place_call` returns; a status other than 200 is an error.
    AtOnce,
    /// In the background after this time, as Meta's webhooks may be late.
    After(Duration),
    /// Only by [`Call::send_connect`].
    ByHand,
}

/// The points a call passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Meta has replied 200 to `pre_accept`.
    PreAccepted,
    /// ICE and DTLS are through.
    MediaUp,
    /// Meta has replied 200 to `accept`.
    Accepted,
    /// The first RTP packet after accept was heard, silence included.
    FirstPacket,
    /// The first sound that is not silence was heard.
    FirstSound,
    /// The call is over.
    Ended,
}

impl Stage {
    /// As reports say it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PreAccepted => "pre_accepted",
            Self::MediaUp => "media_up",
            Self::Accepted => "accepted",
            Self::FirstPacket => "first_packet",
            Self::FirstSound => "first_sound",
            Self::Ended => "ended",
        }
    }
}

/// Whose word ended a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// The caller hung up.
    Caller,
    /// The callee declined.
    Declined,
    /// The service sent `reject`.
    Rejected,
    /// The service sent `terminate`.
    Terminated,
    /// The phone heard nothing for too long (138021).
    HeardNothing,
    /// Nobody accepted in time.
    RangInVain,
    /// The service did not take the connect webhook of a call from a browser.
    WebhookFailed,
    /// The handle was dropped.
    Dropped,
}

impl EndedBy {
    /// As reports say it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Declined => "declined",
            Self::Rejected => "rejected",
            Self::Terminated => "terminated",
            Self::HeardNothing => "heard_nothing",
            Self::RangInVain => "rang_in_vain",
            Self::WebhookFailed => "webhook_failed",
            Self::Dropped => "dropped",
        }
    }
}

/// A call in progress. Dropping it makes the phone vanish without a word to anybody.
#[derive(Debug)]
pub struct Call {
    pub(crate) meta: Arc<MetaShared>,
    pub(crate) live: LiveCall,
    pub(crate) phone_task: AbortHandle,
}

/// What Meta knows of a call: its record and the way to its phone.
#[derive(Debug, Clone)]
pub(crate) struct LiveCall {
    pub(crate) record: Arc<CallRecord>,
    pub(crate) line: PhoneLine,
    /// Where the phone is a browser; `line` leads nowhere then.
    pub(crate) browser: Option<Arc<BrowserLine>>,
}

impl Call {
    /// Meta's id of the call.
    #[must_use]
    pub fn wacid(&self) -> &str {
        &self.live.record.parties.wacid
    }

    /// The seed of everything that is left to chance in this call.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.live.record.seed
    }

    /// The offer in the connect webhook.
    #[must_use]
    pub fn offer(&self) -> &str {
        self.live.record.sdp()
    }

    /// The answer of `pre_accept`, or of an `accept` without one, as Meta took it.
    #[must_use]
    pub fn answer(&self) -> Option<String> {
        self.live.record.lock().answer.clone()
    }

    /// Waits until the call has passed a stage, at most 10 s; the moment at which it did.
    ///
    /// # Errors
    /// When time is up or the call ends first; the text says what has been seen so far.
    pub async fn wait_until(&self, stage: Stage) -> anyhow::Result<Instant> {
        self.wait_until_within(stage, DEADLINE).await
    }

    /// [`Call::wait_until`] with a deadline of one's own.
    ///
    /// # Errors
    /// When time is up or the call ends first; the text says what has been seen so far.
    pub async fn wait_until_within(&self, stage: Stage, within: Duration) -> anyhow::Result<Instant> {
        let record = &self.live.record;
        let mut changed = record.changed.subscribe();
        let seen = tokio::time::timeout(within, async {
            loop {
                changed.mark_unchanged();
                {
                    let state = record.lock();
                    match (state.stages.get(&stage), state.ended) {
                        (Some(at), _) => return Ok(*at),
                        (None, Some(by)) => bail!("the call ended ({by:?}) before it was {stage:?}"),
                        (None, None) => {}
                    }
                }
                changed.changed().await.context("the record is kept by this handle")?;
            }
        })
        .await;
        match seen {
            Ok(seen) => seen.with_context(|| record.seen()),
            Err(_) => bail!("waited {within:?} for {stage:?}; {}", record.seen()),
        }
    }

    /// Waits until so much sound has been heard since accept, at most 10 s; returns all of it.
    ///
    /// # Errors
    /// When time is up; the text says what has been seen so far.
    pub async fn hear_for(&self, sound: Duration) -> anyhow::Result<Vec<i16>> {
        let frames = sound.as_millis() as u64 / 20;
        let record = &self.live.record;
        let mut changed = record.changed.subscribe();
        let within = DEADLINE + sound;
        let heard = tokio::time::timeout(within, async {
            while record.lock().ear.total() < frames {
                changed.changed().await.context("the record is kept by this handle")?;
            }
            anyhow::Ok(())
        })
        .await;
        match heard {
            Ok(_) => self.heard(),
            Err(_) => bail!("waited {within:?} for {sound:?} of sound; {}", record.seen()),
        }
    }

    /// Hangs up: no more RTP, and the terminate webhook (with times if the call was accepted). Returns the
    /// service's HTTP status.
    ///
    /// # Errors
    /// When the service cannot be reached.
    pub async fn hang_up(&self) -> anyhow::Result<u16> {
        self.meta.finish(&self.live, EndedBy::Caller).await
    }

    /// Meta says that the phone rings, of a call that the business placed. Returns the service's HTTP status.
    ///
    /// # Errors
    /// When the service cannot be reached.
    pub async fn ring(&self) -> anyhow::Result<u16> {
        self.meta.post(self.live.record.status_body("RINGING").into_bytes(), None).await
    }

    /// The callee accepts: from now on the phone talks and listens. Returns the service's HTTP status for Meta's ACCEPTED.
    ///
    /// # Errors
    /// When the service cannot be reached.
    pub async fn pick_up(&self) -> anyhow::Result<u16> {
        self.pick_up_unreported().await;
        self.meta.post(self.live.record.status_body("ACCEPTED").into_bytes(), None).await
    }

    /// The callee accepts, and Meta's ACCEPTED is lost.
    pub async fn pick_up_unreported(&self) {
        self.live.record.lock().accepted_unix_s = Some((unix_ms() / 1000) as u64);
        self.meta.count_connected(&self.live.record.parties);
        // The record first: what the phone hears from here on is heard.
        self.live.record.reach(Stage::Accepted, now());
        self.live.line.order(Order::Accepted).await;
    }

    /// The callee declines: REJECTED, and the terminate webhook. Returns the service's HTTP status for the latter.
    ///
    /// # Errors
    /// When the service cannot be reached.
    pub async fn decline(&self) -> anyhow::Result<u16> {
        self.meta.post(self.live.record.status_body("REJECTED").into_bytes(), None).await?;
        self.meta.finish(&self.live, EndedBy::Declined).await
    }

    /// Sends the connect webhook, the first time or again. Returns the service's HTTP status.
    ///
    /// # Errors
    /// When the service cannot be reached.
    pub async fn send_connect(&self) -> anyhow::Result<u16> {
        self.meta.post(self.connect_body().into_bytes(), None).await
    }

    /// The body of the connect webhook, the same each time.
    #[must_use]
    pub fn connect_body(&self) -> String {
        self.live.record.connect_body()
    }

    /// The body of the terminate webhook as it would be sent now.
    #[must_use]
    pub fn terminate_body(&self) -> String {
        self.live.record.terminate_body()
    }

    /// Presses keys, one after the other, as RFC 4733 events. Unknown characters are skipped.
    pub async fn send_dtmf(&self, digits: &str) {
        self.live.line.order(Order::Dtmf(digits.to_owned())).await;
    }

    /// Sends these telephone-event packets in place of the next frames of sound, however wrong they are.
    pub async fn send_key_packets(&self, packets: &[KeyPacket]) {
        self.live.line.order(Order::KeyPackets(packets.to_vec())).await;
    }

    /// Goes on as another sender, with an SSRC, sequence numbers and timestamps of its own: 0 is the one of the offer.
    /// A sender that comes back goes on where it stood.
    pub async fn speak_as(&self, sender: usize) {
        self.live.line.order(Order::SpeakAs(sender)).await;
    }

    /// Says something else from now on.
    pub async fn say(&self, speech: Speech) {
        self.live.line.order(Order::Say(speech)).await;
    }

    /// Sends no more RTP; ICE goes on.
    pub async fn go_silent(&self) {
        self.live.line.order(Order::GoSilent).await;
    }

    /// Sends RTP again after [`Call::go_silent`].
    pub async fn speak_again(&self) {
        self.live.line.order(Order::SpeakAgain).await;
    }

    /// Stops answering anything, and Meta says nothing about it.
    pub async fn vanish(&self) {
        self.live.line.order(Order::Vanish).await;
    }

    /// Changes the network from now on.
    pub async fn set_network(&self, network: NetworkOptions) {
        self.live.line.order(Order::Network(network)).await;
    }

    /// What the phone sent and received.
    pub async fn counts(&self) -> PhoneCounts {
        self.live.line.order(Order::Count).await
    }

    /// What the caller has heard since accept: 16 kHz mono, in the order of timestamps, losses concealed.
    ///
    /// # Errors
    /// When libopus refuses to start.
    pub fn heard(&self) -> anyhow::Result<Vec<i16>> {
        let packets = self.heard_packets();
        ear::play(&packets)
    }

    /// The packets heard since accept, in order of arrival.
    #[must_use]
    pub fn heard_packets(&self) -> Vec<HeardPacket> {
        self.live.record.lock().ear.packets().to_vec()
    }

    /// How long bursts of sound took to the agent and back ([`CallerOptions::measures_echo`]).
    #[must_use]
    pub fn echoes(&self) -> Vec<Duration> {
        self.live.record.lock().echoes.clone()
    }

    /// The digits heard since accept.
    #[must_use]
    pub fn heard_digits(&self) -> String {
        ear::digits(self.live.record.lock().ear.packets())
    }

    /// Waits until just these digits have been heard since accept, at most 10 s.
    ///
    /// # Errors
    /// When time is up; the text says which were heard.
    pub async fn wait_for_digits(&self, wanted: &str) -> anyhow::Result<()> {
        let mut changed = self.live.record.changed.subscribe();
        let heard = tokio::time::timeout(DEADLINE, changed.wait_for(|()| self.heard_digits() == wanted)).await;
        heard.with_context(|| format!("the caller heard the keys {:?}, not {wanted:?}", self.heard_digits()))??;
        Ok(())
    }

    /// Everything that was wrong so far; empty for a faultless call.
    #[must_use]
    pub fn objections(&self) -> Vec<Objection> {
        self.live.record.lock().objections.clone()
    }

    /// The stages passed so far, and when.
    #[must_use]
    pub fn stages(&self) -> Vec<(Stage, Instant)> {
        self.live.record.lock().stages.iter().map(|(stage, at)| (*stage, *at)).collect()
    }

    /// When the call was placed: just before its connect webhook could be sent.
    #[must_use]
    pub fn placed_at(&self) -> Instant {
        self.live.record.placed_at
    }

    /// Whose word ended the call, once it is over.
    #[must_use]
    pub fn ended_by(&self) -> Option<EndedBy> {
        self.live.record.lock().ended
    }

    /// The `biz_opaque_callback_data` that came with `accept`.
    #[must_use]
    pub fn opaque_callback_data(&self) -> Option<String> {
        self.live.record.lock().opaque.clone()
    }

    /// One line on what has happened so far, for error texts.
    #[must_use]
    pub fn seen(&self) -> String {
        self.live.record.seen()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.phone_task.abort();
        self.live.record.end(EndedBy::Dropped, now());
    }
}
