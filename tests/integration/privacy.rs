//! The log of the real program has no personal data or secrets, at any level.

use std::time::Duration;

use anyhow::Context;
use patchcord_simulator::agent::{Agent, AgentOptions, AgentSession, Behaviour, Junk};
use patchcord_simulator::call::{Announce, Call, CallerOptions, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions, Reply};

use crate::people::{agent, caller};
use crate::program::Program;
use crate::service::{Folder, TestOptions};

/// All private data of this call.
fn secrets_of(call: &Call) -> Vec<String> {
    let mut secrets = vec![call.wacid().to_owned(), call.wacid().replace("wacid.", "")];
    for sdp in [call.offer().to_owned(), call.answer().unwrap_or_default()] {
        for line in sdp.lines() {
            let words = || line.split(' ').map(str::to_owned);
            match line.split_once(':') {
                Some(("a=ice-pwd" | "a=ice-ufrag", value)) => secrets.push(value.to_owned()),
                Some(("a=fingerprint", _)) => secrets.extend(words().nth(1)),
                Some(("a=candidate", _)) => {
                    secrets.push(line.to_owned());
                    let (ip, port) = (words().nth(4), words().nth(5));
                    secrets.extend(ip.zip(port).map(|(ip, port)| format!("{ip}:{port}")));
                }
                _ => {}
            }
        }
    }
    secrets.extend(["a=ice-", "a=candidate", "m=audio", "a=fingerprint"].map(str::to_owned));
    secrets
}

fn keeps(log: &str, secrets: &[String]) {
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        if let Some(line) = log.lines().find(|line| line.contains(secret.as_str())) {
            panic!("{secret:?} is in the log: {line}");
        }
    }
}

fn named_caller() -> CallerOptions {
    CallerOptions {
        from: Some("12025550177".to_owned()),
        user_id: Some("US.90210664433221100".to_owned()),
        username: Some("zofia.unmistakable".to_owned()),
        name: "Zofia Unmistakable".to_owned(),
        cta_payload: Some("order-of-zofia".to_owned()),
        deeplink_payload: Some("link-of-zofia".to_owned()),
        ..caller()
    }
}

/// The people, the account and the route of all calls here.
fn common_secrets(meta: &Meta) -> Vec<String> {
    let account = meta.options();
    let fixed = [
        "90210664",
        "12025550177",
        "US.90210664433221100",
        "nmistakable",
        "of-zofia",
        "verify-me",
        "agent-authorization",
        "parameter-of-the-route",
        &account.app_secret,
        &account.access_token,
        &account.display_phone_number,
    ];
    fixed.map(str::to_owned).to_vec()
}

fn private_route() -> TestOptions {
    let route = "headers = { Authorization = \"agent-authorization\" }\n\
                 parameters = { secret = \"parameter-of-the-route\" }";
    TestOptions { route: route.to_owned(), ..TestOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_call_leaves_nothing_private_in_the_log() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let junk = vec![Junk::InvalidJson, Junk::WrongFields, Junk::UnknownType];
    let agent = Agent::start(AgentOptions { behaviour: Behaviour::Junk(junk), ..agent() }).await?;
    let mut program = Program::start(&folder, &meta, &agent, private_route()).await?;
    let call = meta.place_call(named_caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    let session = agent.wait_for_session(1).await?;
    assert_eq!(session.header("authorization"), Some("agent-authorization"));
    let gather = r#"{"type":"command","action":"gather","max_digits":8,"protected":true}"#;
    session.send_text(gather).await;
    session.wait_for_message("result").await?;
    call.send_dtmf("90210664").await;
    session.wait_for_nth_message("dtmf", 8).await?;
    call.hear_for(Duration::from_secs(1)).await?;
    assert_eq!(call.send_connect().await?, 200);
    call.hang_up().await?;
    program.line_with("caller_hung_up").await?;
    let log = program.finish().await?;
    assert!(log.contains("TRACE") && log.contains("accepted after"), "the log is there:\n{log}");
    keeps(&log, &secrets_of(&call));
    keeps(&log, &common_secrets(&meta));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_fail_leave_nothing_private_in_the_log() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(AgentOptions { behaviour: Behaviour::RefuseHttp(500), ..agent() }).await?;
    let mut options = private_route();
    options.route.push_str("\nredial_for = \"1s\"");
    let mut program = Program::start(&folder, &meta, &agent, options).await?;
    let mut calls = Vec::new();

    let nobody = meta.place_call(named_caller()).await?;
    program.line_with("no_agent").await?;
    calls.push(nobody);

    agent.set_behaviour(Behaviour::Normal);
    meta.script("accept", vec![Reply::Error { status: 400, body: error_that_names_the_caller(&calls[0]) }]);
    calls.push(meta.place_call(named_caller()).await?);
    program.line_with("accept_failed").await?;

    meta.script("pre_accept", vec![Reply::token_expired()]);
    calls.push(meta.place_call(named_caller()).await?);
    program.line_with("pre_accept_failed").await?;

    let hostile = meta.place_call(CallerOptions { announce: Announce::ByHand, ..named_caller() }).await?;
    for rewrite in [("opus/48000/2", "PCMU/8000"), ("a=ice-pwd", "a=ice-pwd\\u0000")] {
        meta.send_webhook(hostile.connect_body().replace(rewrite.0, rewrite.1).replace("wacid.", "wacid.A")).await?;
        program.line_with("offer_refused").await?;
        meta.send_webhook(hostile.connect_body().replace(rewrite.0, rewrite.1).replace("wacid.", "wacid.B")).await?;
    }
    meta.send_unsigned(hostile.connect_body()).await?;
    let cut = hostile.connect_body();
    meta.send_webhook(cut[..cut.len() / 2].to_owned()).await?;
    meta.send_webhook(cut.replace("\"connect\"", "\"connected\"")).await?;
    meta.send_webhook(cut.replace("200000000000002", "999")).await?;
    program.line_with("not configured").await?;
    calls.push(hostile);

    let last = meta.place_call(named_caller()).await?;
    last.wait_until(Stage::FirstPacket).await?;
    let is_theirs =
        |session: &AgentSession| session.messages_of("start").iter().any(|start| start["wacid"] == last.wacid());
    agent.set_behaviour(Behaviour::RefuseHttp(500));
    agent.sessions().into_iter().find(is_theirs).context("the last call's session")?.reset().await;
    program.line_with("agent_lost").await?;
    calls.push(last);
    let log = program.finish().await?;
    calls.iter().for_each(|call| keeps(&log, &secrets_of(call)));
    keeps(&log, &common_secrets(&meta));
    Ok(())
}

/// Meta's error texts may quote the request.
fn error_that_names_the_caller(call: &Call) -> String {
    format!(
        r#"{{"error":{{"message":"(#131009) Call {} of 12025550177 is not there","type":"OAuthException","code":131009,"error_data":{{"messaging_product":"whatsapp","details":"+12025550177 cannot be called"}},"error_user_title":"12025550177","error_user_msg":"Call 12025550177","fbtrace_id":"AsimulatedTraceId0000009"}}}}"#,
        call.wacid()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_leaves_no_core_dump() -> anyhow::Result<()> {
    let (folder, meta) = (Folder::new()?, Meta::start(MetaOptions::default()).await?);
    let agent = Agent::start(agent()).await?;
    let program = Program::start(&folder, &meta, &agent, TestOptions::default()).await?;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", program.id()))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("a limit")?;
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
    Ok(())
}
