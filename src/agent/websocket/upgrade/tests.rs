//! Answers of servers to our upgrade request, good and bad.

use proptest::prelude::*;

use super::*;

const LIST: &str = include_str!("../../../../tests/fixtures/agent-upgrade/list.txt");
const TWO_LINES: &str = include_str!("../../../../tests/fixtures/agent-upgrade/two-lines.txt");
const PLAIN: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n";

fn upgrade() -> Upgrade {
    let url = "ws://127.0.0.1:9000/call?token=secret".parse().unwrap();
    let headers = vec![("Authorization".to_owned(), "Bearer secret".into())];
    let agent = WebSocketOptions { headers, ..WebSocketOptions::at(url) };
    Upgrade::new(&agent, &["patchcord.v1"]).unwrap()
}

/// What an answer means in which ACCEPT stands for the right key.
fn judged(answer: &str) -> Result<Option<usize>, Refused> {
    let upgrade = upgrade();
    let answer = answer.replace("ACCEPT", &upgrade.accept_key);
    let judged = upgrade.judge(answer.as_bytes());
    if let Ok(Some(length)) = judged {
        assert_eq!(length, answer.len(), "all of it is the head");
    }
    judged
}

#[track_caller]
fn opens(answer: &str) {
    assert!(matches!(judged(answer), Ok(Some(_))), "{answer:?}: {:?}", judged(answer));
}

#[test]
fn the_request_offers_our_subprotocol_and_carries_the_headers() {
    let upgrade = upgrade();
    let request = std::str::from_utf8(upgrade.request()).unwrap();
    assert!(request.starts_with("GET /call?token=secret HTTP/1.1\r\nHost: 127.0.0.1:9000\r\n"), "{request}");
    assert!(request.contains("Sec-WebSocket-Protocol: patchcord.v1\r\n"), "{request}");
    assert!(request.contains("authorization: Bearer secret\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n"), "{request}");
}

#[test]
fn a_token_is_found_in_a_list_and_in_any_line() {
    for answer in [PLAIN, LIST, TWO_LINES] {
        opens(answer);
    }
    opens(&PLAIN.replace("Connection: Upgrade", "connection:upgrade ,\tkeep-alive"));
    opens(&PLAIN.replace("Connection: Upgrade", "Connection : keep-alive,\r\n Upgrade"));
    opens(&PLAIN.replace("Upgrade: websocket", "Upgrade: h2c, WebSocket"));
    opens(&PLAIN.replace("ACCEPT", "ACCEPT \r\nSec-WebSocket-Protocol: patchcord.v1\r\nSec-WebSocket-Extensions:"));
    opens(&PLAIN.replace("\r\n", "\n"));
}

#[test]
fn what_comes_before_and_behind_the_answer_is_told_apart() {
    opens(&format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{PLAIN}"));
    let upgrade = upgrade();
    let head = PLAIN.replace("ACCEPT", &upgrade.accept_key);
    let with_sound = [head.as_bytes(), &[0x82, 0x02, 1, 0]].concat();
    assert_eq!(upgrade.judge(&with_sound), Ok(Some(head.len())));
    for cut in 0..head.len() {
        assert_eq!(upgrade.judge(&head.as_bytes()[..cut]), Ok(None), "{cut} bytes");
    }
}

#[test]
fn each_refusal_says_why() {
    let status =
        |text: &str| judged(&format!("HTTP/1.1 {text}\r\nContent-Length: 4\r\n\r\nno")).unwrap_err().to_string();
    assert_eq!(status("401 Who are you"), "HTTP 401 Unauthorized");
    assert_eq!(status("418 I'm a teapot"), "HTTP 418 I'm a teapot");
    assert_eq!(status("200 OK"), "HTTP 200 OK instead of a WebSocket");
    assert_eq!(status("302 Found"), "HTTP 302 Found, and redirects are not followed");
    assert_eq!(status("599 secret"), "HTTP 599");
    assert_eq!(judged("HTTP/1.0 404 Not Found\r\n\r\n"), Err(Refused::Status(404)));

    assert_eq!(judged("SSH-2.0-OpenSSH_9.9\r\n"), Err(Refused::NotHttp));
    assert_eq!(upgrade().judge(&[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x46]), Err(Refused::Tls));
    assert_eq!(judged(&PLAIN.replace("Connection: Upgrade", "Connection: close")), Err(Refused::NoConnectionUpgrade));
    assert_eq!(
        judged(&PLAIN.replace("Connection: Upgrade", "Connection: not-upgrade, upgraded")),
        Err(Refused::NoConnectionUpgrade)
    );
    assert_eq!(judged(&PLAIN.replace("Upgrade: websocket", "Upgrade: h2c")), Err(Refused::NoUpgrade));
    assert_eq!(judged(&PLAIN.replace("ACCEPT", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")), Err(Refused::WrongAccept));
    let with = |line: &str| judged(&PLAIN.replace("\r\n\r\n", &format!("\r\n{line}\r\n\r\n")));
    assert_eq!(with("Sec-WebSocket-Protocol: chat"), Err(Refused::OtherSubprotocol));
    assert_eq!(with("Sec-WebSocket-Extensions: permessage-deflate"), Err(Refused::Extension));
}

#[test]
fn a_head_without_an_end_is_refused() {
    let endless = format!("HTTP/1.1 101 Switching Protocols\r\nCookie: {}", "a".repeat(HEAD_LIMIT_BYTES));
    assert_eq!(judged(&endless), Err(Refused::TooLarge));
    let many = format!("HTTP/1.1 101 Switching Protocols\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_AT_MOST + 1));
    assert_eq!(judged(&many), Err(Refused::TooLarge));
}

proptest! {
    #[test]
    fn no_answer_is_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 0..200_usize) {
        let upgrade = upgrade();
        let _ = upgrade.judge(&bytes);
        // Nearly right ones go further.
        let mut near = PLAIN.as_bytes()[..cut.min(PLAIN.len())].to_vec();
        near.extend(bytes);
        let _ = upgrade.judge(&near);
    }
}
