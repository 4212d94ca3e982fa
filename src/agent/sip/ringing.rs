//! Ringing: one or several phones ring for a call, each with a line of its own, and the first that answers has it.

use std::time::Duration;

use futures_util::future::select_all;
use tokio::time::sleep_until;

use super::media::PhoneMedia;
use super::{Ending, SipOptions};
use crate::agent::port::AgentPort;
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::clock;
use crate::sip::{CALL_ID, Callee, Invite, SipEvent, SipLeg};

/// A phone that is called, or has answered.
pub(super) struct Phone {
    pub leg: SipLeg,
    pub media: PhoneMedia,
    /// The caller heard the call before it answered.
    pub is_accepted: bool,
}

/// Rings the phones of each round at once, and one round after the other. Gives the one that answered; the others are
/// cancelled.
pub(super) async fn ring(
    rounds: Vec<Vec<Callee>>,
    headers: &[(String, String)],
    port: &AgentPort,
    options: &SipOptions,
) -> Result<Phone, Ending> {
    let each = options.ring_timeout / rounds.len().max(1) as u32;
    let mut ending = Ending::Failed(AgentFailureKind::Refused.because("there is no phone to ring"));
    for round in rounds {
        ending = match Ringing::begin(round, headers, port, options).last(each).await {
            Err(Ending::Failed(failure)) if !is_everywhere(&failure) => Ending::Failed(failure),
            answered => return answered,
        };
    }
    Err(ending)
}

/// The phones that ring at once.
struct Ringing<'a> {
    phones: Vec<Phone>,
    /// Of the phone that failed last.
    failure: Option<AgentFailure>,
    port: &'a AgentPort,
}

impl<'a> Ringing<'a> {
    fn begin(round: Vec<Callee>, headers: &[(String, String)], port: &'a AgentPort, options: &SipOptions) -> Self {
        let (mut phones, mut failure) = (Vec::new(), None);
        for callee in round {
            match Phone::call(callee, headers, port, options) {
                Ok(phone) => phones.push(phone),
                Err(why) => failure = Some(why),
            }
        }
        Self { phones, failure, port }
    }

    async fn last(mut self, ring_timeout: Duration) -> Result<Phone, Ending> {
        let mut standstills = self.port.standstills();
        let mut give_up_at = clock::now() + ring_timeout;
        while !self.phones.is_empty() {
            tokio::select! {
                reason = self.port.dismissed() => return Err(self.stop(Ending::Dismissed(reason))),
                (index, event) = next_event(&mut self.phones) => {
                    if let Some(answered) = self.follow(index, event) {
                        self.hang_up("answered_elsewhere");
                        return Ok(answered);
                    }
                }
                () = sleep_until(give_up_at.into()) => match standstills.next(clock::now()) {
                    Some(gap) => give_up_at += gap,
                    None => {
                        let waited = crate::telemetry::shown(ring_timeout);
                        let failure = AgentFailureKind::NoAnswer.because(format_args!("it rang for {waited}"));
                        return Err(self.stop(Ending::Failed(failure)));
                    }
                },
            }
        }
        let failure =
            self.failure.take().unwrap_or_else(|| AgentFailureKind::Refused.because("no phone could be rung"));
        Err(Ending::Failed(failure))
    }

    /// Gives the phone if it has answered.
    fn follow(&mut self, index: usize, event: Option<SipEvent>) -> Option<Phone> {
        let failure = match event {
            Some(SipEvent::Answered(answer)) => {
                let phone = &mut self.phones[index];
                match phone.media.answered(self.port, &answer, clock::now()) {
                    Ok(()) => return Some(self.phones.swap_remove(index)),
                    Err(failure) => failure,
                }
            }
            Some(SipEvent::Failed(failure)) => failure,
            Some(SipEvent::HungUp) | None => AgentFailureKind::Refused.because("it hung up before it answered"),
            Some(
                SipEvent::Ringing
                | SipEvent::Offered { .. }
                | SipEvent::LateAnswer { .. }
                | SipEvent::Digit(_)
                | SipEvent::Referred { .. },
            ) => return None,
        };
        self.phones.swap_remove(index).hang_up(failure.kind.name(), self.port);
        if is_everywhere(&failure) {
            self.hang_up(failure.kind.name());
        }
        self.failure = Some(failure);
        None
    }

    fn stop(&mut self, ending: Ending) -> Ending {
        self.hang_up(ending.reason());
        ending
    }

    fn hang_up(&mut self, reason: &'static str) {
        for phone in self.phones.drain(..) {
            phone.hang_up(reason, self.port);
        }
    }
}

/// Whether the user has refused the call for all phones (RFC 3261 §16.7, on 6xx).
fn is_everywhere(failure: &AgentFailure) -> bool {
    matches!(failure.sip_code, Some(600..=699))
}

impl Phone {
    fn call(
        callee: Callee,
        headers: &[(String, String)],
        port: &AgentPort,
        options: &SipOptions,
    ) -> Result<Self, AgentFailure> {
        let (media, offer) = PhoneMedia::offer(port, &callee, options.audio)?;
        let referred = callee.headers().iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let ours = [(CALL_ID.to_owned(), port.call_id().to_string())].into_iter();
        let headers = ours.chain(referred).chain(headers.iter().cloned()).collect();
        let number = port.description().user.wa_id.clone();
        let leg = options.user_agent.call(Invite { to: callee, offer, headers, number });
        Ok(Self { leg, media, is_accepted: false })
    }

    /// Cancels the call or hangs up, unless the phone has ended it itself, and closes its audio.
    pub fn hang_up(self, reason: &'static str, port: &AgentPort) {
        self.leg.hang_up(reason);
        self.media.close(port);
    }
}

/// The next event of any phone, with its place. There is at least one.
async fn next_event(phones: &mut [Phone]) -> (usize, Option<SipEvent>) {
    let waiting = phones.iter_mut().map(|phone| Box::pin(phone.leg.next()));
    let (event, index, _) = select_all(waiting).await;
    (index, event)
}
