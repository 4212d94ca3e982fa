//! Agents that speak AudioSocket: real TCP, the bytes of Asterisk's protocol.

use patchcord_simulator::agent::Agent;
use patchcord_simulator::audiosocket::{AudioSocketAgent, AudioSocketCall};
use patchcord_simulator::call::{Call, Stage};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;

use crate::api::client::{Client, OUTWARD, WRITER};
use crate::people::{
    AGENT_HZ, CALLER_HZ, SECOND, SECOND_AGENT_HZ, agent_with_voice, caller, objections, tone, until_caller_hears,
};
use crate::service::{DEADLINE, TestOptions, TestService};

fn route(keys: &str) -> TestOptions {
    TestOptions { route: keys.to_owned(), ..TestOptions::default() }
}

async fn talking(
    agent: &AudioSocketAgent,
    options: TestOptions,
) -> anyhow::Result<(TestService, Call, AudioSocketCall)> {
    let service = TestService::start_with(&agent.url(), options).await?;
    let call = service.call(caller()).await?;
    let session = agent.wait_for_call(1).await?;
    call.wait_until(Stage::FirstPacket).await?;
    Ok((service, call, session))
}

/// The id of the call in the digits of a UUID: Crockford's base 32 of the same 128 bits.
fn uuid_of(call_id: &str) -> String {
    let digits = "0123456789abcdefghjkmnpqrstvwxyz";
    let ulid = call_id.trim_start_matches("call_").to_lowercase();
    let bits =
        ulid.chars().filter_map(|digit| digits.find(digit)).fold(0_u128, |bits, digit| bits << 5 | digit as u128);
    format!("{bits:032x}")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_hears_the_caller_is_heard_gets_keys_and_hangs_up() -> anyhow::Result<()> {
    let agent = AudioSocketAgent::start(8000).await?;
    let (mut service, call, session) = talking(&agent, TestOptions::default()).await?;
    let incoming = service.event("call.incoming").await?;
    session.say(&tone(AGENT_HZ, 20_000)).await;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    session.wait_for_tone(CALLER_HZ, 8000).await?;
    call.send_dtmf("12#").await;
    session.wait_for_keys("12#").await?;
    assert_eq!(session.uuid(), uuid_of(incoming.call_id.as_str()));
    assert_eq!(session.audio(), (0x10, vec![320]), "20 ms at 8 kHz in each frame");
    session.hang_up().await;
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    session.wait_for_end().await?;
    assert_eq!(
        session.kinds(),
        [0x01, 0x03, 0x03, 0x03],
        "the UUID comes first, and a hang-up is not answered by another"
    );
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_hangs_up_and_the_agent_is_told_by_a_frame() -> anyhow::Result<()> {
    let agent = AudioSocketAgent::start(8000).await?;
    let (mut service, call, session) = talking(&agent, TestOptions::default()).await?;
    session.wait_for_tone(CALLER_HZ, 8000).await?;
    call.hang_up().await?;
    session.wait_for_end().await?;
    assert_eq!(session.kinds(), [0x01, 0x00]);
    assert_eq!(service.end_of(&call).await?["reason"], "caller_hung_up");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_closed_connection_is_a_hang_up_and_a_fixed_uuid_is_told() -> anyhow::Result<()> {
    let agent = AudioSocketAgent::start(8000).await?;
    let fixed = format!("{}/40325ec2-5efd-4bd3-805f-53576e581d13", agent.url());
    let mut service = TestService::start(&fixed).await?;
    let call = service.call(caller()).await?;
    let session = agent.wait_for_call(1).await?;
    session.wait_for_tone(CALLER_HZ, 8000).await?;
    assert_eq!(session.uuid(), "40325ec25efd4bd3805f53576e581d13");
    let shown = Client::new(&service, WRITER).get("/v1/routes").await?;
    assert_eq!(shown.body["routes"][0]["agent"], json!({ "type": "audiosocket", "url": agent.url() }));
    session.finish().await;
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    session.wait_for_end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn wideband_goes_both_ways_and_the_agent_may_speak_at_another_rate() -> anyhow::Result<()> {
    for (ours, kind, theirs) in
        [(16_000, 0x12, 48_000), (24_000, 0x13, 8000), (48_000, 0x16, 44_100), (8000, 0x10, 192_000)]
    {
        let agent = AudioSocketAgent::start(theirs).await?;
        let (_service, call, session) = talking(&agent, route(&format!("sample_rate = {ours}"))).await?;
        session.say(&tone(AGENT_HZ, 20_000)).await;
        until_caller_hears(&call, &[AGENT_HZ]).await?;
        session.wait_for_tone(CALLER_HZ, ours).await?;
        assert_eq!(session.audio(), (kind, vec![ours as usize / 25]), "{ours}");
        assert_eq!(objections(&call), [], "{}", call.seen());
    }
    Ok(())
}

/// What an agent sends, and the failure of the agent with its cause.
async fn failure_of(bytes: &[u8]) -> anyhow::Result<Value> {
    let agent = AudioSocketAgent::start(8000).await?;
    let (mut service, call, session) = talking(&agent, route("fallback = [\"prompt:hold\"]")).await?;
    session.send_bytes(bytes.to_vec()).await;
    let lost = service.event("call.agent_lost").await?;
    session.wait_for_end().await?;
    assert_eq!(session.kinds().last(), Some(&0x00), "it is hung up");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(json!([lost.data["failure"], lost.data["detail"]]))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_audiosocket_is_a_lost_agent_with_its_cause_and_the_fallback_follows() -> anyhow::Result<()> {
    let table: [(&[u8], &str); 6] = [
        (b"GET / HTTP/1.1\r\n\r\n", "it sent a frame of the kind 0x47, which AudioSocket does not have"),
        (b"\x01\x00\x110", "it sent a frame of the kind 0x01 with 17 bytes"),
        (b"\x00\xff\xff", "it sent a frame of the kind 0x00 with 65535 bytes"),
        (b"\xff\x00\x01\x04", "it reported the error 0x04"),
        (b"\xff\x00\x00", "it reported an error"),
        (b"\x03\x00\x015", "it sent a key, which only the platform does"),
    ];
    for (bytes, cause) in table {
        assert_eq!(failure_of(bytes).await?, json!(["protocol_error", cause]));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_not_there_is_told_and_the_next_one_takes_the_call() -> anyhow::Result<()> {
    let closed = TcpSocket::new_v4()?;
    closed.bind("127.0.0.1:0".parse()?)?;
    let second = AudioSocketAgent::start(8000).await?;
    let fallback = route(&format!("fallback = [\"{}\"]", second.url()));
    let mut service = TestService::start_with(&format!("audiosocket://{}", closed.local_addr()?), fallback).await?;
    let call = service.call(caller()).await?;
    second.wait_for_call(1).await?.say(&tone(AGENT_HZ, 20_000)).await;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let lost = service.event("call.agent_lost").await?;
    assert_eq!(lost.data["failure"], "refused");
    assert!(
        lost.data["detail"].as_str().is_some_and(|detail| detail.starts_with("no TCP connection: ")),
        "{}",
        lost.data
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_audio_is_taken_at_the_pace_of_the_call() -> anyhow::Result<()> {
    let agent = AudioSocketAgent::start(8000).await?;
    let (mut service, call, session) = talking(&agent, TestOptions::default()).await?;
    // Ten minutes in frames of four seconds, and a frame with nothing in it.
    session.send_frame(0x10, &[]).await;
    let minutes = std::iter::repeat_n([0x10, 0xfa, 0x00].into_iter().chain(std::iter::repeat_n(0, 64_000)), 150);
    let flood = session.send_bytes(minutes.flatten().collect());
    flood.await;
    session.wait_for_tone(CALLER_HZ, 8000).await?;
    call.hang_up().await?;
    assert_eq!(service.end_of(&call).await?["reason"], "caller_hung_up");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_named_by_url_if_the_guard_lets_it() -> anyhow::Result<()> {
    let first = Agent::start(agent_with_voice(AGENT_HZ)).await?;
    let second = AudioSocketAgent::start(8000).await?;
    let options =
        TestOptions { more_routes: "[egress]\nallow = [\"127.0.0.1/32\"]".to_owned(), ..TestOptions::default() };
    let mut service = TestService::start_with(&first.url(), options).await?;
    let call = service.call(caller()).await?;
    let id = service.event("call.accepted").await?.call_id;
    for (url, code) in [
        ("audiosocket://127.0.0.1", "invalid_url"),
        ("audiosocket://127.0.0.2:9092", "url_not_allowed"),
        ("audiosocket://bots.example.com:9092", "url_not_allowed"),
        ("audiosocket://0x7f000003:9092", "url_not_allowed"),
        ("audiosocket://user@127.0.0.1:9092", "invalid_url"),
        ("audiosocket://127.0.0.1:9092/room", "invalid_url"),
    ] {
        let refused = service.act(&id, "connect", json!({ "url": url })).await;
        assert_eq!(refused, Err(code.to_owned()), "{url}");
    }
    let outward = Client::new(&service, OUTWARD);
    let in_the_clear = json!({ "url": "audiosocket://8.8.8.8:9092" });
    outward.act(id.as_str(), "connect", in_the_clear).await?.is_problem(422, "invalid_url");
    assert!(service.act(&id, "connect", json!({ "url": second.url() })).await.is_ok());
    second.wait_for_call(1).await?.say(&tone(SECOND_AGENT_HZ, 20_000)).await;
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_read_finds_half_a_second_of_the_caller() -> anyhow::Result<()> {
    let socket = TcpSocket::new_v4()?;
    // Little of what the test does not read stays with the system.
    socket.set_recv_buffer_size(4096)?;
    socket.bind("127.0.0.1:0".parse()?)?;
    let listener = socket.listen(1)?;
    let url = format!("audiosocket://{}", listener.local_addr()?);
    let mut service = TestService::start_with(&url, route("sample_rate = 48000")).await?;
    let call = service.call(caller()).await?;
    let (mut bot, _) = tokio::time::timeout(DEADLINE, listener.accept()).await??;
    call.wait_until(Stage::FirstPacket).await?;
    // The caller speaks all the time.
    call.hear_for(5 * SECOND).await?;
    call.hang_up().await?;
    service.end_of(&call).await?;
    let mut heard = Vec::new();
    tokio::time::timeout(DEADLINE, bot.read_to_end(&mut heard)).await??;
    // 20 ms have 1,920 bytes. What waits with us is dropped at the end, so this is what the system held.
    assert!((1920..500 * 96).contains(&heard.len()), "{} bytes of five seconds", heard.len());
    Ok(())
}
