//! Several business numbers, each with its own limit and app secret.

use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::{Call, EndedBy, Stage};

use crate::people::{agent, caller, objections};
use crate::service::{TestOptions, TestService, counter};

/// A number in addition to the one that Meta serves.
const OTHER: &str = "200000000000009";

fn with_another_number(keys: &str) -> TestOptions {
    let more_numbers = format!(
        "[[whatsapp.numbers]]\nphone_number_id = \"{OTHER}\"\naccess_token = \"other\"\nroute = \"reception\"\n{keys}"
    );
    TestOptions { more_numbers, ..TestOptions::default() }
}

/// The call as if the other number had been called.
fn to_the_other(service: &TestService, body: &str) -> String {
    body.replace(&service.meta.options().phone_number_id, OTHER)
}

#[tokio::test(flavor = "multi_thread")]
async fn over_its_limit_a_number_rejects_and_the_others_go_on() -> anyhow::Result<()> {
    let agent = Agent::start(agent()).await?;
    let options = TestOptions { number: "max_calls = 1".to_owned(), ..with_another_number("") };
    let mut service = TestService::start_with(&agent.url(), options).await?;
    let first = service.call(caller()).await?;
    first.wait_until(Stage::FirstPacket).await?;

    let second = service.call(caller()).await?;
    second.wait_until(Stage::Ended).await?;
    assert_eq!(second.ended_by(), Some(EndedBy::Rejected));
    let ended = service.end_of(&second).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"number_overloaded".into(), &"operator".into()));
    assert!(counter(r#"patchcord_calls_total{reason="number_overloaded",fault="operator"}"#) > 0);
    assert_eq!(agent.connections(), 1);

    let to_other: Call = service.unannounced(caller()).await?;
    let body = to_the_other(&service, &to_other.connect_body());
    assert_eq!(service.post_signed(body).await?.status, 200);
    // Meta does not know this number; the attempt shows that there was room.
    assert_eq!(service.end_of(&to_other).await?["reason"], "pre_accept_failed");

    first.hang_up().await?;
    service.end_of(&first).await?;
    let third = service.call(caller()).await?;
    third.wait_until(Stage::FirstPacket).await?;
    assert_eq!(objections(&third), [], "{}", third.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_one_number_cannot_speak_for_another() -> anyhow::Result<()> {
    let options = with_another_number("app_secrets = [\"of-the-other\", \"of-the-other-before\"]");
    let mut service = TestService::start_with("prompt:hold", options).await?;
    let wrong = r#"patchcord_webhook_events_total{outcome="wrong_secret"}"#;
    let before = counter(wrong);

    let call = service.unannounced(caller()).await?;
    let (connect, terminate) = (call.connect_body(), call.terminate_body());
    let to_other = to_the_other(&service, &connect);
    assert_eq!(service.post_signed(to_other.clone()).await?.status, 200, "the shared secret is known");
    assert_eq!(service.post_signed_by("of-the-other", connect.clone()).await?.status, 200, "and so is this");
    assert_eq!(service.live_calls().await?, 0);
    assert!(counter(wrong) >= before + 2);

    // The forged webhooks have left no trace: the real one is answered.
    assert_eq!(service.post_signed(connect).await?.status, 200);
    call.wait_until(Stage::PreAccepted).await?;
    // The other app cannot end the call, whichever number it names.
    for forged in [terminate.clone(), to_the_other(&service, &terminate)] {
        assert_eq!(service.post_signed_by("of-the-other", forged).await?.status, 200);
    }
    assert_eq!(service.live_calls().await?, 1);
    call.wait_until(Stage::FirstPacket).await?;

    assert_eq!(service.post_signed_by("of-nobody", to_other).await?.status, 401);
    let second = service.unannounced(caller()).await?;
    let to_other = to_the_other(&service, &second.connect_body());
    assert_eq!(service.post_signed_by("of-the-other-before", to_other).await?.status, 200);
    // It was admitted, or it would have no end. Meta does not know this number.
    assert_eq!(service.end_of(&second).await?["reason"], "pre_accept_failed");
    Ok(())
}
