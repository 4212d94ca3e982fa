//! The translator of OpenAI's sessions.

use patchcord_media::source::Cleared;

use super::*;
use crate::agent::dialect::testing::{read, started, texts, told};
use crate::agent::model::{ModelVendor, Tools};
use crate::call::command::CommandResult;
use crate::call::usage::Tokens;

fn model() -> OpenAiRealtime {
    let mut options = ModelOptions::parse(ModelVendor::OpenAiRealtime, "gpt-realtime").unwrap();
    options.instructions = Some("Be brief.".into());
    options.voice = Some("marin".into());
    options.greeting = Some("Greet the caller.".into());
    options.tools = Tools { hangup: true, transfer_to: vec!["support".into()], ..Tools::default() };
    OpenAiRealtime::new(options)
}

fn delta(item: &str, milliseconds: u64) -> String {
    let delta = Payload::L16.to_base64(Bytes::from(vec![0; (milliseconds * BYTES_PER_MS) as usize]));
    json!({"type": "response.output_audio.delta", "item_id": item, "delta": delta}).to_string()
}

#[test]
fn a_session_is_configured_and_then_it_greets() {
    let mut model = model();
    let session = &started(&mut model)[0]["session"];
    assert_eq!(session["type"], "realtime");
    assert_eq!(session["instructions"], "Be brief.");
    assert_eq!(session["audio"]["output"]["voice"], "marin");
    assert_eq!(session["audio"]["input"]["format"], json!({"type": "audio/pcm", "rate": 24000}));
    assert_eq!(session["tools"][0]["name"], "hangup");
    let said = read(&mut model, r#"{"type":"session.updated","session":{}}"#).unwrap();
    let [FromAgent::Ready { .. }, FromAgent::Reply(greeting)] = &said[..] else { panic!("{said:?}") };
    let greeting = &texts(std::slice::from_ref(greeting))[0];
    assert_eq!(greeting["response"]["instructions"], "Be brief.\n\nGreet the caller.");
}

#[test]
fn nothing_but_the_set_up_comes_before_it_is_confirmed() {
    let mut model = model();
    let mut outbox = Vec::new();
    let key = Notice::Dtmf { digit: Some('1'), duration_ms: 100 };
    model.write_sound(Bytes::from_static(&[1, 0]), &mut outbox);
    model.write_notice(&key, &mut outbox);
    assert_eq!(outbox, []);
    read(&mut model, r#"{"type":"session.updated","session":{}}"#).unwrap();
    model.write_sound(Bytes::from_static(&[1, 0]), &mut outbox);
    model.write_notice(&key, &mut outbox);
    assert_eq!(outbox.len(), 2);
}

#[test]
fn an_interrupted_model_learns_what_was_heard() {
    let mut model = model();
    read(&mut model, &delta("one", 1000)).unwrap();
    read(&mut model, &delta("two", 500)).unwrap();
    read(&mut model, &delta("two", 500)).unwrap();
    let said = read(&mut model, r#"{"type":"input_audio_buffer.speech_started"}"#).unwrap();
    assert_eq!(said, [FromAgent::Clear]);
    let cleared = told(&mut model, &Notice::Cleared(Cleared { played_ms: 1300, dropped_ms: 700 }));
    assert_eq!((&cleared[0]["item_id"], &cleared[0]["audio_end_ms"]), (&json!("two"), &json!(300)));
    let nothing = told(&mut model, &Notice::Cleared(Cleared { played_ms: 0, dropped_ms: 0 }));
    assert_eq!(nothing, Vec::<Value>::new(), "all of it was heard");
}

#[test]
fn what_was_not_heard_at_all_is_cut_too_and_its_rest_is_not_played() {
    let mut model = model();
    read(&mut model, &delta("one", 1000)).unwrap();
    read(&mut model, &delta("two", 500)).unwrap();
    read(&mut model, r#"{"type":"input_audio_buffer.speech_started"}"#).unwrap();
    assert_eq!(read(&mut model, &delta("two", 500)), Ok(vec![]), "it was on its way");
    let cleared = told(&mut model, &Notice::Cleared(Cleared { played_ms: 400, dropped_ms: 1100 }));
    let ends: Vec<_> = cleared.iter().map(|cut| (cut["item_id"].clone(), cut["audio_end_ms"].clone())).collect();
    assert_eq!(ends, [(json!("one"), json!(400)), (json!("two"), json!(0))]);
    assert_eq!(read(&mut model, &delta("three", 20)).unwrap().len(), 1);
}

#[test]
fn a_long_talk_without_interruption_forgets_its_oldest_items_only() {
    let mut model = model();
    for number in 0..MAX_ITEMS + 10 {
        read(&mut model, &delta(&format!("item_{number}"), 20)).unwrap();
    }
    assert_eq!(model.items.len(), MAX_ITEMS);
    let cleared = told(&mut model, &Notice::Cleared(Cleared { played_ms: 0, dropped_ms: 10 }));
    let last = format!("item_{}", MAX_ITEMS + 9);
    assert_eq!((&cleared[0]["item_id"], &cleared[0]["audio_end_ms"]), (&json!(last), &json!(10)));
}

fn result() -> FunctionResult {
    FunctionResult { text: r#"{"status":"sent"}"#.to_owned(), is_error: false }
}

fn called(model: &mut OpenAiRealtime, call_id: &str) {
    let call = json!({
        "type": "response.function_call_arguments.done", "call_id": call_id, "name": "transfer", "arguments": "{}",
    });
    read(model, &call.to_string()).unwrap();
}

fn returned(model: &mut OpenAiRealtime, call_id: &str) -> Vec<Value> {
    let mut outbox = Vec::new();
    model.write_result(&json!(call_id), &result(), &mut outbox);
    texts(&outbox).iter().map(|message| message["type"].clone()).collect()
}

#[test]
fn the_model_is_asked_to_speak_on_once_and_never_while_it_speaks() {
    let mut model = model();
    let done = r#"{"type":"response.done","response":{"status":"completed","usage":null}}"#;
    read(&mut model, r#"{"type":"response.created","response":{}}"#).unwrap();
    called(&mut model, "c1");
    called(&mut model, "c2");
    assert_eq!(returned(&mut model, "c1"), ["conversation.item.create"]);
    assert_eq!(read(&mut model, done), Ok(vec![]), "a result is missing");
    assert_eq!(returned(&mut model, "c2"), ["conversation.item.create", "response.create"]);

    read(&mut model, r#"{"type":"response.created","response":{}}"#).unwrap();
    called(&mut model, "c3");
    assert_eq!(returned(&mut model, "c3"), ["conversation.item.create"], "it still speaks");
    assert_eq!(read(&mut model, done), Ok(vec![FromAgent::Reply(respond())]));
    assert_eq!(read(&mut model, done), Ok(vec![]));

    called(&mut model, "c4");
    read(&mut model, r#"{"type":"response.created","response":{}}"#).unwrap();
    assert_eq!(returned(&mut model, "c4"), ["conversation.item.create"]);
    read(&mut model, done).unwrap();
    read(&mut model, r#"{"type":"response.created","response":{}}"#).unwrap();
    assert_eq!(read(&mut model, done), Ok(vec![]), "a response of its own has answered");
}

#[test]
fn the_usage_of_each_response_is_reported() {
    let done = r#"{"type":"response.done","response":{"status":"completed","usage":{"total_tokens":253,"input_tokens":132,
        "output_tokens":121,"input_token_details":{"text_tokens":119,"audio_tokens":13,"cached_tokens":64},
        "output_token_details":{"text_tokens":30,"audio_tokens":91}}}}"#;
    let tokens = Tokens { input: 132, cached_input: 64, input_audio: 13, output: 121, output_audio: 91 };
    assert_eq!(read(&mut model(), done), Ok(vec![FromAgent::Used(tokens)]));
    let failed = r#"{"type":"response.done","response":{"status":"failed",
        "status_details":{"type":"failed","error":{"type":"insufficient_quota","code":"credit ran out"}}}}"#;
    let lost = FromAgent::Refused("a response of the model failed: an error".into());
    assert_eq!(read(&mut model(), failed), Ok(vec![lost]), "it will answer nothing more");
    let failed = r#"{"type":"response.done","response":{"status":"failed",
        "status_details":{"type":"failed","error":{"type":"server_error","code":null}}}}"#;
    let mut ready = model();
    read(&mut ready, r#"{"type":"session.updated","session":{}}"#).unwrap();
    assert_eq!(
        read(&mut ready, failed),
        Ok(vec![FromAgent::Fault("a response of the model failed: server_error".into())])
    );
}

#[test]
fn a_function_call_counts_once_and_only_when_it_is_whole() {
    let mut model = model();
    let arguments = |kind: &str, name: Value, arguments: &str| {
        json!({"type": kind, "call_id": "c1", "name": name, "arguments": arguments}).to_string()
    };
    let kind = "response.function_call_arguments.done";
    assert_eq!(read(&mut model, &arguments(kind, json!("transfer"), "{\"to\":\"sup")), Ok(vec![]));
    assert_eq!(read(&mut model, &arguments(kind, Value::Null, "{\"to\":\"support\"}")), Ok(vec![]));
    let item = |status: &str| {
        let item = json!({"type": "function_call", "status": status, "call_id": "c1", "name": "transfer",
            "arguments": "{\"to\":\"support\"}"});
        json!({"type": "response.output_item.done", "item": item}).to_string()
    };
    assert_eq!(read(&mut model, &item("incomplete")), Ok(vec![]));
    assert!(matches!(&read(&mut model, &item("completed")).unwrap()[..], [FromAgent::CommandWhenHeard { .. }]));
    assert_eq!(read(&mut model, &item("completed")), Ok(vec![]), "the same call");
    let said = r#"{"type":"response.output_item.done","item":{"type":"message","role":"assistant","content":[]}}"#;
    assert_eq!(read(&mut model, said), Ok(vec![]));
}

#[test]
fn a_session_lasts_an_hour() {
    let mut model = model();
    read(&mut model, r#"{"type":"session.updated","session":{}}"#).unwrap();
    let expired = r#"{"type":"error","error":{"type":"invalid_request_error","code":"session_expired","message":"m"}}"#;
    assert_eq!(read(&mut model, expired), Ok(vec![FromAgent::Lost("the model reported session_expired".into())]));
}

#[test]
fn an_error_before_the_session_is_set_up_is_a_refusal() {
    let error =
        r#"{"type":"error","error":{"type":"invalid_request_error","code":"invalid_api_key","message":"sk-1"}}"#;
    let refused = FromAgent::Refused("the model reported invalid_api_key".into());
    assert_eq!(read(&mut model(), error), Ok(vec![refused]));
}

#[test]
fn a_function_call_becomes_a_command_and_its_result_goes_back() {
    let mut model = model();
    let call = r#"{"type":"response.function_call_arguments.done","call_id":"c1","name":"transfer","arguments":"{\"to\":\"support\"}"}"#;
    let said = read(&mut model, call).unwrap();
    assert!(matches!(&said[..], [FromAgent::CommandWhenHeard { .. }]));
    let done = Notice::CommandResult { request_id: json!("c1"), outcome: Ok(CommandResult::Done) };
    let back = told(&mut model, &done);
    assert_eq!(back[0]["item"]["type"], "function_call_output");
    assert_eq!(back[0]["item"]["call_id"], "c1");
    assert_eq!(back[1]["type"], "response.create");
    read(&mut model, r#"{"type":"session.updated","session":{}}"#).unwrap();
    let error = r#"{"type":"error","error":{"type":"invalid_request_error","code":"bad","message":"secret"}}"#;
    assert_eq!(read(&mut model, error), Ok(vec![FromAgent::Fault("the model reported bad".into())]));
}
