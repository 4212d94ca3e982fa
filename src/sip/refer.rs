//! REFER (RFC 3515): where a phone hands its caller over to, and what it is told of it.

use std::time::Duration;

use rsipstack::dialog::dialog::TransactionHandle;
use rsipstack::dialog::invite_dialog::InviteDialog;
use rsipstack::sip::{Header, StatusCode};
use tokio::time::timeout;

use super::uri::SipUri;

/// For the new phone to answer.
pub(super) const DECIDED_WITHIN: Duration = Duration::from_secs(90);
/// For the phone to take the last NOTIFY before our BYE.
pub(super) const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// For the phone to take a NOTIFY.
const NOTIFIED_WITHIN: Duration = Duration::from_secs(10);

/// Whom callers may be handed over to: one address, or everybody at a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferRule {
    to: SipUri,
    /// `sip:*@pbx.example`
    is_for_all_users: bool,
}

impl ReferRule {
    /// Reads `sip:201@pbx.example` or `sip:*@pbx.example`. The error says what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let to = SipUri::parse(text)?;
        let is_for_all_users = to.user.as_deref() == Some("*");
        Ok(Self { to, is_for_all_users })
    }

    /// Whether it admits this address, over whichever transport and port.
    pub fn admits(&self, to: &SipUri) -> bool {
        match self.is_for_all_users {
            true => self.to.host == to.host && to.user.is_some(),
            false => self.to.is_same_person(to),
        }
    }
}

/// The target of a `Refer-To` header, with the `Replaces` that it may have and the REFER's `Referred-By`. The error is the
/// code of the refusal.
pub(super) fn target(value: &str, referred_by: Option<&str>) -> Result<SipUri, u16> {
    let text = match value.split_once('<') {
        Some((_, rest)) => rest.split_once('>').ok_or(400_u16)?.0,
        None => value.split(';').next().unwrap_or_default().trim(),
    };
    let mut to = SipUri::parse_referred(text).map_err(|_| 400_u16)?;
    if let Some(referred_by) = referred_by {
        // Many phones leave it out, so one that cannot be sent is left out too.
        let _ = to.set_header("Referred-By", referred_by);
    }
    Ok(to)
}

/// Answers 202, and returns when it has left: a NOTIFY before it confuses phones.
pub(super) async fn accept(handle: &TransactionHandle) {
    // The library sends the first, and then takes no more of them; nothing else says that it has done so.
    while handle.reply(StatusCode::Accepted).await.is_ok() {}
}

/// Tells the phone how far it is. A phone that does not take it misses it.
pub(super) async fn notify(dialog: &InviteDialog, code: u16) {
    let state = if code < 200 { "active;expires=90" } else { "terminated;reason=noresource" };
    let line = format!("SIP/2.0 {}", StatusCode::from(code));
    let headers = vec![
        Header::Event("refer".into()),
        Header::SubscriptionState(state.into()),
        Header::ContentType("message/sipfrag;version=2.0".into()),
    ];
    let _ = timeout(NOTIFIED_WITHIN, dialog.notify(Some(headers), Some(format!("{line}\r\n").into_bytes()))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_in_all_ways_that_phones_write_it() {
        let read = |value: &str| target(value, None).map(|uri| uri.to_string());
        assert_eq!(read("<sip:201@pbx.example>"), Ok("sip:201@pbx.example".to_owned()));
        assert_eq!(read("\"Bob\" <sip:201@pbx.example;user=phone>;x=y"), Ok("sip:201@pbx.example".to_owned()));
        assert_eq!(read("sip:201@pbx.example;x=y"), Ok("sip:201@pbx.example".to_owned()));
        assert_eq!(read("<sips:201@pbx.example;srtp=off>"), Ok("sips:201@pbx.example".to_owned()));
        let replaces = "sip:201@pbx.example?Replaces=a%3Bto-tag%3Db%3Bfrom-tag%3Dc";
        assert_eq!(read(&format!("<{replaces}>")), Ok(replaces.to_owned()));
        assert_eq!(read("<sip:201@pbx.example?Replaces=a%0D%0Ab>"), Err(400));
        let by = |by: &str| target("<sip:201@pbx.example>", Some(by)).unwrap().headers;
        assert_eq!(by("<sip:200@pbx.example>"), [("Referred-By", "<sip:200@pbx.example>".to_owned())]);
        assert_eq!(by("<sip:200@pbx.example>\u{7}"), []);
        assert_eq!(read("<tel:201>"), Err(400));
        assert_eq!(read("<sip:201@pbx.example"), Err(400));
    }

    #[test]
    fn a_rule_admits_one_address_or_all_of_a_host() {
        let admits = |rule: &str, to: &str| ReferRule::parse(rule).unwrap().admits(&SipUri::parse(to).unwrap());
        assert!(admits("sip:201@pbx.example", "sips:201@PBX.example:5090"));
        assert!(!admits("sip:201@pbx.example", "sip:202@pbx.example"));
        assert!(admits("sip:*@pbx.example", "sip:202@pbx.example;transport=tcp"));
        assert!(!admits("sip:*@pbx.example", "sip:202@pbx.example.org"));
        assert!(!admits("sip:*@pbx.example", "sip:pbx.example"));
    }
}
