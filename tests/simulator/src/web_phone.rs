//! A SIP phone in a browser: SIP over a WebSocket (RFC 7118), written by hand, and WebRTC by a [`Page`].
//!
//! It registers with a password, answers, and does in its call what it is told.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::DEADLINE;
use crate::page::Page;
use crate::sip_phone::SipMessage;
use crate::speech::Speech;
use crate::watched::{Watched, WatchedGuard};

/// Messages that wait for the socket.
const OUTBOX: usize = 64;
/// Stands where a message has an address of UDP; it is replaced.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Who a phone is, and what it says.
#[derive(Clone, Debug)]
pub struct WebPhoneOptions {
    /// Its user.
    pub user: String,
    /// The user's password.
    pub password: String,
    /// The domain that it registers for.
    pub domain: String,
    /// What it says once it is connected.
    pub speech: Speech,
    /// Whether it answers by itself; otherwise it rings until it is told.
    pub answers: bool,
}

/// A phone that is connected.
pub struct WebPhone {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    options: WebPhoneOptions,
    /// As JsSIP makes them: nobody else can reach it.
    host: String,
    outbox: mpsc::Sender<Message>,
    state: Watched<State>,
}

#[derive(Default)]
struct State {
    received: Vec<SipMessage>,
    is_closed: bool,
    dialog: Option<Dialog>,
    page: Option<Arc<Page>>,
    registered: u32,
}

/// Its side of the call.
#[derive(Clone)]
struct Dialog {
    invite: SipMessage,
    tag: String,
    sequence: u32,
}

impl WebPhone {
    /// Opens a socket at this address, such as `ws://127.0.0.1:8080/sip`.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn connect(url: &str, options: WebPhoneOptions) -> anyhow::Result<Self> {
        let mut request = url.into_client_request()?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("sip"));
        let (socket, response) = tokio_tungstenite::connect_async(request).await.context("open a WebSocket")?;
        let protocol = response.headers().get("Sec-WebSocket-Protocol").and_then(|value| value.to_str().ok());
        anyhow::ensure!(protocol == Some("sip"), "the subprotocol is {protocol:?}");
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        let host = format!("{:012x}.invalid", rand::random::<u64>() >> 16);
        let shared = Arc::new(Shared { options, host, outbox, state: Watched::default() });
        let task = tokio::spawn(serve(shared.clone(), socket, inbox));
        Ok(Self { shared, task })
    }

    /// Registers for this many seconds, answering the challenge; gives the last response. 0 takes it back.
    ///
    /// # Errors
    /// When no response comes.
    pub async fn register(&self, seconds: u32) -> anyhow::Result<SipMessage> {
        let challenge = self.shared.register(seconds, None).await?;
        let Some(line) = challenge
            .headers
            .iter()
            .find(|(name, value)| name.eq_ignore_ascii_case("WWW-Authenticate") && value.contains("SHA-256"))
        else {
            return Ok(challenge);
        };
        let authorization =
            self.shared.authorization(&line.1, "REGISTER", &format!("sip:{}", self.shared.options.domain))?;
        self.shared.register(seconds, Some(authorization)).await
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
        self.shared.wait_for(what, look).await
    }

    /// Waits for a request of this method.
    ///
    /// # Errors
    /// When it does not come in time.
    pub async fn request(&self, method: &str) -> anyhow::Result<SipMessage> {
        self.wait_for(method, |message| (message.method() == Some(method)).then(|| message.clone())).await
    }

    /// Its WebRTC, once it has answered.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn page(&self) -> anyhow::Result<Arc<Page>> {
        self.shared.wait("an answered call", |state| state.page.clone()).await
    }

    /// Answers a call that rings.
    ///
    /// # Errors
    /// When nothing rings, or the offer cannot be used.
    pub async fn answer(&self) -> anyhow::Result<()> {
        self.shared.answer().await
    }

    /// Calls a number with an offer of WebRTC, answers the challenge, and talks once the call is taken; gives the final
    /// response.
    ///
    /// # Errors
    /// When no response comes, or its answer cannot be used.
    pub async fn call(&self, number: &str) -> anyhow::Result<SipMessage> {
        self.shared.call(number).await
    }

    /// Refuses a call that rings, or answers with this body.
    ///
    /// # Errors
    /// When nothing rings.
    pub async fn respond(&self, code: u16, headers: &[String], body: &str) -> anyhow::Result<()> {
        let dialog = self.shared.dialog()?;
        self.shared.respond(&dialog.invite, code, headers, body).await
    }

    /// Sends a request in its dialog and waits for the final response.
    ///
    /// # Errors
    /// When there is no dialog, or no response comes.
    pub async fn send(&self, method: &str, headers: &[&str], body: &str) -> anyhow::Result<SipMessage> {
        let dialog = self.shared.next_dialog()?;
        self.shared.send_in(&dialog, (method, dialog.sequence), headers, body).await?;
        self.shared.final_response(&format!("{} {method}", dialog.sequence), None).await
    }

    /// Sends a re-INVITE, and the ACK of its response.
    ///
    /// # Errors
    /// When there is no dialog, or no response comes.
    pub async fn reinvite(&self, sdp: &str) -> anyhow::Result<SipMessage> {
        let kind: &[&str] = if sdp.is_empty() { &[] } else { &["Content-Type: application/sdp"] };
        let response = self.send("INVITE", kind, sdp).await?;
        self.shared.acknowledge(&response).await?;
        Ok(response)
    }

    /// Hangs up.
    ///
    /// # Errors
    /// When there is no dialog, or no response comes.
    pub async fn hang_up(&self) -> anyhow::Result<u16> {
        self.send("BYE", &[], "").await?.code().context("a response")
    }

    /// Sends any frame.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn send_frame(&self, frame: Message) -> anyhow::Result<()> {
        self.shared.outbox.send(frame).await.context("the socket is closed")
    }

    /// Waits until the service closes the socket.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn closed(&self) -> anyhow::Result<()> {
        self.shared.wait("the socket to be closed", |state| state.is_closed.then_some(())).await
    }
}

impl Drop for WebPhone {
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

    fn next_dialog(&self) -> anyhow::Result<Dialog> {
        let mut state = self.state();
        let dialog = state.dialog.as_mut().context("nobody calls the phone")?;
        dialog.sequence += 1;
        Ok(dialog.clone())
    }

    fn contact(&self) -> String {
        format!("<sip:{}@{};transport=ws;ob>", self.options.user, self.host)
    }

    fn via(&self) -> String {
        format!("SIP/2.0/WS {};branch=z9hG4bK{:x}", self.host, rand::random::<u64>())
    }

    async fn wait<T>(&self, what: &str, look: impl Fn(&State) -> Option<T>) -> anyhow::Result<T> {
        timeout(3 * DEADLINE, self.state.wait(look)).await.with_context(|| {
            let state = self.state();
            let came: Vec<&str> = state.received.iter().map(|message| message.start.as_str()).collect();
            format!("the phone waited for {what}; came: {came:?}; closed: {}", state.is_closed)
        })
    }

    async fn wait_for<T>(&self, what: &str, look: impl Fn(&SipMessage) -> Option<T>) -> anyhow::Result<T> {
        self.wait(what, |state| state.received.iter().find_map(&look)).await
    }

    /// The final response to the request of this `CSeq`, and of this `Call-ID` if there are several.
    async fn final_response(&self, sequence: &str, call_id: Option<&str>) -> anyhow::Result<SipMessage> {
        let is_it = |message: &SipMessage| {
            let is_final = message.code().is_some_and(|code| code >= 200);
            let is_of = message.header("CSeq") == Some(sequence);
            let is_of_call = call_id.is_none_or(|call_id| message.header("Call-ID") == Some(call_id));
            (is_final && is_of && is_of_call).then(|| message.clone())
        };
        self.wait_for(&format!("the response to {sequence}"), is_it).await
    }

    async fn write(&self, message: &SipMessage) -> anyhow::Result<()> {
        self.outbox.send(Message::text(message.to_string())).await.context("the socket is closed")
    }

    async fn register(&self, seconds: u32, authorization: Option<String>) -> anyhow::Result<SipMessage> {
        let sequence = {
            let mut state = self.state();
            state.registered += 1;
            state.registered
        };
        let WebPhoneOptions { user, domain, .. } = &self.options;
        let call_id = format!("register@{}", self.host);
        let mut headers: Vec<(String, String)> = [
            ("Via", self.via()),
            ("Max-Forwards", "69".to_owned()),
            ("To", format!("<sip:{user}@{domain}>")),
            ("From", format!("<sip:{user}@{domain}>;tag=r{sequence}")),
            ("Call-ID", call_id.clone()),
            ("CSeq", format!("{sequence} REGISTER")),
            (
                "Contact",
                format!(
                    "{};+sip.ice;reg-id=1;+sip.instance=\"<urn:uuid:{}>\";expires={seconds}",
                    self.contact(),
                    self.host
                ),
            ),
            ("Expires", seconds.to_string()),
            ("Supported", "path,gruu,outbound".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        headers.extend(authorization.map(|value| ("Authorization".to_owned(), value)));
        // Without Content-Length: a frame says how long its message is.
        self.write(&SipMessage { start: format!("REGISTER sip:{domain} SIP/2.0"), headers, body: String::new() })
            .await?;
        self.final_response(&format!("{sequence} REGISTER"), Some(&call_id)).await
    }

    /// RFC 7616, with SHA-256.
    fn authorization(&self, challenge: &str, method: &str, uri: &str) -> anyhow::Result<String> {
        let part = |name: &str| {
            let (_, rest) = challenge.split_once(&format!("{name}=\"")).with_context(|| format!("a {name}"))?;
            rest.split_once('"').map(|(value, _)| value).context("a quote")
        };
        let (realm, nonce) = (part("realm")?, part("nonce")?);
        let WebPhoneOptions { user, password, .. } = &self.options;
        let cnonce = format!("{:x}", rand::random::<u64>());
        let proof = hash(&format!("{user}:{realm}:{password}"));
        let request = hash(&format!("{method}:{uri}"));
        let response = hash(&format!("{proof}:{nonce}:00000001:{cnonce}:auth:{request}"));
        Ok(format!(
            "Digest algorithm=SHA-256, username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
             response=\"{response}\", qop=auth, cnonce=\"{cnonce}\", nc=00000001"
        ))
    }

    async fn respond(&self, to: &SipMessage, code: u16, headers: &[String], body: &str) -> anyhow::Result<()> {
        let tag = self.dialog()?.tag;
        let mut response = to.response(code, &tag, NOWHERE, headers, body);
        response.set_header("Contact", self.contact());
        self.write(&response).await
    }

    async fn answer(&self) -> anyhow::Result<()> {
        let dialog = self.dialog()?;
        let page = Page::answering(&dialog.invite.body, self.options.speech.clone()).await?;
        let sdp = page.answer().to_owned();
        self.state().page = Some(Arc::new(page));
        self.respond(&dialog.invite, 200, &["Content-Type: application/sdp".to_owned()], &sdp).await
    }

    async fn call(&self, number: &str) -> anyhow::Result<SipMessage> {
        let page = Page::start(self.options.speech.clone()).await?;
        let WebPhoneOptions { user, domain, .. } = &self.options;
        let (uri, tag) = (format!("sip:{number}@{domain}"), format!("call{:x}", rand::random::<u32>()));
        let (ours, call_id) = (format!("<sip:{user}@{domain}>"), format!("{:x}@{}", rand::random::<u64>(), self.host));
        let invite = |sequence: u32, proof: Option<String>| {
            let headers = [
                ("Via", self.via()),
                ("Max-Forwards", "69".to_owned()),
                ("To", format!("<{uri}>")),
                ("From", format!("{ours};tag={tag}")),
                ("Call-ID", call_id.clone()),
                ("CSeq", format!("{sequence} INVITE")),
                ("Contact", self.contact()),
                ("Content-Type", "application/sdp".to_owned()),
            ];
            let mut headers = headers.map(|(name, value)| (name.to_owned(), value)).to_vec();
            headers.extend(proof.map(|proof| ("Authorization".to_owned(), proof)));
            SipMessage { start: format!("INVITE {uri} SIP/2.0"), headers, body: page.offer().to_owned() }
        };
        let first = invite(1, None);
        self.write(&first).await?;
        let challenge = self.final_response("1 INVITE", Some(&call_id)).await?;
        self.acknowledge_refusal(&first, &challenge).await?;
        let asked = challenge.headers.iter().find(|(_, value)| value.contains("SHA-256")).context("a challenge")?;
        let second = invite(2, Some(self.authorization(&asked.1, "INVITE", &uri)?));
        self.write(&second).await?;
        let response = self.final_response("2 INVITE", Some(&call_id)).await?;
        if response.code() != Some(200) {
            self.acknowledge_refusal(&second, &response).await?;
            return Ok(response);
        }
        page.take_answer(&response.body).await?;
        // As if the service had called: its requests and ours are those of the same dialog.
        let of = |name: &str| response.header(name).map(str::to_owned).context("a header");
        let headers =
            [("To", ours.clone()), ("From", of("To")?), ("Contact", of("Contact")?), ("Call-ID", call_id.clone())];
        let headers = headers.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let as_if = SipMessage { start: "INVITE sip:phone SIP/2.0".to_owned(), headers, body: String::new() };
        let dialog = Dialog { invite: as_if, tag, sequence: 2 };
        {
            let mut state = self.state();
            state.page = Some(Arc::new(page));
            state.dialog = Some(dialog.clone());
        }
        self.send_in(&dialog, ("ACK", 2), &[], "").await?;
        Ok(response)
    }

    /// Acknowledges the response to a re-INVITE.
    async fn acknowledge(&self, response: &SipMessage) -> anyhow::Result<()> {
        let dialog = self.dialog()?;
        let mut ack =
            SipMessage::request_in(&dialog.invite, ("ACK", dialog.sequence), (&dialog.tag, NOWHERE), &[], "")?;
        // RFC 3261 §17.1.1.3: that of a refusal belongs to the INVITE's transaction.
        let via = response.header("Via").filter(|_| response.code().is_some_and(|code| code >= 300));
        ack.set_header("Via", via.map_or_else(|| self.via(), str::to_owned));
        self.write(&ack).await
    }

    /// RFC 3261 §17.1.1.3: it belongs to the INVITE's transaction.
    async fn acknowledge_refusal(&self, invite: &SipMessage, response: &SipMessage) -> anyhow::Result<()> {
        let of = |message: &SipMessage, name: &str| message.header(name).map(str::to_owned).context("a header");
        let sequence = of(invite, "CSeq")?.replace("INVITE", "ACK");
        let mut headers = vec![("To".to_owned(), of(response, "To")?), ("CSeq".to_owned(), sequence)];
        for name in ["Via", "From", "Call-ID", "Max-Forwards"] {
            headers.push((name.to_owned(), of(invite, name)?));
        }
        let start = invite.start.replacen("INVITE", "ACK", 1);
        self.write(&SipMessage { start, headers, body: String::new() }).await
    }

    async fn send_in(&self, dialog: &Dialog, method: (&str, u32), headers: &[&str], body: &str) -> anyhow::Result<()> {
        let mut request = SipMessage::request_in(&dialog.invite, method, (&dialog.tag, NOWHERE), headers, body)?;
        request.set_header("Contact", self.contact());
        request.set_header("Via", self.via());
        self.write(&request).await
    }

    async fn take(&self, message: SipMessage) -> anyhow::Result<()> {
        // A test that waits for the INVITE may answer at once, so the 180 goes first.
        if message.method() == Some("INVITE") {
            let tag = format!("web{:x}", rand::random::<u32>());
            self.state().dialog = Some(Dialog { invite: message.clone(), tag, sequence: 1 });
            self.respond(&message, 180, &[], "").await?;
        }
        self.state().received.push(message.clone());
        match message.method() {
            Some("INVITE") if self.options.answers => self.answer().await,
            Some("INVITE") => Ok(()),
            Some("CANCEL") => {
                self.respond(&message, 200, &[], "").await?;
                let invite = self.dialog()?.invite;
                self.respond(&invite, 487, &[], "").await
            }
            Some("ACK") | None => Ok(()),
            Some(_) => self.respond(&message, 200, &[], "").await,
        }
    }
}

async fn serve(
    shared: Arc<Shared>,
    mut socket: tokio_tungstenite::WebSocketStream<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>,
    mut inbox: mpsc::Receiver<Message>,
) {
    loop {
        let done = tokio::select! {
            frame = socket.next() => match frame {
                Some(Ok(Message::Text(text))) => match SipMessage::parse(text.as_bytes()) {
                    // The scenario sees what went wrong by what does not come.
                    Some(message) => shared.take(message).await.or(Ok(())),
                    None => Ok(()),
                },
                Some(Ok(Message::Close(_)) | Err(_)) | None => Err(()),
                Some(Ok(_)) => Ok(()),
            },
            frame = inbox.recv() => match frame {
                Some(frame) => socket.send(frame).await.map_err(drop),
                None => Err(()),
            },
        };
        if done.is_err() {
            shared.state().is_closed = true;
            return;
        }
    }
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
