//! Trunks: the real service calls people through phone systems with passwords, several servers and rules of their own, and
//! takes their calls.

use std::time::Duration;

use anyhow::Context;
use patchcord_simulator::call::{Call, Stage};
use patchcord_simulator::callee::{AnswerWebhooks, Callee, CalleeOptions};
use patchcord_simulator::dns::{DnsRecord, DnsServer};
use patchcord_simulator::sip_phone::{
    Challenge, DigestHash, SipAccount, SipAnswer, SipMessage, SipPhone, SipPhoneOptions,
};
use patchcord_simulator::speech::Speech;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::people::{AGENT_HZ, CALLER_HZ, SECOND_AGENT_HZ, caller, until_caller_hears};
use crate::service::{TestOptions, TestService, counter};
use crate::sip::until_phone_hears;

const NUMBER: &str = "12025550143";
const ACCOUNT: &str = "username = \"patchcord\"\npassword = \"secret of the trunk\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_that_asks_for_a_password_is_answered_and_both_talk() -> anyhow::Result<()> {
    for (code, hashes, stale) in [
        (401, vec![DigestHash::Sha256], 0),
        (407, vec![DigestHash::Md5], 0),
        (401, vec![DigestHash::Sha256, DigestHash::Md5], 1),
    ] {
        let challenge = Challenge { hashes, stale, ..challenge(code) };
        let pbx = server(SipAnswer::Challenge(challenge)).await?;
        let (mut service, call) = calling(&[&pbx.uri()], ACCOUNT, "").await?;
        until_caller_hears(&call, &[AGENT_HZ]).await?;
        until_phone_hears(&pbx, &[CALLER_HZ]).await?;
        let invites = requests(&pbx, "INVITE");
        assert_eq!(invites.len(), 2 + stale as usize, "one for each challenge, and the first");
        for (earlier, later) in invites.iter().zip(&invites[1..]) {
            for name in ["Call-ID", "From", "To"] {
                assert_eq!(earlier.header(name), later.header(name), "RFC 3261 §22.2");
            }
            assert!(sequence(earlier)? < sequence(later)?, "{later}");
        }
        let name = if code == 401 { "Authorization" } else { "Proxy-Authorization" };
        let shown = invites.last().and_then(|invite| invite.header(name)).context("a proof")?.to_owned();
        let acks = requests(&pbx, "ACK");
        assert_eq!(acks.last().and_then(|ack| ack.header(name)), Some(shown.as_str()), "RFC 3261 §22.1");
        call.hang_up().await?;
        let bye = pbx.request("BYE").await?;
        assert!(bye.header(name).is_some_and(|shown| shown.contains("nc=00000002")), "nobody has to ask again: {bye}");
        assert_eq!(service.end_of(&call).await?["reason"], "caller_hung_up");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_ends_the_attempt_and_says_so() -> anyhow::Result<()> {
    for (keys, cause, most) in
        [("username = \"patchcord\"\npassword = \"guess\"\n", ": username or password is wrong", 3), ("", "", 1)]
    {
        let pbx = server(SipAnswer::Challenge(challenge(401))).await?;
        let (mut service, call) = calling(&[&pbx.uri()], keys, "").await?;
        let lost = service.event("call.agent_lost").await?.data;
        assert_eq!(lost["detail"], format!("SIP 401 Authentication Required{cause}"), "{lost}");
        assert_eq!((&lost["failure"], &lost["sip_code"]), (&json!("refused"), &json!(401)), "{lost}");
        assert_eq!(service.end_of(&call).await?["reason"], "no_agent");
        assert!(requests(&pbx, "INVITE").len() <= most);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_server_is_called_where_it_may_do_better() -> anyhow::Result<()> {
    for answer in [
        SipAnswer::Refuse(503),
        SipAnswer::Refuse(480),
        SipAnswer::Refuse(408),
        SipAnswer::Refuse(500),
        SipAnswer::Ignore,
    ] {
        let (first, second) = (server(answer.clone()).await?, server(SipAnswer::Answer).await?);
        let (mut service, call) = calling(&[&first.uri(), &second.uri()], "keepalive = 0\n", "").await?;
        until_caller_hears(&call, &[AGENT_HZ]).await?;
        let ids = [&first, &second]
            .map(|server| requests(server, "INVITE")[0].header("X-WhatsApp-Call-Id").map(str::to_owned));
        assert_eq!(ids[0], ids[1], "{answer:?}");
        assert_eq!(second.hang_up().await?, 200);
        assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up", "{answer:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_tls_fails_or_that_hangs_is_followed_by_the_next() -> anyhow::Result<()> {
    let (closes, hangs) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let target = |listener: &TcpListener| anyhow::Ok(format!("sip:{};transport=tls", listener.local_addr()?));
    let alive = server(SipAnswer::Answer).await?;
    let targets = [target(&closes)?, target(&hangs)?, alive.uri()];
    let closing = tokio::spawn(async move { while closes.accept().await.is_ok() {} });
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let (mut service, call) = calling(&targets, "keepalive = 0\n", "").await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    assert_eq!(alive.hang_up().await?, 200);
    service.end_of(&call).await?;
    closing.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_persons_own_word_is_final() -> anyhow::Result<()> {
    for (code, detail) in
        [(486, "SIP 486 Busy"), (603, "SIP 603 Decline"), (600, "SIP 600 Busy"), (404, "SIP 404 Not Found")]
    {
        let (first, second) = (server(SipAnswer::Refuse(code)).await?, server(SipAnswer::Answer).await?);
        let (mut service, call) = calling(&[&first.uri(), &second.uri()], "", "").await?;
        let lost = service.event("call.agent_lost").await?.data;
        assert_eq!((&lost["detail"], &lost["sip_code"]), (&json!(detail), &json!(code)), "{lost}");
        service.end_of(&call).await?;
        assert_eq!(requests(&second, "INVITE").len(), 0, "{code}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reason_names_every_server_and_the_code_that_gave_up() -> anyhow::Result<()> {
    let closed = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let (second, third) = (server(SipAnswer::Refuse(503)).await?, server(SipAnswer::Refuse(486)).await?);
    let targets = [format!("sip:{closed};transport=tcp"), second.uri(), third.uri()];
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let (mut service, call) = calling(&targets, "keepalive = 0\n", "").await?;
    let lost = service.event("call.agent_lost").await?.data;
    assert_eq!(
        lost["detail"],
        "SIP 486 Busy (target 3; before it target 1: TCP: connection refused; target 2: SIP 503 Service Unavailable)",
        "{lost}"
    );
    service.end_of(&call).await?;
    let failed = |target: &str, outcome: &str| {
        counter(&format!("patchcord_sip_trunk_calls_total{{trunk=\"pbx\",target=\"{target}\",outcome=\"{outcome}\"}}"))
    };
    assert_eq!(failed(targets[0], "unreachable"), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_dead_is_not_tried_first_by_the_next_call() -> anyhow::Result<()> {
    let (dead, alive) = (server(SipAnswer::Ignore).await?, server(SipAnswer::Answer).await?);
    let (mut service, first) = calling(&[&dead.uri(), &alive.uri()], "keepalive = 0\n", "").await?;
    until_caller_hears(&first, &[AGENT_HZ]).await?;
    first.hang_up().await?;
    service.end_of(&first).await?;
    let asked = dead_calls(&dead);
    let second = service.call(caller()).await?;
    until_caller_hears(&second, &[AGENT_HZ]).await?;
    assert_eq!(dead_calls(&dead), asked, "it rests");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keepalives_find_a_dead_server_before_a_call_does() -> anyhow::Result<()> {
    let (dead, alive) = (server(SipAnswer::Ignore).await?, server(SipAnswer::Answer).await?);
    let service = service(&[&dead.uri(), &alive.uri()], "keepalive = \"1s\"\n", "").await?;
    let up = |server: &SipPhone| {
        let target = format!("sip:{}", server.address());
        counter(&format!("patchcord_sip_trunk_up{{trunk=\"pbx\",target=\"{target}\"}}"))
    };
    // The second OPTIONS follows what became of the first.
    let second = |received: &[SipMessage]| {
        received.iter().any(|message| message.header("Call-ID") != received[0].header("Call-ID"))
    };
    alive.wait_until("another keepalive", second).await?;
    dead.wait_until("its failure", |received| received.len() > 4).await?;
    assert_eq!(up(&alive), 1);
    let call = service.call(caller()).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    assert_eq!((up(&dead), dead_calls(&dead)), (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_behind_a_trunk_hands_over_to_another_that_asks_for_the_password() -> anyhow::Result<()> {
    let first = server(SipAnswer::Answer).await?;
    let second = SipPhone::start(SipPhoneOptions {
        answer: SipAnswer::Challenge(challenge(401)),
        tone_hz: SECOND_AGENT_HZ,
        ..SipPhoneOptions::default()
    });
    let second = second.await?;
    let sip = format!(
        "[sip]\nlisten = [\"udp:127.0.0.1:0\"]\nrefer_to = [\"{}\"]\n[[sip.trunks]]\nname = \"pbx\"\n\
         targets = [\"sip:{}\", \"sip:{}\"]\nkeepalive = 0\n{ACCOUNT}",
        second.uri(),
        first.address(),
        second.address()
    );
    let mut service =
        TestService::start_with("sip-trunk:pbx/200", TestOptions { sip, ..TestOptions::default() }).await?;
    let call = service.call(caller()).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let refer_to = format!("Refer-To: <{}>", second.uri());
    assert_eq!(first.send("REFER", &[&refer_to], "").await?.code(), Some(202));
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    first.request("BYE").await?;
    assert_eq!(service.event("call.transferred").await?.data["completed"], true);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_gets_the_configured_headers_and_the_number_only_if_it_may() -> anyhow::Result<()> {
    let headers = "headers = { \"X-Account\" = \"4711\", \"X-Team\" = \"trunk\" }\nkeepalive = 0\n";
    let route = "sip_headers = { \"User-to-User\" = \"04c8;encoding=hex\", \"X-Team\" = \"route\" }\n";
    for (keys, user, asserted) in [
        ("", "\"WhatsApp\" <sip:whatsapp@", None),
        (
            "identity = \"sip:+4930123456@example.com\"\n",
            "<sip:+4930123456@example.com>",
            Some("+4930123456@example.com"),
        ),
        (
            "identity = \"sip:+4930123456@example.com\"\ncaller_identity = \"number\"\n",
            "<sip:+12025550143@example.com>",
            Some("+12025550143@example.com"),
        ),
    ] {
        let pbx = server(SipAnswer::Answer).await?;
        let (_service, call) = calling(&[&pbx.uri()], &format!("{headers}{keys}"), route).await?;
        call.wait_until(Stage::FirstPacket).await?;
        let invite = pbx.request("INVITE").await?;
        for (name, value) in [("X-Account", "4711"), ("X-Team", "route"), ("User-to-User", "04c8;encoding=hex")] {
            assert_eq!(invite.header(name), Some(value), "{invite}");
        }
        assert!(invite.start.starts_with("INVITE sip:+4940987654@127.0.0.1"), "{invite}");
        assert!(invite.header("From").is_some_and(|from| from.contains(user)), "{invite}");
        let expected = asserted.map(|asserted| format!("<sip:{asserted}>"));
        assert_eq!(invite.header("P-Asserted-Identity").map(str::to_owned), expected, "{invite}");
        assert_eq!(invite.to_string().contains("12025550"), keys.contains("caller_identity"), "{invite}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_from_a_trunk_rings_a_whatsapp_user_and_both_talk() -> anyhow::Result<()> {
    let keys = "allow = [\"127.0.0.0/8\"]\nmay_call = true\nheaders_to_parameters = { \"X-Ticket\" = \"ticket\" }\n";
    let mut scene = Inbound::start(keys).await?;
    let headers = ["X-Ticket: 4711", "X-Other: no"];
    let dialled = scene.pbx.dial_with(&scene.account, &format!("+{NUMBER}"), &headers, true).await?;
    let call = scene.callee.next_call().await?;
    scene.pbx.response(&dialled, 180).await?;
    call.wait_until(Stage::MediaUp).await?;
    call.pick_up().await?;
    assert_eq!(scene.pbx.answered(&dialled).await?.code(), Some(200));
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    until_phone_hears(&scene.pbx, &[CALLER_HZ]).await?;
    assert_eq!(scene.pbx.hang_up().await?, 200);
    let ended = scene.service.event("call.ended").await?;
    assert_eq!(ended.client_state.as_deref(), Some("{\"ticket\":\"4711\"}"));
    assert_eq!(ended.data["reason"], "agent_hung_up");
    scene.service.all_ended().await
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_meta_reach_the_trunk_as_codes() -> anyhow::Result<()> {
    let scene = Inbound::start("allow = [\"127.0.0.1\"]\nmay_call = true\n").await?;
    for (number, code, reason) in [("12025550177", 403, "no_permission"), ("alice", 484, "number_invalid")] {
        let dialled = scene.pbx.dial(&scene.account, number).await?;
        let refused = scene.pbx.answered(&dialled).await?;
        assert_eq!(refused.code(), Some(code), "{refused}");
        assert!(refused.header("Reason").is_some_and(|text| text.contains(reason)), "{refused}");
    }
    let dialled = scene.pbx.dial(&scene.account, NUMBER).await?;
    let call = scene.callee.next_call().await?;
    scene.pbx.response(&dialled, 180).await?;
    call.decline().await?;
    assert_eq!(scene.pbx.answered(&dialled).await?.code(), Some(603));
    scene.service.all_ended().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_calls_through_a_trunk_that_may_not() -> anyhow::Result<()> {
    let scene = Inbound::start("allow = [\"127.0.0.1\"]\n").await?;
    let dialled = scene.pbx.dial(&scene.account, NUMBER).await?;
    let refused = scene.pbx.answered(&dialled).await?;
    assert_eq!(refused.code(), Some(403));
    assert!(refused.header("Reason").is_some_and(|reason| reason.contains("calls_not_allowed")), "{refused}");
    assert_eq!(scene.service.actions(), [""; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_calls_like_a_trunk_gets_no_answer() -> anyhow::Result<()> {
    let scene = Inbound::start("allow = [\"203.0.113.0/24\"]\nmay_call = true\n").await?;
    let dialling = scene.pbx.dial(&scene.account, NUMBER);
    assert!(timeout(Duration::from_secs(2), dialling).await.is_err());
    assert_eq!(scene.pbx.received().iter().filter(|message| message.method() != Some("OPTIONS")).count(), 0);
    assert_eq!(scene.service.actions(), [""; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_with_a_password_for_its_calls_must_show_it() -> anyhow::Result<()> {
    let keys = "allow = [\"127.0.0.1\"]\nmay_call = true\n\
                incoming = { username = \"pbx1\", password = \"its secret\" }\n";
    let scene = Inbound::start(keys).await?;
    let good = SipAccount { name: "pbx1".to_owned(), password: "its secret".to_owned(), ..scene.account.clone() };
    let wrong = SipAccount { password: "guess".to_owned(), ..good.clone() };
    let dialled = scene.pbx.dial(&wrong, NUMBER).await?;
    assert_eq!(scene.pbx.answered(&dialled).await?.code(), Some(403));
    assert_eq!(scene.service.actions(), [""; 0]);
    for hash in [DigestHash::Md5, DigestHash::Sha256] {
        let good = SipAccount { hash, ..good.clone() };
        let dialled = scene.pbx.dial(&good, NUMBER).await?;
        let call = scene.callee.next_call().await?;
        scene.pbx.response(&dialled, 180).await?;
        assert_eq!(scene.pbx.cancel(&dialled).await?.code(), Some(200));
        assert_eq!(scene.pbx.answered(&dialled).await?.code(), Some(487));
        call.wait_until(Stage::Ended).await?;
        scene.service.all_ended().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_of_a_domain_are_found_by_the_dns_and_called_in_its_order() -> anyhow::Result<()> {
    let (first, second) = (server(SipAnswer::Refuse(503)).await?, server(SipAnswer::Answer).await?);
    let naptr =
        DnsRecord::Naptr { order: 1, service: "SIP+D2U".to_owned(), replacement: "_sip._udp.pbx.example".to_owned() };
    let records = [
        ("pbx.example", naptr),
        srv(20, &second, "two"),
        srv(10, &first, "one"),
        ("one.pbx.example", here()),
        ("two.pbx.example", here()),
    ];
    let dns = DnsServer::start(&records).await?;
    for agent in ["sip-trunk:pbx/200", "sip:200@pbx.example"] {
        let sip = format!(
            "[sip]\nlisten = [\"udp:127.0.0.1:0\"]\ndns = \"{}\"\n[[sip.trunks]]\nname = \"pbx\"\n\
             targets = [\"sip:pbx.example\"]\nkeepalive = 0\n",
            dns.address()
        );
        let mut service = TestService::start_with(agent, TestOptions { sip, ..TestOptions::default() }).await?;
        let asked = dead_calls(&first);
        let call = service.call(caller()).await?;
        until_caller_hears(&call, &[AGENT_HZ]).await?;
        assert_eq!(dead_calls(&first), asked + 1, "{agent}");
        let invite = second.received().into_iter().rfind(|message| message.method() == Some("INVITE"));
        let invite = invite.context("an INVITE")?;
        assert!(invite.start.starts_with("INVITE sip:200@pbx.example SIP"), "{invite}");
        assert_eq!(invite.header("To"), Some("<sip:200@pbx.example>"), "{invite}");
        call.hang_up().await?;
        service.end_of(&call).await?;
    }
    assert!(dns.asked().contains(&("pbx.example".to_owned(), 35)), "{:?}", dns.asked());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ringing_server_of_a_domain_gets_the_cancel() -> anyhow::Result<()> {
    let rings = server(SipAnswer::Ring).await?;
    let dns = DnsServer::start(&[srv(10, &rings, "one"), ("one.pbx.example", here()), ("pbx.example", here())]).await?;
    let sip = format!("[sip]\nlisten = [\"udp:127.0.0.1:0\"]\ndns = \"{}\"\n", dns.address());
    let options = TestOptions { sip, ..TestOptions::default() };
    let service = TestService::start_with("sip:200@pbx.example", options).await?;
    let call = service.call(caller()).await?;
    let invite = rings.request("INVITE").await?;
    call.hang_up().await?;
    let cancel = rings.request("CANCEL").await?;
    assert_eq!(cancel.header("Via"), invite.header("Via"));
    assert_eq!(cancel.start.replace("CANCEL", "INVITE"), invite.start);
    service.all_ended().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_or_a_domain_without_services_means_the_host_itself() -> anyhow::Result<()> {
    let pbx = server(SipAnswer::Answer).await?;
    let dns = DnsServer::start(&[("pbx.example", here())]).await?;
    let sip = format!("[sip]\nlisten = [\"udp:127.0.0.1:0\"]\ndns = \"{}\"\n", dns.address());
    let agent = format!("sip:200@pbx.example:{}", pbx.address().port());
    let service = TestService::start_with(&agent, TestOptions { sip, ..TestOptions::default() }).await?;
    let call = service.call(caller()).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    assert!(
        dns.asked().iter().all(|(name, kind)| name == "pbx.example" && [1, 28].contains(kind)),
        "{:?}",
        dns.asked()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_does_not_exist_fails_at_once() -> anyhow::Result<()> {
    let dns = DnsServer::start(&[]).await?;
    let sip = format!("[sip]\nlisten = [\"udp:127.0.0.1:0\"]\ndns = \"{}\"\n", dns.address());
    let options = TestOptions { sip, ..TestOptions::default() };
    let mut service = TestService::start_with("sip:200@pbx.example", options).await?;
    let call = service.call(caller()).await?;
    assert_eq!(service.event("call.agent_lost").await?.data["detail"], "its name does not exist");
    service.end_of(&call).await?;
    Ok(())
}

/// A server that behaves so.
async fn server(answer: SipAnswer) -> anyhow::Result<SipPhone> {
    let speech = Speech::tone(AGENT_HZ)?;
    SipPhone::start(SipPhoneOptions { answer, speech, tone_hz: AGENT_HZ, ..SipPhoneOptions::default() }).await
}

fn challenge(code: u16) -> Challenge {
    Challenge {
        code,
        realm: "pbx.example",
        username: "patchcord",
        password: "secret of the trunk",
        hashes: vec![DigestHash::Sha256],
        stale: 0,
    }
}

/// A service with a trunk of these servers, and these keys.
async fn service(targets: &[&str], keys: &str, route: &str) -> anyhow::Result<TestService> {
    // Without its user part.
    let targets: Vec<String> = targets.iter().map(|target| target.replace("sip:200@", "sip:")).collect();
    let sip =
        format!("[sip]\nlisten = [\"udp:127.0.0.1:0\"]\n[[sip.trunks]]\nname = \"pbx\"\ntargets = {targets:?}\n{keys}");
    let options = TestOptions { sip, route: route.to_owned(), ..TestOptions::default() };
    TestService::start_with("sip-trunk:pbx/+4940987654", options).await
}

/// The same, with a caller who is put through to it.
async fn calling(targets: &[&str], keys: &str, route: &str) -> anyhow::Result<(TestService, Call)> {
    let service = service(targets, keys, route).await?;
    let call = service.call(caller()).await?;
    Ok((service, call))
}

/// Each once, however often it was sent.
fn requests(server: &SipPhone, method: &str) -> Vec<SipMessage> {
    let mut all = server.received();
    all.retain(|message| message.method() == Some(method));
    all.dedup_by(|one, other| one.header("Via") == other.header("Via"));
    all
}

fn dead_calls(server: &SipPhone) -> usize {
    requests(server, "INVITE").len()
}

fn sequence(message: &SipMessage) -> anyhow::Result<u32> {
    let cseq = message.header("CSeq").and_then(|cseq| cseq.split(' ').next()).context("a CSeq")?;
    Ok(cseq.parse()?)
}

/// A service whose trunk calls.
struct Inbound {
    service: TestService,
    pbx: SipPhone,
    account: SipAccount,
    callee: Callee,
}

impl Inbound {
    async fn start(keys: &str) -> anyhow::Result<Self> {
        let pbx = server(SipAnswer::Ignore).await?;
        let service = service(&[&pbx.uri()], &format!("keepalive = 0\n{keys}"), "").await?;
        let webhooks = AnswerWebhooks::default();
        let callee = service.meta.permit(CalleeOptions { person: caller(), webhooks, ..CalleeOptions::default() });
        let server = service.app.sip_listening().first().context("it listens")?.address;
        let account = SipAccount {
            server,
            domain: server.ip().to_string(),
            name: "anybody".to_owned(),
            password: String::new(),
            hash: DigestHash::Sha256,
        };
        Ok(Self { service, pbx, account, callee })
    }
}

/// A record of a server of `_sip._udp.pbx.example`.
fn srv(priority: u16, server: &SipPhone, target: &str) -> (&'static str, DnsRecord) {
    let target = format!("{target}.pbx.example");
    ("_sip._udp.pbx.example", DnsRecord::Srv { priority, weight: 0, port: server.address().port(), target })
}

fn here() -> DnsRecord {
    DnsRecord::A(std::net::Ipv4Addr::LOCALHOST)
}
