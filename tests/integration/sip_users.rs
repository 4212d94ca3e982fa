//! SIP users: phones register with the real service, and it calls them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use patchcord_simulator::sip_phone::{DigestHash, SipAccount, SipAnswer, SipMessage, SipPhone, SipPhoneOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::people::{AGENT_HZ, CALLER_HZ, SECOND_AGENT_HZ, caller, until_caller_hears};
use crate::service::{DEADLINE, TestOptions, TestService, counter};
use crate::sip::{relay, until_phone_hears};

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_registers_is_asked_for_and_removes_itself() -> anyhow::Result<()> {
    let service = service("").await?;
    for (name, hash) in [("alice", DigestHash::Sha256), ("alice", DigestHash::Md5), ("bob", DigestHash::Md5)] {
        let phone = phone().await?;
        let account = SipAccount { hash, ..account(&service, name)? };
        let challenged = phone.ask_to_register(&account, &[], None).await?;
        assert_eq!(challenged.code(), Some(401));
        let challenges: Vec<&str> = all(&challenged, "WWW-Authenticate");
        assert!(challenges[0].contains("SHA-256") && challenges[1].contains("algorithm=MD5"), "{challenged}");
        assert!(challenges.iter().all(|challenge| challenge.contains("realm=\"patchcord\"")), "{challenged}");

        let registered = phone.register(&account, &["Expires: 600"]).await?;
        assert_eq!(registered.code(), Some(200), "{registered}");
        let here = format!("<sip:{name}@{}>", phone.address());
        let bound = all(&registered, "Contact");
        assert!(bound.len() == 1 && bound[0].starts_with(&here) && bound[0].contains("expires="), "{registered}");
        let asked = phone.register(&account, &["Contact: "]).await?;
        assert_eq!(all(&asked, "Contact").len(), 1, "{asked}");
        let removed = phone.register(&account, &["Contact: *", "Expires: 0"]).await?;
        assert_eq!((removed.code(), all(&removed, "Contact").len()), (Some(200), 0), "{removed}");
    }
    assert!(counter("patchcord_sip_registers_total{outcome=\"registered\"}") >= 9);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brief_registration_gets_the_least_interval() -> anyhow::Result<()> {
    let service = service("").await?;
    let (phone, account) = (phone().await?, account(&service, "alice")?);
    let brief = phone.register(&account, &["Expires: 30"]).await?;
    assert_eq!((brief.code(), brief.header("Min-Expires")), (Some(423), Some("60")));
    let star = phone.register(&account, &["Contact: *", "Expires: 60"]).await?;
    assert_eq!(star.code(), Some(400));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_an_unknown_user_look_the_same_until_the_ban() -> anyhow::Result<()> {
    let service = service("").await?;
    let phone = phone().await?;
    let right = account(&service, "alice")?;
    let wrong = SipAccount { password: "guess".to_owned(), ..right.clone() };
    let nobody = SipAccount { name: "nobody".to_owned(), ..right.clone() };
    let of_another = SipAccount { name: "bob".to_owned(), ..right.clone() };
    let mut answers = Vec::new();
    for account in [&wrong, &nobody, &of_another] {
        let refused = phone.register(account, &[]).await?;
        let names: Vec<String> = refused.headers.iter().map(|(name, _)| name.clone()).collect();
        answers.push((refused.start.clone(), names));
    }
    assert_eq!(answers[0].0, "SIP/2.0 403 Forbidden");
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    for _ in 3..10 {
        assert_eq!(phone.register(&wrong, &[]).await?.code(), Some(403));
    }
    // Banned: not even the right password gets an answer.
    let before = phone.received().len();
    phone.say(&phone.register_request(&right, &[], None), right.server).await?;
    until_dropped("banned", || async { phone.say(&phone.register_request(&right, &[], None), right.server).await })
        .await?;
    assert_eq!(phone.received().len(), before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_good_once() -> anyhow::Result<()> {
    let service = service("").await?;
    let (phone, account) = (phone().await?, account(&service, "alice")?);
    let challenged = phone.ask_to_register(&account, &[], None).await?;
    let uri = format!("sip:{}", account.domain);
    let proof = account.proof(&challenged, "REGISTER", &uri, 1)?;
    assert_eq!(phone.ask_to_register(&account, &[], Some(&proof)).await?.code(), Some(200));
    let again = phone.ask_to_register(&account, &[], Some(&proof)).await?;
    assert_eq!(again.code(), Some(401));
    assert!(again.header("WWW-Authenticate").is_some_and(|challenge| challenge.contains("stale=true")), "{again}");
    let second = account.proof(&challenged, "REGISTER", &uri, 2)?;
    assert_eq!(phone.ask_to_register(&account, &[], Some(&second)).await?.code(), Some(200));
    let for_another = account.proof(&challenged, "REGISTER", "sip:other", 3)?;
    assert_eq!(phone.ask_to_register(&account, &[], Some(&for_another)).await?.code(), Some(403));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_register_for_another_domain_gets_no_answer() -> anyhow::Result<()> {
    let service = service("domains = [\"sip.example.com\"]").await?;
    let (phone, of_address) = (phone().await?, account(&service, "alice")?);
    let drop = || async { phone.say(&phone.register_request(&of_address, &[], None), of_address.server).await };
    until_dropped("unknown", drop).await?;
    assert!(phone.received().is_empty());
    // Not banned yet: an unanswered message or two.
    let ours = SipAccount { domain: "sip.example.com".to_owned(), ..of_address };
    assert_eq!(phone.register(&ours, &[]).await?.code(), Some(200));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn phones_register_over_tcp_and_are_forgotten_with_their_connection() -> anyhow::Result<()> {
    let service = service("").await?;
    let phone = phone().await?;
    let account = account(&service, "alice")?;
    let server = service.app.sip_listening()[1].address;
    let mut stream = TcpStream::connect(server).await?;
    let here = ["Contact: <sip:alice@192.0.2.1:5060;transport=tcp>"];
    let over_tcp = |proof: Option<&str>| {
        phone.register_request(&account, &here, proof).to_string().replace("SIP/2.0/UDP", "SIP/2.0/TCP")
    };
    let challenged = ask(&mut stream, &over_tcp(None)).await?;
    let proof = account.proof(&challenged, "REGISTER", &format!("sip:{}", account.domain), 1)?;
    let registered = ask(&mut stream, &over_tcp(Some(&proof))).await?;
    assert_eq!(registered.code(), Some(200), "{registered}");
    let bound = phone.register(&account, &["Contact: "]).await?;
    assert_eq!(all(&bound, "Contact").len(), 1, "{bound}");
    drop(stream);
    let forgotten = async {
        while !all(&phone.register(&account, &["Contact: "]).await?, "Contact").is_empty() {}
        anyhow::Ok(())
    };
    timeout(DEADLINE, forgotten).await.context("the phone is still registered")?
}

#[tokio::test(flavor = "multi_thread")]
async fn all_phones_of_a_user_ring_and_the_first_that_answers_has_the_caller() -> anyhow::Result<()> {
    let mut service = ringing("").await?;
    let account = account(&service, "alice")?;
    let (rings, answers, busy) = (
        phone_that(SipAnswer::Ring, AGENT_HZ).await?,
        phone_that(SipAnswer::Ring, SECOND_AGENT_HZ).await?,
        phone_that(SipAnswer::Refuse(486), AGENT_HZ).await?,
    );
    for phone in [&rings, &answers, &busy] {
        assert_eq!(phone.register(&account, &[]).await?.code(), Some(200));
    }
    let call = service.call(caller()).await?;
    for phone in [&rings, &answers, &busy] {
        let invite = phone.request("INVITE").await?;
        let target = format!("INVITE sip:alice@{} SIP/2.0", phone.address());
        assert_eq!(invite.start, target);
    }
    answers.answer().await?;
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    until_phone_hears(&answers, &[CALLER_HZ]).await?;
    rings.request("CANCEL").await?;
    rings.request("ACK").await?;
    assert_eq!(answers.hang_up().await?, 200);
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    service.all_ended().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_phones_that_answer_at_once_leave_one_with_the_caller() -> anyhow::Result<()> {
    let mut service = ringing("").await?;
    let account = account(&service, "alice")?;
    let phones = [phone_that(SipAnswer::Answer, AGENT_HZ).await?, phone_that(SipAnswer::AnswerCancel, AGENT_HZ).await?];
    for phone in &phones {
        phone.register(&account, &[]).await?;
    }
    let call = service.call(caller()).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    // Its 200 crosses the CANCEL.
    for method in ["CANCEL", "ACK", "BYE"] {
        phones[1].request(method).await?;
    }
    until_phone_hears(&phones[0], &[CALLER_HZ]).await?;
    call.hang_up().await?;
    phones[0].request("BYE").await?;
    assert_eq!(service.end_of(&call).await?["reason"], "caller_hung_up");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn preferred_phones_ring_first() -> anyhow::Result<()> {
    let service = ringing("ring_timeout = \"2s\"").await?;
    let account = account(&service, "alice")?;
    let first = phone_that(SipAnswer::Ring, AGENT_HZ).await?;
    let second = phone_that(SipAnswer::Answer, SECOND_AGENT_HZ).await?;
    let contact = |phone: &SipPhone, q: &str| format!("Contact: <sip:alice@{}>;q={q}", phone.address());
    first.register(&account, &[&contact(&first, "0.9")]).await?;
    second.register(&account, &[&contact(&second, "0.1")]).await?;
    let call = service.call(caller()).await?;
    first.request("INVITE").await?;
    first.request("CANCEL").await?;
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_declines_stops_the_other_phones_of_its_user() -> anyhow::Result<()> {
    let mut service = ringing("").await?;
    let account = account(&service, "alice")?;
    let (rings, declines, later) = (
        phone_that(SipAnswer::Ring, AGENT_HZ).await?,
        phone_that(SipAnswer::Refuse(603), AGENT_HZ).await?,
        phone_that(SipAnswer::Answer, SECOND_AGENT_HZ).await?,
    );
    for (phone, q) in [(&rings, "0.9"), (&declines, "0.9"), (&later, "0.1")] {
        let contact = format!("Contact: <sip:alice@{}>;q={q}", phone.address());
        assert_eq!(phone.register(&account, &[&contact]).await?.code(), Some(200));
    }
    let call = service.call(caller()).await?;
    rings.request("INVITE").await?;
    rings.request("CANCEL").await?;
    let lost = service.event("call.agent_lost").await?.data;
    assert_eq!((&lost["detail"], &lost["sip_code"]), (&"SIP 603 Decline".into(), &603.into()), "{lost}");
    assert_eq!(service.end_of(&call).await?["reason"], "agent_lost");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_a_phone_or_with_busy_phones_is_followed_by_the_fallback() -> anyhow::Result<()> {
    let mut service = ringing("").await?;
    let account = account(&service, "alice")?;
    let call = service.call(caller()).await?;
    let lost = service.event("call.agent_lost").await?.data;
    assert_eq!((&lost["failure"], &lost["detail"]), (&"refused".into(), &"alice is not registered".into()), "{lost}");
    assert_eq!(service.end_of(&call).await?["reason"], "agent_lost");

    let busy = phone_that(SipAnswer::Refuse(486), AGENT_HZ).await?;
    busy.register(&account, &[]).await?;
    let call = service.call(caller()).await?;
    let lost = service.event("call.agent_lost").await?.data;
    assert_eq!(lost["detail"], "SIP 486 Busy", "{lost}");
    assert_eq!(service.end_of(&call).await?["reason"], "agent_lost");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_is_called_back_over_its_connection() -> anyhow::Result<()> {
    let mut service = ringing("").await?;
    let phone = phone_that(SipAnswer::Answer, AGENT_HZ).await?;
    let stream = TcpStream::connect(service.app.sip_listening()[1].address).await?;
    let ours = UdpSocket::bind("127.0.0.1:0").await?;
    ours.connect(phone.address()).await?;
    let account = SipAccount { server: ours.local_addr()?, ..account(&service, "alice")? };
    let relaying = tokio::spawn(relay(stream, ours));
    // Nobody listens there.
    let contact = "Contact: <sip:alice@192.0.2.1:5060;transport=tcp>";
    assert_eq!(phone.register(&account, &[contact]).await?.code(), Some(200));
    let call = service.call(caller()).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let invite = phone.request("INVITE").await?;
    assert!(invite.header("Via").is_some_and(|via| via.starts_with("SIP/2.0/TCP")), "{invite}");
    assert_eq!(phone.hang_up().await?, 200);
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    // Without its connection the phone is gone.
    relaying.abort();
    let _ = relaying.await;
    let other = phone_that(SipAnswer::Answer, AGENT_HZ).await?;
    let account = self::account(&service, "alice")?;
    let forgotten = async {
        while !all(&other.register(&account, &["Contact: "]).await?, "Contact").is_empty() {}
        anyhow::Ok(())
    };
    timeout(DEADLINE, forgotten).await.context("the phone is still registered")?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_behind_a_nat_is_answered_where_its_datagrams_come_from() -> anyhow::Result<()> {
    let mut service = ringing("").await?;
    let account = account(&service, "alice")?;
    let options = SipPhoneOptions {
        answer: SipAnswer::Answer,
        tone_hz: AGENT_HZ,
        believes_to_be_at: Some(([192, 0, 2, 7], 5060).into()),
        ..SipPhoneOptions::default()
    };
    let phone = SipPhone::start(options).await?;
    assert_eq!(phone.register(&account, &[]).await?.code(), Some(200));
    let call = service.call(caller()).await?;
    assert!(phone.request("INVITE").await?.start.starts_with("INVITE sip:alice@192.0.2.7:5060"));
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    phone.request("ACK").await?;
    call.hang_up().await?;
    phone.request("BYE").await?;
    assert_eq!(service.end_of(&call).await?["reason"], "caller_hung_up");
    Ok(())
}

/// Each over a connection of its own, which costs more than datagrams do.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_registered_phones_take_little_memory() -> anyhow::Result<()> {
    const PHONES: usize = 1000;
    let users: String = (0..PHONES / 10)
        .map(|number| format!("[[sip.users]]\nname = \"user{number}\"\npassword = \"secret of user{number}\"\n"))
        .collect();
    let service = service(&format!("realm = \"patchcord\"\n{users}")).await?;
    let (phone, server) = (phone().await?, service.app.sip_listening()[1].address);
    let of = |number: usize| account(&service, &format!("user{}", number / 10));
    let challenged = phone.ask_to_register(&of(0)?, &[], None).await?;
    let before = resident_bytes()?;
    let mut streams = Vec::new();
    for number in 0..PHONES {
        let (account, contact) = (of(number)?, format!("Contact: <sip:phone{number}@192.0.2.1;transport=tcp>"));
        let uri = format!("sip:{}", account.domain);
        let mut stream = TcpStream::connect(server).await?;
        // Some are dropped, because they come from one address.
        let mut tries = 0..10;
        let registered = loop {
            let count = u32::try_from(10 * number + tries.next().context("too many tries")? + 1)?;
            let proof = account.proof(&challenged, "REGISTER", &uri, count)?;
            let request = phone.register_request(&account, &[&contact], Some(&proof)).to_string();
            let asked = timeout(Duration::from_secs(1), ask(&mut stream, &request.replace("UDP", "TCP"))).await;
            if let Ok(response) = asked {
                break response?;
            }
        };
        assert_eq!(registered.code(), Some(200), "{registered}");
        streams.push(stream);
    }
    let grown = resident_bytes()?.saturating_sub(before) / 1_000_000;
    println!("{PHONES} phones over TCP take {grown} MB");
    assert!(grown <= 60, "{grown} MB");
    Ok(())
}

#[cfg(target_os = "linux")]
fn resident_bytes() -> anyhow::Result<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: usize = statm.split(' ').nth(1).context("the resident pages")?.parse()?;
    Ok(pages * 4096)
}

/// Sends a request over a stream and reads the response.
async fn ask(stream: &mut TcpStream, request: &str) -> anyhow::Result<SipMessage> {
    stream.write_all(request.as_bytes()).await?;
    let reading = async {
        let mut inbox = Vec::new();
        loop {
            anyhow::ensure!(stream.read_buf(&mut inbox).await? > 0, "the service closed the stream");
            let text = String::from_utf8_lossy(&inbox).into_owned();
            // Pings are blank.
            let message = text.trim_start().as_bytes();
            if text.ends_with("\r\n\r\n") && !message.is_empty() {
                return SipMessage::parse(message).context("a response");
            }
        }
    };
    timeout(DEADLINE, reading).await.context("no response over the stream")?
}

/// Says something again and again until the service has dropped it for this reason.
async fn until_dropped<F: Future<Output = anyhow::Result<()>>>(
    reason: &str,
    say: impl Fn() -> F,
) -> anyhow::Result<()> {
    let name = format!("patchcord_sip_dropped_total{{reason=\"{reason}\"}}");
    let before = counter(&name);
    say().await?;
    let waiting = async {
        while counter(&name) == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, waiting).await.with_context(|| format!("nothing was dropped as {reason}"))
}

fn all<'m>(message: &'m SipMessage, name: &str) -> Vec<&'m str> {
    let of = message.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
    of.map(|(_, value)| value.as_str()).collect()
}

async fn phone() -> anyhow::Result<SipPhone> {
    phone_that(SipAnswer::Answer, AGENT_HZ).await
}

async fn phone_that(answer: SipAnswer, tone_hz: f64) -> anyhow::Result<SipPhone> {
    SipPhone::start(SipPhoneOptions { answer, tone_hz, ..SipPhoneOptions::default() }).await
}

/// A service with the users alice and bob.
async fn service(keys: &str) -> anyhow::Result<TestService> {
    service_of("prompt:goodbye", keys).await
}

/// The same, whose callers ring alice.
async fn ringing(keys: &str) -> anyhow::Result<TestService> {
    service_of("sip-user:alice", keys).await
}

async fn service_of(agent: &str, keys: &str) -> anyhow::Result<TestService> {
    let sip = format!(
        "[sip]\nlisten = [\"udp:127.0.0.1:0\", \"tcp:127.0.0.1:0\"]\n{keys}\n\
         [[sip.users]]\nname = \"alice\"\npassword = \"secret of alice\"\n\
         [[sip.users]]\nname = \"bob\"\nha1 = {{ md5 = \"{BOB_MD5}\" }}\n"
    );
    let route = "fallback = [\"prompt:goodbye\"]".to_owned();
    TestService::start_with(agent, TestOptions { sip, route, ..TestOptions::default() }).await
}

/// MD5 of `bob:patchcord:secret of bob`.
const BOB_MD5: &str = "a19448ced863cad91614565d55533234";

fn account(service: &TestService, name: &str) -> anyhow::Result<SipAccount> {
    let server: SocketAddr = service.app.sip_listening().first().context("it listens")?.address;
    Ok(SipAccount {
        server,
        domain: server.ip().to_string(),
        name: name.to_owned(),
        password: format!("secret of {name}"),
        hash: DigestHash::Sha256,
    })
}
