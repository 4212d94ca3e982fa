//! The SDP of a call: our answer to Meta's offer, our offer, and Meta's answer, each by the worker.

use patchcord_media::sdp::Answer as SdpAnswer;
use tokio::sync::oneshot;
use tracing::Instrument;

use super::{Session, signaling};
use crate::call::Input;
use crate::call::end::EndReason;
use crate::worker::{Answer, Command, MakeOffer};

impl Session {
    pub(super) async fn answer_offer(&mut self) {
        let offer = match self.context.origin.offer() {
            None => return,
            Some(Ok(offer)) => offer,
            Some(Err(error)) => {
                let refused = Input::Answered(Err(EndReason::OfferRefused(error.to_string())));
                self.requests.spawn(async { Some(refused) });
                return;
            }
        };
        let (reply, answered) = oneshot::channel();
        let media = self.context.media_options();
        let answer = Answer { offer, media, reports: self.worker.report_sender(), reply };
        // Sent before the wait, so that it cannot come after the release of an early end.
        self.command(Command::Answer(answer)).await;
        let answered = self.worker.answer(answered);
        self.requests.spawn(
            async { Some(Input::Answered(answered.await.unwrap_or(Err(EndReason::InternalError)))) }.in_current_span(),
        );
    }

    pub(super) async fn make_offer(&mut self) {
        let (reply, offered) = oneshot::channel();
        let (media, reports) = (self.context.media_options(), self.worker.report_sender());
        self.command(Command::Offer(MakeOffer { media, reports, reply })).await;
        let offered = self.worker.answer(offered);
        self.requests.spawn(
            async { Some(Input::Offered(offered.await.unwrap_or(Err(EndReason::InternalError)))) }.in_current_span(),
        );
    }

    pub(super) async fn apply_answer(&mut self, answer: &str) {
        let answer = match SdpAnswer::parse(answer) {
            Ok(answer) => Box::new(answer),
            Err(error) => {
                let refused = Input::HangUp(EndReason::AnswerRefused(error.to_string()));
                self.requests.spawn(async { Some(refused) });
                return;
            }
        };
        let (reply, applied) = oneshot::channel();
        self.command(Command::ApplyAnswer { call: self.context.id.clone(), answer, reply }).await;
        let applied = self.worker.answer(applied);
        let reply = self.app_signaling.take_answer_reply();
        let outcome = async {
            let applied = applied.await.unwrap_or(Err(EndReason::InternalError));
            if let Some(reply) = reply {
                signaling::reply_to_answer(reply, &applied);
            }
            applied.err().map(Input::HangUp)
        };
        self.requests.spawn(outcome.in_current_span());
    }
}
