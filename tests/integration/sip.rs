//! SIP phones as agents: the real service calls a phone over UDP while a WhatsApp caller waits.

use std::sync::Arc;

use anyhow::Context;
use patchcord_simulator::call::{Call, Stage};
use patchcord_simulator::sip_phone::{Codec, SipAnswer, SipMessage, SipPhone, SipPhoneOptions, Suite};
use patchcord_simulator::sound::{self, PHONE_RATE};
use patchcord_simulator::speech::Speech;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UdpSocket;

use crate::people::{
    AGENT_HZ, CALLER_HZ, HOLD_NOTE_HZ, SECOND_AGENT_HZ, VOICES, caller, objections, until_caller_hears,
};
use crate::service::{DEADLINE, TestOptions, TestService};

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_rings_while_whatsapp_rings_and_both_talk() -> anyhow::Result<()> {
    for codec in [Codec::Pcmu, Codec::Pcma, Codec::Opus] {
        let (mut service, call, phone) = talking(codec).await?;
        let invite = phone.request("INVITE").await?;
        let call_id = service.event("call.accepted").await?.call_id;
        assert_eq!(invite.header("X-WhatsApp-Call-Id"), Some(call_id.as_str()));
        assert!(invite.header("Allow").is_some_and(|methods| methods.contains("REFER")), "{invite}");
        assert!(invite.header("Call-ID").is_some_and(|id| id.ends_with("@patchcord")), "{invite}");
        assert!(!invite.to_string().contains("1202555"), "the caller's number is not given away: {invite}");
        let header = |name: &str| invite.header(name).unwrap_or_default().to_owned();
        assert_eq!(
            (header("Session-Expires"), header("Min-SE"), header("Supported")),
            ("1800".into(), "90".into(), "timer, replaces, 100rel".into())
        );
        until_caller_hears(&call, &[AGENT_HZ]).await?;
        until_phone_hears(&phone, &[CALLER_HZ]).await?;
        one_line(&phone).await?;
        assert_eq!(objections(&call), [], "{}", call.seen());

        assert_eq!(phone.hang_up().await?, 200);
        let ended = service.end_of(&call).await?;
        assert_eq!((&ended["reason"], &ended["hung_up_by"]), (&"agent_hung_up".into(), &"agent".into()), "{ended}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_ends_the_phones_call_with_a_reason() -> anyhow::Result<()> {
    let (mut service, call, phone) = talking(Codec::Pcmu).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    call.hang_up().await?;
    let bye = phone.request("BYE").await?;
    assert!(bye.header("Reason").is_some_and(|reason| reason.starts_with("SIP;cause=200")), "{bye}");
    assert_eq!(service.end_of(&call).await?["reason"], "caller_hung_up");
    service.all_ended().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_gives_up_while_the_phone_rings_cancels_it() -> anyhow::Result<()> {
    let (service, call, phone) = calling(phone(SipAnswer::Ring), TestOptions::default()).await?;
    phone.request("INVITE").await?;
    call.hang_up().await?;
    let cancel = phone.request("CANCEL").await?;
    assert_eq!(cancel.header("Via"), phone.request("INVITE").await?.header("Via"), "{cancel}");
    phone.request("ACK").await?;
    service.all_ended().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_200_that_crosses_the_cancel_is_acknowledged_and_ended() -> anyhow::Result<()> {
    let (service, call, phone) = calling(phone(SipAnswer::AnswerCancel), TestOptions::default()).await?;
    phone.request("INVITE").await?;
    call.hang_up().await?;
    for method in ["CANCEL", "ACK", "BYE"] {
        phone.request(method).await?;
    }
    service.all_ended().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_refuses_or_does_not_answer_is_followed_by_the_fallback() -> anyhow::Result<()> {
    for (answer, failure, detail) in [
        (SipAnswer::Refuse(486), "refused", "SIP 486 Busy"),
        (SipAnswer::Refuse(480), "no_answer", "SIP 480 Temporarily Unavailable"),
        (SipAnswer::Refuse(503), "refused", "SIP 503 Service Unavailable"),
        (SipAnswer::Refuse(603), "refused", "SIP 603 Decline"),
        (SipAnswer::Ring, "no_answer", "it rang for 1 s"),
        (SipAnswer::Ignore, "no_answer", "it rang for 1 s"),
    ] {
        let options = TestOptions { route: "fallback = [\"prompt:goodbye\"]".to_owned(), ..TestOptions::default() };
        let keeps_ringing = matches!(answer, SipAnswer::Ring);
        let (mut service, call, phone) = calling(phone(answer), sip("ring_timeout = \"1s\"", options)).await?;
        let lost = service.event("call.agent_lost").await?.data;
        assert_eq!((&lost["failure"], &lost["detail"]), (&failure.into(), &detail.into()), "{lost}");
        assert_eq!(service.end_of(&call).await?["reason"], "agent_lost");
        if keeps_ringing {
            phone.request("CANCEL").await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_pressed_both_ways() -> anyhow::Result<()> {
    let (mut service, call, phone) = talking(Codec::Pcmu).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    call.send_dtmf("12#").await;
    for digit in ["1", "2", "#"] {
        assert_eq!(service.event("call.dtmf").await?.data["digit"], digit);
    }
    let relay = ["Content-Type: application/dtmf-relay"];
    for digit in ["9", "0", "*"] {
        let response = phone.send("INFO", &relay, &format!("Signal={digit}\r\nDuration=160\r\n")).await?;
        assert_eq!(response.code(), Some(200));
    }
    let other = phone.send("INFO", &["Content-Type: text/plain"], "hello").await?;
    assert_eq!(other.code(), Some(415));
    let audio = phone.audio().await?;
    call.wait_for_digits("90*").await?;
    audio.wait_for_digits("12#").await?;
    one_line(&phone).await
}

/// Such a request comes before the library lists the dialog, as one right behind our ACK may.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_overtakes_the_answer_of_its_phone_finds_its_dialog() -> anyhow::Result<()> {
    let hold = "v=0\r\no=phone 7 2 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
                m=audio 9 RTP/AVP 0\r\na=sendonly\r\n";
    for (method, kind, body) in [
        ("INFO", "application/dtmf-relay", "Signal=9\r\n"),
        ("INVITE", "application/sdp", hold),
        ("BYE", "text/plain", ""),
    ] {
        let (_service, _call, phone) = calling(phone(SipAnswer::Ring), TestOptions::default()).await?;
        phone.request("INVITE").await?;
        let kind = format!("Content-Type: {kind}");
        let headers = [kind.as_str()];
        // Polled in this order, so the request leaves first.
        let (response, answered) = futures_util::join!(phone.send(method, &headers, body), phone.answer());
        answered?;
        assert_eq!(response?.code(), Some(200), "{method}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_leaves_out_the_length_of_its_sdp_is_heard() -> anyhow::Result<()> {
    let options = SipPhoneOptions { leaves_out_length: true, ..phone(SipAnswer::Answer) };
    let (_service, call, phone) = calling(options, TestOptions::default()).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    until_phone_hears(&phone, &[CALLER_HZ]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_holds_the_caller_in_every_way_and_comes_back() -> anyhow::Result<()> {
    let (mut service, call, phone) = talking(Codec::Pcmu).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let old = |sdp: String| sdp.replace("c=IN IP4 127.0.0.1", "c=IN IP4 0.0.0.0");
    let holds = [phone.sdp("sendonly")?, phone.sdp("inactive")?, old(phone.sdp("sendrecv")?)];
    for (hold, answered) in holds.into_iter().zip(["a=recvonly", "a=inactive", "a=recvonly"]) {
        let response = phone.reinvite(&hold, "").await?;
        assert_eq!(response.code(), Some(200));
        assert!(response.body.contains(answered), "{hold}\n{response}");
        until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
        assert_eq!(phone.reinvite(&phone.sdp("sendrecv")?, "").await?.code(), Some(200));
        until_caller_hears(&call, &[AGENT_HZ]).await?;
        until_phone_hears(&phone, &[CALLER_HZ]).await?;
    }
    one_line(&phone).await?;
    assert_eq!(objections(&call), [], "{}", call.seen());
    assert_eq!(phone.hang_up().await?, 200);
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_codec_is_refused_and_the_call_goes_on() -> anyhow::Result<()> {
    let (service, call, phone) = talking(Codec::Pcmu).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let other =
        phone.sdp("sendrecv")?.replace("RTP/AVP 0 101", "RTP/AVP 8 101").replace("rtpmap:0 PCMU", "rtpmap:8 PCMA");
    assert_eq!(phone.reinvite(&other, "").await?.code(), Some(488));
    assert_eq!(phone.reinvite("v=0\r\nrubbish\r\n", "").await?.code(), Some(488));
    let json = phone.send("UPDATE", &["Content-Type: application/json"], "{}").await?;
    assert_eq!(json.code(), Some(415));
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    until_phone_hears(&phone, &[CALLER_HZ]).await?;
    assert_eq!(service.live_calls().await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_offer_is_ours_and_its_answer_is_in_the_ack() -> anyhow::Result<()> {
    let (_service, call, phone) = talking(Codec::Pcmu).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let offered = phone.reinvite("", &phone.sdp("sendonly")?).await?;
    assert_eq!(offered.code(), Some(200));
    assert!(offered.body.contains("RTP/AVP 0 "), "the codec in use alone: {offered}");
    until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
    assert_eq!(phone.reinvite("", &phone.sdp("sendrecv")?).await?.code(), Some(200));
    until_caller_hears(&call, &[AGENT_HZ]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn session_timers_are_agreed_on_in_both_roles() -> anyhow::Result<()> {
    let options = SipPhoneOptions {
        headers_of_answer: vec!["Session-Expires: 7200;refresher=uas".to_owned(), "Require: timer".to_owned()],
        ..phone(SipAnswer::LongerSession(7200))
    };
    let (_service, call, phone) = calling(options, TestOptions::default()).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let longer = |message: &SipMessage| {
        let is_longer = message.method() == Some("INVITE") && message.header("Min-SE") == Some("7200");
        is_longer.then(|| message.clone())
    };
    let invite = phone.wait_for("a second INVITE", longer).await?;
    assert_eq!(invite.header("Session-Expires"), Some("7200"));

    let brief = phone.send("UPDATE", &["Session-Expires: 30", "Supported: timer"], "").await?;
    assert_eq!((brief.code(), brief.header("Min-SE")), (Some(422), Some("90")));
    let agreed = phone.send("UPDATE", &["Session-Expires: 300;refresher=uac", "Supported: timer"], "").await?;
    assert_eq!((agreed.code(), agreed.header("Session-Expires")), (Some(200), Some("300;refresher=uac")));
    assert_eq!(agreed.header("Require"), Some("timer"));
    until_caller_hears(&call, &[AGENT_HZ]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_hands_its_caller_over_to_allowed_phones_only() -> anyhow::Result<()> {
    let second = SipPhone::start(SipPhoneOptions { tone_hz: SECOND_AGENT_HZ, ..phone(SipAnswer::Answer) }).await?;
    let rule = format!("refer_to = [\"{}\"]", second.uri());
    let (mut service, call, first) = calling(phone(SipAnswer::Answer), sip(&rule, TestOptions::default())).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    for (target, code) in [("<sip:premium@192.0.2.1>", 403), ("<tel:+15550100>", 400), ("<sip:a@b?Replaces=x>", 403)] {
        let response = first.send("REFER", &[&format!("Refer-To: {target}")], "").await?;
        assert_eq!(response.code(), Some(code), "{target}");
    }
    let response = first.send("REFER", &[&format!("Refer-To: <{}>", second.uri())], "").await?;
    assert_eq!(response.code(), Some(202));
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    until_phone_hears(&second, &[CALLER_HZ]).await?;
    let told = first.wait_for("the last NOTIFY", |message| {
        let is_over = message.header("Subscription-State").is_some_and(|state| state.starts_with("terminated"));
        is_over.then(|| message.body.clone())
    });
    assert_eq!(told.await?, "SIP/2.0 200 OK\r\n");
    let came = first.received();
    let accepted = came.iter().position(|message| message.code() == Some(202)).context("a 202")?;
    let notified = came.iter().position(|message| message.method() == Some("NOTIFY")).context("a NOTIFY")?;
    assert!(accepted < notified, "202 comes first");
    first.request("BYE").await?;
    one_line(&first).await?;
    one_line(&second).await?;
    assert_eq!(service.event("call.transferred").await?.data["completed"], true);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_to_a_busy_phone_leaves_the_caller_with_the_first() -> anyhow::Result<()> {
    let busy = SipPhone::start(phone(SipAnswer::Refuse(486))).await?;
    let rule = format!("refer_to = [\"{}\"]", busy.uri());
    let (mut service, call, first) = calling(phone(SipAnswer::Answer), sip(&rule, TestOptions::default())).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    assert_eq!(first.send("REFER", &[&format!("Refer-To: {}", busy.uri())], "").await?.code(), Some(202));
    let told = first.wait_for("the last NOTIFY", |message| {
        let is_over = message.header("Subscription-State").is_some_and(|state| state.starts_with("terminated"));
        is_over.then(|| message.body.clone())
    });
    assert_eq!(told.await?, "SIP/2.0 486 Busy Here\r\n");
    let failed = service.event("call.transferred").await?.data;
    assert_eq!((&failed["completed"], &failed["sip_code"]), (&false.into(), &486.into()), "{failed}");
    until_caller_hears(&call, &[AGENT_HZ]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_no_answer_and_change_nothing() -> anyhow::Result<()> {
    let (service, call, phone) = talking(Codec::Pcmu).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let service_at = service.app.sip_listening().first().context("it listens")?.address;
    let stranger = UdpSocket::bind("127.0.0.1:0").await?;
    let at = stranger.local_addr()?;
    let message = |start: &str, method: &str, more: &str| {
        format!(
            "{start} SIP/2.0\r\nVia: SIP/2.0/UDP {at};branch=z9hG4bK1\r\nFrom: <sip:a@{at}>;tag=1\r\nTo: <sip:b@{at}>\r\n\
             Call-ID: stranger\r\nCSeq: 1 {method}\r\nContact: <sip:a@{at}>\r\n{more}Content-Length: 0\r\n\r\n"
        )
    };
    let invite = phone.request("INVITE").await?;
    let known = invite.header("Call-ID").context("a Call-ID")?;
    let forged = message("BYE sip:b", "BYE", "").replace("Call-ID: stranger", &format!("Call-ID: {known}"));
    let messages = [
        message("OPTIONS sip:b", "OPTIONS", ""),
        message("INVITE sip:b", "INVITE", ""),
        message("REGISTER sip:b", "REGISTER", ""),
        message("CANCEL sip:b", "CANCEL", ""),
        message("BYE sip:b", "BYE", ""),
        message("OPTIONS sip:b", "OPTIONS", "Content-Length: 4\r\n"),
        "\r\n\r\n".to_owned(),
        "\0".repeat(1000),
    ];
    for _ in 0..3 {
        for message in &messages {
            stranger.send_to(message.as_bytes(), service_at).await?;
        }
    }
    // By then the others have been read.
    assert_eq!(phone.send("OPTIONS", &[], "").await?.code(), Some(200));
    let mut buffer = [0; 100];
    assert!(stranger.try_recv(&mut buffer).is_err(), "a stranger gets no answer");
    // Who knows the Call-ID and nothing else ends no call.
    stranger.send_to(forged.as_bytes(), service_at).await?;
    assert_eq!(phone.send("OPTIONS", &[], "").await?.code(), Some(200));
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    assert_eq!(service.live_calls().await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn audio_of_a_third_party_is_not_heard() -> anyhow::Result<()> {
    let (_service, call, phone) = talking(Codec::Pcmu).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let offer = phone.request("INVITE").await?.body;
    let port = offer.lines().find_map(|line| line.strip_prefix("m=audio ")).and_then(|media| media.split(' ').next());
    let port: u16 = port.context("a port")?.parse()?;
    let stranger = UdpSocket::bind("127.0.0.1:0").await?;
    let before = call.heard()?.len();
    for sequence in 0..100_u16 {
        let mut packet = vec![0x80, 0];
        packet.extend(sequence.to_be_bytes());
        packet.extend((u32::from(sequence) * 160).to_be_bytes());
        packet.extend([1, 2, 3, 4]);
        packet.extend((0..160).map(|at| if at % 8 < 4 { 0x00 } else { 0x80 }));
        stranger.send_to(&packet, ("127.0.0.1", port)).await?;
    }
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let heard = call.heard()?;
    assert_eq!(sound::voices_heard(&heard[before..], PHONE_RATE, &[AGENT_HZ, 1000.0 * 1.5]), [AGENT_HZ]);
    assert!(stranger.try_recv(&mut [0; 100]).is_err(), "a stranger hears nothing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_answers_with_another_codec_fails() -> anyhow::Result<()> {
    let (mut service, call, phone) = calling(phone(SipAnswer::Ring), TestOptions::default()).await?;
    phone.request("INVITE").await?;
    phone
        .answer_with("v=0\r\no=x 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 3\r\n")
        .await?;
    let lost = service.event("call.agent_lost").await?.data;
    assert_eq!(lost["failure"], "protocol_error", "{lost}");
    phone.request("BYE").await?;
    service.end_of(&call).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_is_called_over_tcp() -> anyhow::Result<()> {
    let phone = SipPhone::start(phone(SipAnswer::Answer)).await?;
    let bridge = Bridge::start(&phone, None).await?;
    let uri = format!("sip:200@{};transport=tcp", bridge.address);
    let mut service = TestService::start_with(&uri, sip("", TestOptions::default())).await?;
    let call = service.call(caller()).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    until_phone_hears(&phone, &[CALLER_HZ]).await?;
    let invite = phone.request("INVITE").await?;
    let has = |name: &str, part: &str| invite.header(name).is_some_and(|value| value.contains(part));
    assert!(has("Via", "SIP/2.0/TCP") && has("Contact", ";transport=TCP"), "{invite}");
    let hold = phone.sdp("sendonly")?;
    assert_eq!(phone.reinvite(&hold, "").await?.code(), Some(200));
    until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
    assert_eq!(phone.hang_up().await?, 200);
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_is_called_over_tls_if_its_certificate_is_good() -> anyhow::Result<()> {
    let authority = rcgen::KeyPair::generate()?;
    let mut of_authority = rcgen::CertificateParams::new(Vec::new())?;
    of_authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = of_authority.self_signed(&authority)?;
    let issuer = rcgen::Issuer::new(of_authority, authority);
    let folder = crate::service::Folder::new()?;
    let ca = folder.0.join("ca.pem");
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, root.der());
    std::fs::write(&ca, format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n"))?;
    for (name, is_good) in [("localhost", true), ("other.example", false)] {
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &issuer)?;
        // `sips:` asks for SRTP too.
        let phone = SipPhone::start(SipPhoneOptions { srtp: Some(Suite::AesCm), ..phone(SipAnswer::Answer) }).await?;
        let bridge = Bridge::start(&phone, Some((certificate.der().clone(), key.serialize_der()))).await?;
        let uri = format!("sips:200@localhost:{}", bridge.address.port());
        let tls = format!("tls = {{ ca = \"{}\" }}", ca.display());
        let mut service = TestService::start_with(&uri, sip(&tls, TestOptions::default())).await?;
        let call = service.call(caller()).await?;
        if is_good {
            until_caller_hears(&call, &[AGENT_HZ]).await?;
            until_phone_hears(&phone, &[CALLER_HZ]).await?;
            let invite = phone.request("INVITE").await?;
            assert!(invite.body.contains("RTP/SAVP ") && invite.body.contains("a=crypto:1 "), "{invite}");
            let contact = invite.header("Contact").unwrap_or_default().to_owned();
            assert!(contact.starts_with("<sips:"), "{contact}");
            call.hang_up().await?;
            phone.request("BYE").await?;
        } else {
            let lost = service.event("call.agent_lost").await?.data;
            let detail = lost["detail"].as_str().unwrap_or_default();
            assert!(lost["failure"] == "refused" && detail.starts_with("TLS: invalid peer certificate"), "{lost}");
            assert!(phone.received().is_empty(), "nothing is said to a stranger");
        }
    }
    Ok(())
}

/// A stream of the service's on one side, the phone's datagrams on the other.
pub struct Bridge {
    pub address: std::net::SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Bridge {
    /// With a certificate and its key it speaks TLS.
    pub async fn start(
        phone: &SipPhone,
        identity: Option<(rustls::pki_types::CertificateDer<'static>, Vec<u8>)>,
    ) -> anyhow::Result<Self> {
        // In a service of this process the provider is installed already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let acceptor = identity.map(|(certificate, key)| {
            let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key).into();
            let config = rustls::ServerConfig::builder().with_no_client_auth();
            anyhow::Ok(tokio_rustls::TlsAcceptor::from(Arc::new(config.with_single_cert(vec![certificate], key)?)))
        });
        let acceptor = acceptor.transpose()?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let (address, phone) = (listener.local_addr()?, phone.address());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let carried = match &acceptor {
                    None => carry(stream, phone).await,
                    Some(acceptor) => match acceptor.accept(stream).await {
                        Ok(stream) => carry(stream, phone).await,
                        Err(error) => Err(error.into()),
                    },
                };
                // The scenario sees that nothing comes.
                drop(carried);
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(stream: impl AsyncRead + AsyncWrite + Unpin, phone: std::net::SocketAddr) -> anyhow::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(phone).await?;
    relay(stream, socket).await
}

/// Carries messages between a stream and a phone's datagrams.
pub async fn relay(mut stream: impl AsyncRead + AsyncWrite + Unpin, socket: UdpSocket) -> anyhow::Result<()> {
    let (mut inbox, mut datagram) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        tokio::select! {
            read = stream.read_buf(&mut inbox) => {
                anyhow::ensure!(read? > 0, "the service closed the stream");
                while let Some(length) = length_of_first(&inbox) {
                    socket.send(&inbox[..length]).await?;
                    inbox.drain(..length);
                }
            }
            received = socket.recv(&mut datagram) => stream.write_all(&datagram[..received?]).await?,
        }
    }
}

/// Of the first whole message.
fn length_of_first(bytes: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(bytes);
    let head = text.find("\r\n\r\n")? + 4;
    let length = text[..head].lines().find_map(|line| line.strip_prefix("Content-Length: "))?;
    let end = head + length.trim().parse::<usize>().ok()?;
    (bytes.len() >= end).then_some(end)
}

/// A phone that behaves so.
pub fn phone(answer: SipAnswer) -> SipPhoneOptions {
    SipPhoneOptions { answer, tone_hz: AGENT_HZ, ..SipPhoneOptions::default() }
}

/// These keys of `[sip]` beside where it listens.
pub fn sip(keys: &str, options: TestOptions) -> TestOptions {
    TestOptions { sip: format!("[sip]\nlisten = [\"udp:127.0.0.1:0\"]\n{keys}"), ..options }
}

/// A service whose caller rings this phone.
pub async fn calling(phone: SipPhoneOptions, options: TestOptions) -> anyhow::Result<(TestService, Call, SipPhone)> {
    let phone = SipPhone::start(phone).await?;
    let options = if options.sip.is_empty() { sip("", options) } else { options };
    let service = TestService::start_with(&phone.uri(), options).await?;
    let call = service.call(caller()).await?;
    Ok((service, call, phone))
}

/// The same, with both talking.
pub async fn talking(codec: Codec) -> anyhow::Result<(TestService, Call, SipPhone)> {
    let speech = Speech::tone(AGENT_HZ)?;
    let options = SipPhoneOptions { codec, speech, ..phone(SipAnswer::Answer) };
    let (service, call, phone) = calling(options, TestOptions::default()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    Ok((service, call, phone))
}

pub async fn until_phone_hears(phone: &SipPhone, tones_hz: &[f64]) -> anyhow::Result<()> {
    let audio = phone.audio().await?;
    let waiting = async {
        loop {
            let before = audio.packets().len();
            // A second of audio.
            audio.wait_for_packets(before + 50).await?;
            if sound::voices_heard(&audio.heard_since(before)?, PHONE_RATE, &VOICES) == tones_hz {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.context("the phone does not hear what it should")?
}

/// The phone gets one unbroken RTP line.
pub async fn one_line(phone: &SipPhone) -> anyhow::Result<()> {
    assert_eq!(phone.audio().await?.faults(), Vec::<String>::new());
    Ok(())
}
