//! Commands read from JSON, and what is wrong with bad ones.

use patchcord_media::gather::MAX_DIGITS;

use super::*;

fn read(text: &str) -> Result<CallCommand, String> {
    let command: CallCommand = serde_json::from_str(text).map_err(|error| error.to_string())?;
    command.check().map_err(|refusal| refusal.message)?;
    Ok(command)
}

#[test]
fn commands_are_read_with_their_usual_values() {
    let gather = Gather {
        prompts: Vec::new(),
        max_digits: MAX_DIGITS,
        first_digit_timeout_ms: 10_000,
        inter_digit_timeout_ms: 3_000,
        terminator: Some('#'),
        protected: false,
    };
    assert_eq!(read(r#"{"action":"gather"}"#), Ok(SoundCommand::Gather(gather.clone()).into()));
    assert_eq!(
        read(r#"{"action":"gather","terminator":null}"#),
        Ok(SoundCommand::Gather(Gather { terminator: None, ..gather }).into())
    );
    let play = Play { prompts: vec!["hold".to_owned()], repeat: true, under_voice: false };
    assert_eq!(read(r#"{"action":"play","prompts":["hold"],"loop":true}"#), Ok(SoundCommand::Play(play).into()));
    assert_eq!(read(r#"{"action":"stop_playback"}"#), Ok(SoundCommand::StopPlayback.into()));
}

#[test]
fn every_action_is_read_by_its_name_and_documented() {
    let page = include_str!("../../../docs/agents.md");
    for action in ACTIONS {
        let fields = r#""route":"r","party":"agent","prompts":["p"],"digits":"1","role":"join","guest_id":1,"client_state":"s","answer":"v=0""#;
        let command = read(&format!(r#"{{"action":"{action}",{fields}}}"#));
        let is_course = CourseCommand::NAMES.contains(action);
        assert_eq!(command.map(|command| matches!(command, CallCommand::Course(_))), Ok(is_course), "{action}");
        assert!(page.contains(&format!("`{action}`")), "docs/agents.md lacks {action}");
    }
}

#[test]
fn mistakes_name_the_key() {
    for (text, key) in [
        (r#"{"action":"play","prompts":[]}"#, "prompts"),
        (r#"{"action":"gather","max_digits":0}"#, "max_digits"),
        (r#"{"action":"gather","first_digit_timeout_ms":0}"#, "first_digit_timeout_ms"),
        (r#"{"action":"gather","terminator":"x"}"#, "terminator"),
        (r#"{"action":"send_dtmf","digits":"12a"}"#, "digits"),
        (r#"{"action":"send_dtmf","digits":""}"#, "digits"),
        (r#"{"action":"fly"}"#, "unknown variant `fly`, expected one of `accept`, `reject`"),
        (r#"{"action":"invite","role":"join"}"#, "missing field `route`"),
        (r#"{"digits":"1"}"#, "missing field `action`"),
    ] {
        assert!(read(text).unwrap_err().contains(key), "{text}: {:?}", read(text));
    }
}
