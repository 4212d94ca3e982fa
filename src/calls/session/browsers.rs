//! Pages: their requests to the worker, and the agent's page as the call's agent.

use patchcord_media::sdp::Offer;
use tokio::sync::oneshot;

use super::{MAX_ATTEMPTS, Session};
use crate::agent::{AgentTarget, BrowserId};
use crate::browser::token::{Grant, TokenDigest, WebRtcRole};
use crate::call::refusal::{Refusal, RefusalCode};
use crate::call::{Attempt, Call, Request};
use crate::clock;
use crate::worker::{BrowserAnswer, BrowserCommand, Command};

/// A request of a page.
pub enum BrowserRequest {
    /// It offers.
    Offer(BrowserOffer),
    /// For the worker alone.
    ForWorker(BrowserCommand),
}

/// A page's offer, with what its token grants.
pub struct BrowserOffer {
    /// Its SDP.
    pub offer: Box<Offer>,
    /// What the token grants.
    pub grant: Grant,
    /// The token, which later requests show again.
    pub token: TokenDigest,
    /// Our answer, or the refusal.
    pub reply: oneshot::Sender<Result<BrowserAnswer, Refusal>>,
}

/// The worker's answer to a page, before the call knows of the page.
pub(super) struct AnsweredBrowser {
    answer: Result<BrowserAnswer, Refusal>,
    grant: Grant,
    token: TokenDigest,
    reply: oneshot::Sender<Result<BrowserAnswer, Refusal>>,
}

impl Session {
    pub(super) async fn browser_request(&mut self, call: &Call, request: BrowserRequest) {
        match request {
            BrowserRequest::Offer(offer) if call.state_name() == "answering" => {
                // The worker has not taken the call yet.
                let advice = "the call is not set up yet: try again shortly";
                let _ = offer.reply.send(Err(Refusal::new(RefusalCode::CallNotAccepted, advice)));
            }
            BrowserRequest::Offer(offer) => self.answer_browser(offer).await,
            BrowserRequest::ForWorker(command) => self.browser_command(command).await,
        }
    }

    async fn answer_browser(&mut self, offer: BrowserOffer) {
        let BrowserOffer { offer, grant, token, reply } = offer;
        let (to_us, answered) = oneshot::channel();
        self.browser_command(BrowserCommand::Answer { offer, role: grant.role, token, reply: to_us }).await;
        let answered = self.worker.answer(answered);
        self.browsers.spawn(async move {
            let late = || Err(Refusal::new(RefusalCode::InternalError, "the call's worker does not answer"));
            AnsweredBrowser { answer: answered.await.unwrap_or_else(late), grant, token, reply }
        });
    }

    /// An agent's page becomes the call's agent; a participant is in the call already.
    pub(super) async fn browser_answered(&mut self, call: &mut Call, answered: AnsweredBrowser) {
        let AnsweredBrowser { answer, grant, token, reply } = answered;
        let outcome = match answer {
            // The page will not hear our answer.
            Ok(answer) if reply.is_closed() => Err((no_page(), Some(answer.browser))),
            Ok(answer) if grant.role == WebRtcRole::Agent => {
                match self.seat_browser(call, &grant, answer.browser).await {
                    Ok(()) => Ok(answer),
                    Err(refusal) => Err((refusal, Some(answer.browser))),
                }
            }
            Ok(answer) => Ok(answer),
            Err(refusal) => Err((refusal, None)),
        };
        if let Err((_, Some(browser))) = outcome {
            let (reply, _) = oneshot::channel();
            self.browser_command(BrowserCommand::Leave { browser, token, reply }).await;
        }
        let _ = reply.send(outcome.map_err(|(refusal, _)| refusal));
    }

    /// An agent's page takes the call, or takes it over from the present agent, once it is connected.
    async fn seat_browser(&mut self, call: &mut Call, grant: &Grant, browser: BrowserId) -> Result<(), Refusal> {
        if let Some(agent) = &grant.agent {
            return self.seat_queue_agent(call, agent, browser).await;
        }
        self.take_over(call, AgentTarget::Browser(browser)).map(drop)
    }

    /// A page or socket that was not dialled takes the call over. Gives its attempt.
    pub(super) fn take_over(&mut self, call: &mut Call, target: AgentTarget) -> Result<Attempt, Refusal> {
        if self.targets.len() >= MAX_ATTEMPTS {
            let advice = format!("this call was put through {MAX_ATTEMPTS} times, which is enough");
            return Err(Refusal::new(RefusalCode::TooManyAttempts, advice));
        }
        call.request(Request::TakeOver, clock::now())?;
        // The call numbers it after the attempts it had.
        self.targets.push(target);
        Ok(Attempt::new(self.targets.len() - 1))
    }

    async fn browser_command(&mut self, command: BrowserCommand) {
        self.command(Command::Browser { call: self.context.id.clone(), command }).await;
    }
}

fn no_page() -> Refusal {
    Refusal::new(RefusalCode::NoAnswer, "the page has closed its request")
}
