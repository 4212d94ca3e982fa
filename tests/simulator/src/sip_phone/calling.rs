//! A phone that calls: INVITE with a proof, ACK, CANCEL.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::time::timeout;

use super::message::split;
use super::rtp::PhoneSocket;
use super::{Dialog, SipAccount, SipMessage, SipPhone, T1};

/// A call that the phone has begun.
pub struct Dialled {
    /// The INVITE that got something else than a challenge.
    pub invite: SipMessage,
    server: SocketAddr,
    audio: PhoneSocket,
}

impl SipPhone {
    /// Calls a number, and answers a challenge once. Gives the call once the service has taken it or refused it.
    ///
    /// # Errors
    /// When no response comes.
    pub async fn dial(&self, account: &SipAccount, number: &str) -> anyhow::Result<Dialled> {
        self.dial_with(account, number, &[], true).await
    }

    /// The same with further header lines, and without an SDP if it shall not offer.
    ///
    /// # Errors
    /// When no response comes.
    pub async fn dial_with(
        &self,
        account: &SipAccount,
        number: &str,
        headers: &[&str],
        offers: bool,
    ) -> anyhow::Result<Dialled> {
        let audio = PhoneSocket::bind().await?;
        let sdp = if offers { audio.sdp(self.shared.options.codec, 1, "sendrecv") } else { String::new() };
        let call_id = format!("{:x}@{}", rand::random::<u64>(), self.address());
        let target = format!("sip:{number}@{}", account.domain);
        let invite = |sequence, proof: Option<String>| {
            let proof = proof.map(|proof| format!("Authorization: {proof}"));
            let more: Vec<&str> = headers.iter().copied().chain(proof.as_deref()).collect();
            self.invite_request(account, (target.as_str(), sequence), &call_id, &more, &sdp)
        };
        let mut invite_sent = invite(1, None);
        let challenged = self.until_answered(&invite_sent, account.server).await?;
        if challenged.code() == Some(401) {
            self.acknowledge_refusal(&invite_sent, &challenged, account.server).await?;
            invite_sent = invite(2, Some(account.proof(&challenged, "INVITE", &target, 1)?));
            self.until_answered(&invite_sent, account.server).await?;
        }
        Ok(Dialled { invite: invite_sent, server: account.server, audio })
    }

    /// Waits for a response with this code.
    ///
    /// # Errors
    /// When it does not come in time.
    pub async fn response(&self, call: &Dialled, code: u16) -> anyhow::Result<SipMessage> {
        let is_it = |message: &SipMessage| {
            (message.code() == Some(code) && is_of(message, &call.invite)).then(|| message.clone())
        };
        self.wait_for(&code.to_string(), is_it).await
    }

    /// Waits for the final response and acknowledges it; a 2xx begins the conversation.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn answered(&self, call: &Dialled) -> anyhow::Result<SipMessage> {
        let is_final = |message: &SipMessage| {
            let is_final = message.code().is_some_and(|code| code >= 200);
            (is_final && is_of(message, &call.invite)).then(|| message.clone())
        };
        let response = self.wait_for("a final response", is_final).await?;
        match response.code() {
            Some(200..300) => self.acknowledge(call, &response).await?,
            _ => self.acknowledge_refusal(&call.invite, &response, call.server).await?,
        }
        Ok(response)
    }

    /// How often this response has come.
    #[must_use]
    pub fn count_of(&self, call: &Dialled, code: u16) -> usize {
        count(&self.received(), call, code)
    }

    /// Waits until this response has come more often than so.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn repeated(&self, call: &Dialled, code: u16, before: usize) -> anyhow::Result<()> {
        self.wait_until(&format!("{code} again"), |received| count(received, call, code) > before).await
    }

    /// Acknowledges a 2xx, and talks.
    ///
    /// # Errors
    /// When the response has no SDP.
    pub async fn acknowledge(&self, call: &Dialled, response: &SipMessage) -> anyhow::Result<()> {
        let of = |message: &SipMessage, name: &str| message.header(name).map(str::to_owned).context("a header");
        let from = of(&call.invite, "From")?;
        let (user, tag) = from.split_once(";tag=").context("a tag")?;
        // As if the service had called: its requests and ours are those of the same dialog.
        let headers = [("To", user.to_owned()), ("From", of(response, "To")?), ("Contact", of(response, "Contact")?)];
        let mut headers: Vec<_> = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        headers.push(("Call-ID".to_owned(), of(&call.invite, "Call-ID")?));
        let as_if = SipMessage { start: "INVITE sip:phone SIP/2.0".to_owned(), headers, body: response.body.clone() };
        let sequence = of(&call.invite, "CSeq")?.split(' ').next().context("a number")?.parse()?;
        let dialog = Dialog { invite: as_if, from: call.server, tag: tag.to_owned(), sequence, version: 1 };
        let audio = call.audio.talk(&response.body, &self.shared.options)?;
        {
            let mut state = self.shared.state();
            state.audio = Some(audio);
            state.dialog = Some(dialog);
        }
        let ack = self.shared.ack(response, &[], "")?;
        self.say(&ack, call.server).await
    }

    /// Gives the call up; gives the response to the CANCEL.
    ///
    /// # Errors
    /// When no response comes.
    pub async fn cancel(&self, call: &Dialled) -> anyhow::Result<SipMessage> {
        let mut cancel = call.invite.clone();
        cancel.start = cancel.start.replacen("INVITE", "CANCEL", 1);
        cancel.body = String::new();
        cancel.headers.retain(|(name, _)| {
            ["Via", "From", "To", "Call-ID", "CSeq", "Max-Forwards"].iter().any(|kept| kept.eq_ignore_ascii_case(name))
        });
        for (name, value) in &mut cancel.headers {
            if name == "CSeq" {
                *value = value.replace("INVITE", "CANCEL");
            }
        }
        cancel.headers.push(("Content-Length".to_owned(), "0".to_owned()));
        self.exchange(&cancel, call.server).await
    }

    /// Sends the INVITE again, as when a response is lost.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub async fn repeat(&self, call: &Dialled) -> anyhow::Result<()> {
        self.say(&call.invite, call.server).await
    }

    /// Sends an INVITE until anything comes.
    async fn until_answered(&self, invite: &SipMessage, to: SocketAddr) -> anyhow::Result<SipMessage> {
        let is_response =
            |message: &SipMessage| (message.code().is_some() && is_of(message, invite)).then(|| message.clone());
        let sending = async {
            loop {
                self.say(invite, to).await?;
                if let Ok(found) = timeout(T1, self.wait_for("a response", is_response)).await {
                    return found;
                }
            }
        };
        timeout(3 * crate::DEADLINE, sending).await.context("no response to the INVITE")?
    }

    /// RFC 3261 §17.1.1.3.
    async fn acknowledge_refusal(
        &self,
        invite: &SipMessage,
        response: &SipMessage,
        to: SocketAddr,
    ) -> anyhow::Result<()> {
        let mut ack = invite.clone();
        ack.start = ack.start.replacen("INVITE", "ACK", 1);
        ack.body = String::new();
        ack.headers.retain(|(name, _)| {
            ["Via", "From", "Call-ID", "Max-Forwards"].iter().any(|kept| kept.eq_ignore_ascii_case(name))
        });
        let sequence = invite.header("CSeq").unwrap_or_default().replace("INVITE", "ACK");
        ack.headers.push(("CSeq".to_owned(), sequence));
        ack.headers.push(("To".to_owned(), response.header("To").context("a To")?.to_owned()));
        ack.headers.push(("Content-Length".to_owned(), "0".to_owned()));
        self.say(&ack, to).await
    }

    fn invite_request(
        &self,
        account: &SipAccount,
        (target, sequence): (&str, u32),
        call_id: &str,
        more: &[&str],
        sdp: &str,
    ) -> SipMessage {
        let (address, branch) = (self.shared.contact(), rand::random::<u64>());
        let mut all = vec![
            format!("Via: SIP/2.0/UDP {address};rport;branch=z9hG4bKphone{branch:x}"),
            "Max-Forwards: 70".to_owned(),
            format!("From: <sip:{}@{}>;tag=phone", account.name, account.domain),
            format!("To: <{target}>"),
            format!("Call-ID: {call_id}"),
            format!("CSeq: {sequence} INVITE"),
            format!("Contact: <sip:{}@{address}>", account.name),
            "Allow: INVITE, ACK, CANCEL, BYE, UPDATE".to_owned(),
        ];
        all.extend(more.iter().map(|line| (*line).to_owned()));
        if !sdp.is_empty() {
            all.push("Content-Type: application/sdp".to_owned());
        }
        all.push(format!("Content-Length: {}", sdp.len()));
        SipMessage {
            start: format!("INVITE {target} SIP/2.0"),
            headers: all.iter().filter_map(|line| split(line)).collect(),
            body: sdp.to_owned(),
        }
    }
}

fn count(received: &[SipMessage], call: &Dialled, code: u16) -> usize {
    received.iter().filter(|message| message.code() == Some(code) && is_of(message, &call.invite)).count()
}

fn is_of(response: &SipMessage, invite: &SipMessage) -> bool {
    ["Call-ID", "CSeq"].iter().all(|name| response.header(name) == invite.header(name))
}
