//! SIGHUP reloads the configuration while calls go on.

use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::{Call, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions};
use reqwest::StatusCode;

use crate::api::client::{READER, WRITER, keys};
use crate::people::{AGENT_HZ, SECOND, SECOND_AGENT_HZ, agent, agent_with_voice, caller, caller_hears_next};
use crate::people::{heard_voices, objections};
use crate::program::Program;
use crate::service::{Folder, TestOptions, signature};

/// What the next call hears of its agent.
async fn voices_of_a_new_call(meta: &Meta) -> anyhow::Result<Vec<f64>> {
    let call = meta.place_call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    let heard = heard_voices(&caller_hears_next(&call, SECOND).await?);
    call.hang_up().await?;
    Ok(heard)
}

async fn counted(program: &Program, metric: &str) -> anyhow::Result<u64> {
    let text = reqwest::get(format!("{}/metrics", program.url())).await?.text().await?;
    Ok(text.lines().find_map(|line| line.strip_prefix(metric)?.trim().parse().ok()).unwrap_or(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_call_keeps_its_agent_and_the_next_goes_to_the_new_one() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let (old, new) = (Agent::start(agent()).await?, Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?);
    let mut program = Program::start(&folder, &meta, &old, TestOptions::default()).await?;
    let live: Call = meta.place_call(caller()).await?;
    live.wait_until(Stage::FirstPacket).await?;

    program.rewrite_config(|text| text.replace(&old.url(), &new.url()))?;
    program.hang_up()?;
    program.line_with("configuration reloaded: 1 numbers, 1 routes").await?;
    assert_eq!(voices_of_a_new_call(&meta).await?, [SECOND_AGENT_HZ]);
    assert_eq!(heard_voices(&caller_hears_next(&live, SECOND).await?), [AGENT_HZ]);
    live.hang_up().await?;
    assert_eq!(objections(&live), [], "{}", live.seen());
    assert_eq!(counted(&program, r#"patchcord_config_reloads_total{outcome="ok"}"#).await?, 1);

    // A wrong configuration is logged line by line, and changes nothing.
    program.rewrite_config(|text| text.replace(&new.url(), "htp://wrong").replace("verify-me", ""))?;
    program.hang_up()?;
    let told = program.line_with("the old one stays in use").await?;
    assert!(told.contains("routes.reception.agent = \"htp://wrong\": give ws://"), "{told}");
    let told = program.line_with("the old one stays in use").await?;
    assert!(told.contains("whatsapp.verify_token: the secret is empty"), "{told}");
    assert_eq!(voices_of_a_new_call(&meta).await?, [SECOND_AGENT_HZ]);
    assert_eq!(counted(&program, r#"patchcord_config_reloads_total{outcome="refused"}"#).await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_keys_and_numbers_are_taken_on_and_the_rest_is_named() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(agent()).await?;
    let options = TestOptions { api: keys(), ..TestOptions::default() };
    let mut program = Program::start(&folder, &meta, &agent, options).await?;
    let (http, url) = (reqwest::Client::builder().no_proxy().build()?, program.url().to_owned());
    let asked = async |key: &str| -> anyhow::Result<StatusCode> {
        Ok(http.get(format!("{url}/v1/routes")).bearer_auth(key).send().await?.status())
    };
    let signed_by = async |secret: &str| -> anyhow::Result<StatusCode> {
        let body = r#"{"object":"whatsapp_business_account","entry":[]}"#;
        let request = http.post(format!("{url}/webhooks/whatsapp")).body(body);
        Ok(request.header("x-hub-signature-256", signature(secret, body.as_bytes())).send().await?.status())
    };
    let verified_with = async |token: &str| -> anyhow::Result<StatusCode> {
        let query = format!("hub.mode=subscribe&hub.challenge=1&hub.verify_token={token}");
        Ok(http.get(format!("{url}/webhooks/whatsapp?{query}")).send().await?.status())
    };
    assert_eq!((asked(READER).await?, asked(WRITER).await?), (StatusCode::OK, StatusCode::OK));
    assert_eq!(signed_by("the-next-secret").await?, StatusCode::UNAUTHORIZED);
    let before = meta.options().app_secret.clone();

    program.rewrite_config(|text| {
        text.replace(&before, "the-next-secret")
            .replace("id = \"reader\"", "id = \"another\"")
            .replace("verify-me", "the-next-word")
            .replace("workers = 1", "workers = 2")
            .replace("/patchcord.db", "/elsewhere.db")
    })?;
    program.hang_up()?;
    let told = program.line_with("these changes need a restart").await?;
    assert!(told.contains("media.workers, [store]"), "{told}");
    assert_eq!((asked(READER).await?, asked(WRITER).await?), (StatusCode::UNAUTHORIZED, StatusCode::OK));
    assert_eq!(signed_by("the-next-secret").await?, StatusCode::OK);
    assert_eq!(signed_by(&before).await?, StatusCode::UNAUTHORIZED);
    assert_eq!(verified_with("the-next-word").await?, StatusCode::OK);
    assert_eq!(verified_with("verify-me").await?, StatusCode::FORBIDDEN);

    // Another number in place of this one, whose calls are no longer answered.
    let number = meta.options().phone_number_id.clone();
    program.rewrite_config(|text| text.replace("the-next-secret", &before).replace(&number, "299999999999999"))?;
    program.hang_up()?;
    program.line_with("configuration reloaded").await?;
    meta.place_call(caller()).await?;
    program.line_with("a call came for a number that is not configured").await?;
    Ok(())
}
