//! A SIP phone: written by hand over UDP, so that it shares no library with the service. It answers, talks in G.711 or Opus,
//! and does in its call what it is told.

mod account;
mod calling;
mod challenge;
mod message;
pub(crate) mod rtp;
mod srtp;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::speech::Speech;
use crate::watched::{Watched, WatchedGuard};
pub use account::{DigestHash, SipAccount};
pub use calling::Dialled;
pub use challenge::Challenge;
pub use message::SipMessage;
pub use rtp::{Codec, PhoneAudio};
pub use srtp::Suite;

/// RFC 3261 T1.
const T1: Duration = Duration::from_millis(500);

/// How a phone behaves.
#[derive(Clone)]
pub struct SipPhoneOptions {
    /// What it says, as Opus or as samples.
    pub speech: Speech,
    /// A tone for the codecs of G.711, in Hz.
    pub tone_hz: f64,
    /// Every two seconds it pauses for 200 ms, and has this tone for 100 ms: see [`PhoneAudio::marks`].
    pub mark_hz: Option<f64>,
    /// How much faster its clock runs than ours, in parts per million.
    pub clock_drift_ppm: i32,
    /// The codec that it answers with.
    pub codec: Codec,
    /// What it does with an INVITE.
    pub answer: SipAnswer,
    /// Its messages have no Content-Length, as they may over UDP (RFC 3261 §18.3).
    pub leaves_out_length: bool,
    /// Further header lines of its final response to an INVITE.
    pub headers_of_answer: Vec<String>,
    /// The host and port that it believes to have, as behind a NAT; its own if None.
    pub believes_to_be_at: Option<SocketAddr>,
    /// How it encrypts if the offer has such a key; None for a phone that knows no SRTP.
    pub srtp: Option<Suite>,
    /// The direction in its 2xx.
    pub direction: &'static str,
    /// The address in its SDP, if it is not the one that it sends from, as behind a NAT.
    pub claims: Option<SocketAddr>,
    /// RTP sequence number of its first packet.
    pub first_sequence: u16,
    /// It is reached over IPv6.
    pub ipv6: bool,
}

/// What a phone does with an INVITE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SipAnswer {
    /// 180, then 200.
    Answer,
    /// 180, and nothing more until it is told.
    Ring,
    /// This code.
    Refuse(u16),
    /// Nothing at all.
    Ignore,
    /// 422 with this `Min-SE` at first, then 200.
    LongerSession(u32),
    /// 180, and a 200 that crosses the CANCEL.
    AnswerCancel,
    /// 183 that asks for a PRACK.
    Reliable(Reliable),
    /// A challenge first, as a server's with passwords; then 180 and 200 for whoever shows the password.
    Challenge(Challenge),
    /// The same, and this code for whoever shows it.
    ChallengeThen(Challenge, u16),
}

/// A provisional response that is acknowledged (RFC 3262).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reliable {
    /// Its SDP is in the 183.
    pub sdp_in_183: bool,
    /// And in the 200.
    pub sdp_in_200: bool,
    /// So many PRACKs get lost.
    pub lost_pracks: usize,
    /// 200 follows the PRACK; otherwise it waits to be told.
    pub answers: bool,
}

impl Default for SipPhoneOptions {
    fn default() -> Self {
        Self {
            speech: Speech::silence(),
            tone_hz: 1000.0,
            mark_hz: None,
            clock_drift_ppm: 0,
            codec: Codec::Pcmu,
            answer: SipAnswer::Answer,
            leaves_out_length: false,
            headers_of_answer: Vec::new(),
            believes_to_be_at: None,
            srtp: None,
            direction: "sendrecv",
            claims: None,
            first_sequence: 0,
            ipv6: false,
        }
    }
}

/// A phone that waits for a call.
pub struct SipPhone {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    socket: UdpSocket,
    address: SocketAddr,
    options: SipPhoneOptions,
    state: Watched<State>,
}

#[derive(Default)]
struct State {
    /// Everything that arrived, in order.
    received: Vec<SipMessage>,
    invites: usize,
    dialog: Option<Dialog>,
    /// Challenges sent.
    challenges: u32,
    /// The last ACK of a change, by the CSeq of the change.
    last_ack: Option<(String, String)>,
    /// CSeq of its last REGISTER.
    registrations: u32,
    pracks: usize,
    audio: Option<Arc<PhoneAudio>>,
}

/// The phone's side of its dialog.
#[derive(Clone)]
struct Dialog {
    invite: SipMessage,
    from: SocketAddr,
    tag: String,
    sequence: u32,
    version: u32,
}

impl SipPhone {
    /// A phone at a port of its own.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(options: SipPhoneOptions) -> anyhow::Result<Self> {
        let socket =
            UdpSocket::bind(if options.ipv6 { "[::1]:0" } else { "127.0.0.1:0" }).await.context("bind a phone")?;
        let address = socket.local_addr()?;
        let shared = Arc::new(Shared { socket, address, options, state: Watched::default() });
        let task = tokio::spawn(serve(shared.clone()));
        Ok(Self { shared, task })
    }

    /// Its address, such as `sip:200@127.0.0.1:5070`.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("sip:200@{}", self.shared.address)
    }

    /// Where it receives SIP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Everything that arrived so far.
    #[must_use]
    pub fn received(&self) -> Vec<SipMessage> {
        self.shared.state().received.clone()
    }

    /// Waits until something arrived for which `look` has an answer.
    ///
    /// # Errors
    /// When it does not come in time; the error says what came instead.
    pub async fn wait_for<T>(&self, what: &str, look: impl Fn(&SipMessage) -> Option<T>) -> anyhow::Result<T> {
        self.wait_for_all(what, |received| received.iter().find_map(&look)).await
    }

    /// Waits until all that arrived so far fulfils a condition.
    ///
    /// # Errors
    /// When it does not in time; the error says what came instead.
    pub async fn wait_until(&self, what: &str, is_so: impl Fn(&[SipMessage]) -> bool) -> anyhow::Result<()> {
        self.wait_for_all(what, |received| is_so(received).then_some(())).await
    }

    async fn wait_for_all<T>(&self, what: &str, look: impl Fn(&[SipMessage]) -> Option<T>) -> anyhow::Result<T> {
        let found = self.shared.state.wait(|state| look(&state.received));
        timeout(3 * crate::DEADLINE, found).await.with_context(|| {
            let came: Vec<String> = self.received().iter().map(|message| message.start.clone()).collect();
            format!("the phone waited for {what}; came: {came:?}")
        })
    }

    /// Waits for a request of this method.
    ///
    /// # Errors
    /// When it does not come in time.
    pub async fn request(&self, method: &str) -> anyhow::Result<SipMessage> {
        self.wait_for(method, |message| (message.method() == Some(method)).then(|| message.clone())).await
    }

    /// The audio of its call, once it has answered.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn audio(&self) -> anyhow::Result<Arc<PhoneAudio>> {
        let answered = self.shared.state.wait(|state| state.audio.clone());
        timeout(3 * crate::DEADLINE, answered).await.context("the phone has not answered")
    }

    /// Answers a call that rings.
    ///
    /// # Errors
    /// When nothing rings.
    pub async fn answer(&self) -> anyhow::Result<()> {
        let dialog = self.shared.dialog()?;
        self.shared.accept(&dialog).await
    }

    /// Answers a call that rings with this SDP.
    ///
    /// # Errors
    /// When nothing rings.
    pub async fn answer_with(&self, sdp: &str) -> anyhow::Result<()> {
        let dialog = self.shared.dialog()?;
        self.shared.respond(&dialog.invite, 200, &["Content-Type: application/sdp".to_owned()], sdp).await
    }

    /// Sends a request in its dialog and waits for the final response.
    ///
    /// # Errors
    /// When there is no dialog, or no response comes.
    pub async fn send(&self, method: &str, headers: &[&str], body: &str) -> anyhow::Result<SipMessage> {
        let request = self.shared.request(method, headers, body)?;
        self.exchange(&request, self.shared.dialog()?.from).await
    }

    /// Sends a request until its final response comes.
    async fn exchange(&self, request: &SipMessage, to: SocketAddr) -> anyhow::Result<SipMessage> {
        let text = request.to_string();
        let is_final = |message: &SipMessage| {
            let is_response = message.code().is_some_and(|code| code >= 200);
            let is_of = ["Call-ID", "CSeq"].iter().all(|name| message.header(name) == request.header(name));
            (is_response && is_of).then(|| message.clone())
        };
        let sending = async {
            let mut pause = T1;
            loop {
                self.shared.socket.send_to(text.as_bytes(), to).await?;
                if let Ok(found) = timeout(pause, self.wait_for("a response", is_final)).await {
                    return found;
                }
                pause = (pause * 2).min(8 * T1);
            }
        };
        timeout(3 * crate::DEADLINE, sending).await.context("no response")?
    }

    /// Its requests go there from now on, as to another connection to the service.
    ///
    /// # Errors
    /// When there is no dialog.
    pub fn send_to(&self, address: SocketAddr) -> anyhow::Result<()> {
        self.shared.state().dialog.as_mut().context("nobody calls the phone")?.from = address;
        Ok(())
    }

    /// Sends a re-INVITE, and the ACK of its response with this body.
    ///
    /// # Errors
    /// When there is no dialog, or no response comes.
    pub async fn reinvite(&self, sdp: &str, ack_sdp: &str) -> anyhow::Result<SipMessage> {
        self.reinvite_with(&[], sdp, ack_sdp).await
    }

    /// The same with further header lines.
    ///
    /// # Errors
    /// When there is no dialog, or no response comes.
    pub async fn reinvite_with(&self, headers: &[&str], sdp: &str, ack_sdp: &str) -> anyhow::Result<SipMessage> {
        let kind: Vec<&str> = if sdp.is_empty() { Vec::new() } else { vec!["Content-Type: application/sdp"] };
        let headers: Vec<&str> = headers.iter().copied().chain(kind).collect();
        let response = self.send("INVITE", &headers, sdp).await?;
        let kind: &[&str] = if ack_sdp.is_empty() { &[] } else { &["Content-Type: application/sdp"] };
        let ack = self.shared.ack(&response, kind, ack_sdp)?.to_string();
        let to = self.shared.dialog()?.from;
        self.shared.state().last_ack = response.header("CSeq").map(|cseq| (cseq.to_owned(), ack.clone()));
        self.shared.socket.send_to(ack.as_bytes(), to).await?;
        Ok(response)
    }

    /// Its SDP in this direction, with a higher version.
    ///
    /// # Errors
    /// When it has not answered.
    pub fn sdp(&self, direction: &str) -> anyhow::Result<String> {
        let mut state = self.shared.state();
        let audio = state.audio.clone().context("the phone has answered")?;
        let dialog = state.dialog.as_mut().context("a dialog")?;
        dialog.version += 1;
        Ok(audio.sdp(dialog.version, direction))
    }

    /// Hangs up.
    ///
    /// # Errors
    /// When there is no dialog, or no response comes.
    pub async fn hang_up(&self) -> anyhow::Result<u16> {
        let response = self.send("BYE", &[], "").await?;
        response.code().context("a response")
    }
}

impl Drop for SipPhone {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn state(&self) -> WatchedGuard<'_, State> {
        self.state.lock()
    }

    fn dialog(&self) -> anyhow::Result<Dialog> {
        self.state().dialog.clone().context("nobody calls the phone")
    }

    /// The address that it gives as its own.
    fn contact(&self) -> SocketAddr {
        self.options.believes_to_be_at.unwrap_or(self.address)
    }

    async fn respond(&self, to: &SipMessage, code: u16, headers: &[String], body: &str) -> anyhow::Result<()> {
        let dialog = self.dialog()?;
        let mut response = to.response(code, &dialog.tag, self.contact(), headers, body);
        response.headers.retain(|(name, _)| !self.options.leaves_out_length || name != "Content-Length");
        self.socket.send_to(response.to_string().as_bytes(), dialog.from).await?;
        Ok(())
    }

    async fn accept(&self, dialog: &Dialog) -> anyhow::Result<()> {
        let sdp = self.begin_audio(dialog).await?;
        let mut headers = self.options.headers_of_answer.clone();
        if let SipAnswer::Reliable(Reliable { sdp_in_200: false, .. }) = self.options.answer {
            return self.respond(&dialog.invite, 200, &headers, "").await;
        }
        headers.push("Content-Type: application/sdp".to_owned());
        self.respond(&dialog.invite, 200, &headers, &sdp).await
    }

    /// Its SDP. It talks from now on.
    async fn begin_audio(&self, dialog: &Dialog) -> anyhow::Result<String> {
        let begun = self.state().audio.clone();
        let audio = match begun {
            Some(audio) => audio,
            None => PhoneAudio::start(&dialog.invite.body, &self.options).await?,
        };
        self.state().audio = Some(audio.clone());
        Ok(audio.sdp(dialog.version, self.options.direction))
    }

    async fn progress(&self, dialog: &Dialog, reliable: Reliable) -> anyhow::Result<()> {
        let mut headers = vec!["Require: 100rel".to_owned(), "RSeq: 7001".to_owned()];
        if !reliable.sdp_in_183 {
            return self.respond(&dialog.invite, 183, &headers, "").await;
        }
        headers.push("Content-Type: application/sdp".to_owned());
        let sdp = self.begin_audio(dialog).await?;
        self.respond(&dialog.invite, 183, &headers, &sdp).await
    }

    async fn acknowledged(&self, prack: &SipMessage, reliable: Reliable) -> anyhow::Result<()> {
        let count = {
            let mut state = self.state();
            state.pracks += 1;
            state.pracks
        };
        if count <= reliable.lost_pracks {
            return Ok(());
        }
        self.respond(prack, 200, &[], "").await?;
        match reliable.answers && count == reliable.lost_pracks + 1 {
            true => self.accept(&self.dialog()?).await,
            false => Ok(()),
        }
    }

    /// A 2xx that comes again has not seen its ACK (RFC 3261 §13.2.2.4).
    async fn acknowledge_again(&self, response: &SipMessage) -> anyhow::Result<()> {
        let last = self.state().last_ack.clone();
        let Some((_, ack)) = last.filter(|(cseq, _)| response.header("CSeq") == Some(cseq)) else { return Ok(()) };
        self.socket.send_to(ack.as_bytes(), self.dialog()?.from).await?;
        Ok(())
    }

    /// A request of the phone in its dialog: what was From is To.
    fn request(&self, method: &str, headers: &[&str], body: &str) -> anyhow::Result<SipMessage> {
        let mut state = self.state();
        let dialog = state.dialog.as_mut().context("nobody calls the phone")?;
        dialog.sequence += 1;
        let dialog = dialog.clone();
        drop(state);
        SipMessage::request_in(&dialog.invite, (method, dialog.sequence), (&dialog.tag, self.contact()), headers, body)
    }

    fn ack(&self, response: &SipMessage, headers: &[&str], body: &str) -> anyhow::Result<SipMessage> {
        let dialog = self.dialog()?;
        let mut ack = SipMessage::request_in(
            &dialog.invite,
            ("ACK", sequence_of(response).unwrap_or(dialog.sequence)),
            (&dialog.tag, self.contact()),
            headers,
            body,
        )?;
        // RFC 3261 §17.1.1.3: the ACK of a refusal belongs to the INVITE's transaction.
        if response.code().is_some_and(|code| code >= 300) {
            let via = response.header("Via").context("a Via")?.to_owned();
            ack.set_header("Via", via);
        }
        Ok(ack)
    }
}

fn sequence_of(response: &SipMessage) -> Option<u32> {
    response.header("CSeq")?.split(' ').next()?.parse().ok()
}

async fn serve(shared: Arc<Shared>) {
    let mut buffer = [0; 16 * 1024];
    while let Ok((length, from)) = shared.socket.recv_from(&mut buffer).await {
        let Some(message) = SipMessage::parse(&buffer[..length]) else { continue };
        // The scenario sees what went wrong by what does not come.
        let _ = take(&shared, message, from).await;
    }
}

async fn take(shared: &Shared, message: SipMessage, from: SocketAddr) -> anyhow::Result<()> {
    if message.method() == Some("INVITE") {
        return ring(shared, message, from).await;
    }
    shared.state().received.push(message.clone());
    match message.method() {
        Some("CANCEL") => {
            shared.respond(&message, 200, &[], "").await?;
            let dialog = shared.dialog()?;
            match shared.options.answer == SipAnswer::AnswerCancel {
                true => shared.accept(&dialog).await,
                false => shared.respond(&dialog.invite, 487, &[], "").await,
            }
        }
        Some("ACK") => Ok(()),
        None => shared.acknowledge_again(&message).await,
        Some("PRACK") => match shared.options.answer {
            SipAnswer::Reliable(reliable) => shared.acknowledged(&message, reliable).await,
            _ => shared.respond(&message, 481, &[], "").await,
        },
        Some("OPTIONS") if shared.dialog().is_err() => {
            // Whoever ignores calls is dead.
            if shared.options.answer != SipAnswer::Ignore {
                let response = message.response(200, "options", shared.contact(), &[], "");
                shared.socket.send_to(response.to_string().as_bytes(), from).await?;
            }
            Ok(())
        }
        Some(_) => shared.respond(&message, 200, &[], "").await,
    }
}

async fn ring(shared: &Shared, invite: SipMessage, from: SocketAddr) -> anyhow::Result<()> {
    let count = {
        let mut state = shared.state();
        let is_known = state.dialog.as_ref().is_some_and(|dialog| dialog.invite.header("Via") == invite.header("Via"));
        // Shown together with its dialog: a test that waits for the INVITE may answer at once.
        state.received.push(invite.clone());
        if is_known {
            return Ok(());
        }
        state.invites += 1;
        let tag = format!("phone{}", state.invites);
        (state.audio, state.pracks) = (None, 0);
        state.dialog = Some(Dialog { invite: invite.clone(), from, tag, sequence: 1, version: 1 });
        state.invites
    };
    match &shared.options.answer {
        SipAnswer::Challenge(challenge) | SipAnswer::ChallengeThen(challenge, _)
            if !challenge.is_met(&invite, shared.state().challenges) =>
        {
            let count = {
                let mut state = shared.state();
                state.challenges += 1;
                state.challenges
            };
            shared.respond(&invite, challenge.code, &challenge.headers(count), "").await
        }
        SipAnswer::ChallengeThen(_, code) => shared.respond(&invite, *code, &[], "").await,
        SipAnswer::Ignore => Ok(()),
        SipAnswer::Refuse(code) => shared.respond(&invite, *code, &shared.options.headers_of_answer, "").await,
        SipAnswer::Reliable(reliable) => shared.progress(&shared.dialog()?, *reliable).await,
        SipAnswer::LongerSession(seconds) if count == 1 => {
            shared.respond(&invite, 422, &[format!("Min-SE: {seconds}")], "").await
        }
        SipAnswer::Ring | SipAnswer::AnswerCancel => shared.respond(&invite, 180, &[], "").await,
        SipAnswer::Answer | SipAnswer::LongerSession(_) | SipAnswer::Challenge(_) => {
            shared.respond(&invite, 180, &[], "").await?;
            let dialog = shared.dialog()?;
            shared.accept(&dialog).await
        }
    }
}
