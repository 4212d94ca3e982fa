//! A phone that has called us, as the agent of its call: it is there from the first moment, and is answered when the person
//! on WhatsApp accepts.

use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use super::media::PhoneMedia;
use super::{Ending, Phone, SipOptions, report, talk};
use crate::agent::notice::Notice;
use crate::agent::port::AgentPort;
use crate::call::agent_failure::AgentFailureKind;
use crate::clock;
use crate::sip::{SipEvent, SipLeg, WaitingPhone};

/// A phone that waits for its call. Clones share it, and the first attempt takes it.
#[derive(Clone)]
pub struct CallingPhone(Arc<Mutex<Option<WaitingPhone>>>);

impl CallingPhone {
    /// The agent of the call that this phone asks for.
    pub fn new(phone: WaitingPhone) -> Self {
        Self(Arc::new(Mutex::new(Some(phone))))
    }

    fn take(&self) -> Option<WaitingPhone> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for CallingPhone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallingPhone")
    }
}

/// Keeps the phone waiting, answers it in time, and stays until the phone or the call hangs up.
pub(in crate::agent) async fn run(phone: CallingPhone, port: Rc<AgentPort>, options: Option<SipOptions>) {
    let Some((options, phone)) = options.zip(phone.take()) else {
        return port.failed(AgentFailureKind::Disconnected.because("the phone has left the call"));
    };
    report(wait_and_talk(phone, &port, &options).await, &port);
}

async fn wait_and_talk(phone: WaitingPhone, port: &AgentPort, options: &SipOptions) -> Ending {
    let answered = PhoneMedia::answer_call(port, &phone, options.audio);
    let WaitingPhone { mut leg, responder, .. } = phone;
    let (media, answer) = match answered {
        Ok(answered) => answered,
        Err(failure) => {
            match failure.kind == AgentFailureKind::ProtocolError {
                true => responder.refuse(488, failure.kind.name()),
                false => responder.refuse(503, "overloaded"),
            }
            leg.hang_up(failure.kind.name());
            return Ending::Failed(failure);
        }
    };
    port.joined();
    let accepted = until_accepted(&mut leg, port).await;
    let mut phone = Phone { leg, media, is_accepted: true };
    match accepted.and_then(|()| phone.media.accepted(clock::now()).map_err(Ending::Failed)) {
        Ok(()) => {
            responder.accept(answer);
            talk(phone, port).await
        }
        Err(ending) => {
            phone.hang_up(ending.reason(), port);
            ending
        }
    }
}

/// Waits until the person has accepted. The call itself ends when that takes too long.
async fn until_accepted(leg: &mut SipLeg, port: &AgentPort) -> Result<(), Ending> {
    loop {
        while let Some(notice) = port.next_notice() {
            if matches!(notice, Notice::Accepted) {
                return Ok(());
            }
        }
        tokio::select! {
            reason = port.dismissed() => return Err(Ending::Dismissed(reason)),
            () = port.output() => {}
            event = leg.next() => match event {
                Some(SipEvent::HungUp) | None => return Err(Ending::HungUp),
                Some(SipEvent::Failed(failure)) => return Err(Ending::Failed(failure)),
                Some(
                    SipEvent::Ringing
                    | SipEvent::Answered { .. }
                    | SipEvent::Offered { .. }
                    | SipEvent::LateAnswer { .. }
                    | SipEvent::Digit(_)
                    | SipEvent::Referred { .. },
                ) => {}
            },
        }
    }
}
