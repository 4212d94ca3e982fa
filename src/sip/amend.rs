//! Amendments: what the library leaves out of our requests, and what it does not hand on of those that arrive.
//!
//! A PRACK goes to the target and by the route of the response that it acknowledges (RFC 3262 §4, RFC 3261 §12.1.2); the
//! library knows them from the 200 on only. A CANCEL and a BYE say why (RFC 3326). Challenges are answered by our own
//! arithmetic: the library knows one challenge of a response and has one realm.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rsipstack::sip::headers::untyped::ToTypedHeader;
use rsipstack::sip::{Header, HeadersExt, HostWithPort, Method, Request, Response, SipMessage, StatusCodeKind, Uri};
use rsipstack::transaction::endpoint::MessageInspector;
use rsipstack::transport::SipAddr;

use super::client_auth::{ClientAuth, Credentials, Decision};
use super::nat::BehindNat;
use super::reason::{self, Reason};

/// What is known of each call, by its Call-ID. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Amendments(Arc<Mutex<HashMap<String, Facts>>>);

#[derive(Default)]
struct Facts {
    early: Option<EarlyTarget>,
    /// Why we cancel.
    cancelled: Option<&'static str>,
    /// Why the phone hung up.
    farewell: Option<Reason>,
    /// Who we are to its server.
    auth: Option<ClientAuth>,
    /// The name of its server.
    named: Option<Named>,
    /// Of our last INVITE outside of a dialog: its CANCEL has it too, and the ACK of its refusal (RFC 3261 §17.1.1.3).
    branch: Option<String>,
}

/// A server's name, and the address that stands for it inside of the library: that one sends where a Request-URI says, and
/// knows no other servers of a name than its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub name: HostWithPort,
    pub address: HostWithPort,
}

/// Where requests of an early dialog go.
struct EarlyTarget {
    contact: Uri,
    routes: Vec<Header>,
}

/// A call, for as long as its messages are amended.
pub(super) struct Amended {
    all: Amendments,
    call_id: String,
}

impl Amendments {
    pub fn open(&self, call_id: &str, auth: Option<ClientAuth>, named: Option<Named>) -> Amended {
        self.all().insert(call_id.to_owned(), Facts { auth, named, ..Facts::default() });
        Amended { all: self.clone(), call_id: call_id.to_owned() }
    }

    /// The lock is held for a look-up only, and the map is valid at every step.
    fn all(&self) -> MutexGuard<'_, HashMap<String, Facts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn amend(&self, request: &mut Request) {
        let Some(call_id) = call_id_of(request) else { return };
        let mut all = self.all();
        let Some(facts) = all.get_mut(&call_id) else { return };
        match (request.method(), &facts.early, facts.cancelled) {
            (Method::PRack, Some(early), _) => {
                request.uri = early.contact.clone();
                request.headers.retain(|header| !matches!(header, Header::Route(_)));
                request.headers.extend(early.routes.clone());
            }
            (Method::Cancel, _, Some(name)) => {
                request.headers.unique_push(Header::Reason(reason::ours(name).into()));
            }
            _ => {}
        }
        let branch = branch_of(request);
        if request.method() == &Method::Invite && !has_to_tag(request) {
            facts.branch.clone_from(&branch);
        }
        if let Some(named) = &facts.named {
            named.put(request, branch.is_some() && branch == facts.branch);
        }
        if let Some(auth) = &mut facts.auth {
            show_credentials(auth, request);
        }
    }

    /// Leaves in a challenge what makes the library send its request again, or give up; see [`show_credentials`].
    fn note_challenge(&self, response: &mut Response) {
        let Some(call_id) = call_id_of(response) else { return };
        let mut all = self.all();
        let Some(auth) = all.get_mut(&call_id).and_then(|facts| facts.auth.as_mut()) else { return };
        let is_proxy = match response.status_code.code() {
            401 => false,
            407 => true,
            200..700 => return auth.accepted(),
            _ => return,
        };
        let Ok(cseq) = response.cseq_header().and_then(|cseq| cseq.seq()) else { return };
        let values: Vec<String> = response.headers.iter().filter_map(|header| challenge_of(header, is_proxy)).collect();
        let decision = auth.challenged(cseq, is_proxy, &values);
        response.headers.retain(|header| !matches!(header, Header::WwwAuthenticate(_) | Header::ProxyAuthenticate(_)));
        // A second challenge is answered by the library only if it is stale, and none without this header.
        let again = "Digest realm=\"-\", nonce=\"-\", algorithm=MD5, stale=true";
        match (decision, is_proxy) {
            (Decision::Answer, false) => response.headers.push(Header::WwwAuthenticate(again.into())),
            (Decision::Answer, true) => response.headers.push(Header::ProxyAuthenticate(again.into())),
            (Decision::GiveUp, _) => {}
        }
    }

    fn note_response(&self, response: &Response) {
        let is_reliable = response.status_code.kind() == StatusCodeKind::Provisional
            && response.header_value("Require").is_some_and(|tags| has_tag(&tags, "100rel"));
        let Some(call_id) = call_id_of(response).filter(|_| is_reliable) else { return };
        let contact = response.typed_contact_headers().ok().and_then(|all| all.first().map(|first| first.uri.clone()));
        let Some(contact) = contact else { return };
        if let Some(facts) = self.all().get_mut(&call_id) {
            facts.early = Some(EarlyTarget { contact, routes: routes_of(response) });
        }
    }

    fn note_request(&self, request: &Request) {
        if request.method() != &Method::Bye {
            return;
        }
        let reason = request.header_value("Reason").and_then(|value| Reason::parse(&value));
        let Some((call_id, reason)) = call_id_of(request).zip(reason) else { return };
        if let Some(facts) = self.all().get_mut(&call_id) {
            facts.farewell = Some(reason);
        }
    }
}

impl Amended {
    /// Our CANCEL says why.
    pub fn cancel_because(&self, reason: &'static str) {
        if let Some(facts) = self.all.all().get_mut(&self.call_id) {
            facts.cancelled = Some(reason);
        }
    }

    /// Whether we are somebody to its server.
    pub fn may_answer_challenges(&self) -> bool {
        self.all.all().get(&self.call_id).is_some_and(|facts| facts.auth.is_some())
    }

    /// Why its server's last challenge was not answered.
    pub fn auth_refusal(&self) -> Option<&'static str> {
        self.all.all().get(&self.call_id)?.auth.as_ref()?.refusal()
    }

    /// Why the phone hung up, if it said so.
    pub fn farewell(&self) -> Option<Reason> {
        self.all.all().get(&self.call_id)?.farewell.clone()
    }
}

impl Drop for Amended {
    fn drop(&mut self) {
        self.all.all().remove(&self.call_id);
    }
}

/// All that is changed in messages, behind the one place that the library has for it.
pub(super) struct Inspectors {
    pub amendments: Amendments,
    /// None if no phone may register.
    pub nat: Option<BehindNat>,
}

impl MessageInspector for Inspectors {
    fn before_send(&self, message: SipMessage, to: Option<&SipAddr>) -> SipMessage {
        self.amendments.before_send(message, to)
    }

    fn after_received(&self, message: SipMessage, from: Option<&SipAddr>) -> SipMessage {
        let message = match &self.nat {
            Some(nat) => nat.after_received(message, from),
            None => message,
        };
        self.amendments.after_received(message, from)
    }
}

impl MessageInspector for Amendments {
    fn before_send(&self, mut message: SipMessage, _: Option<&SipAddr>) -> SipMessage {
        match &mut message {
            SipMessage::Request(request) => self.amend(request),
            SipMessage::Response(_) => {}
        }
        message
    }

    fn after_received(&self, mut message: SipMessage, _: Option<&SipAddr>) -> SipMessage {
        match &mut message {
            SipMessage::Request(request) => self.note_request(request),
            SipMessage::Response(response) => {
                self.note_response(response);
                self.note_challenge(response);
            }
        }
        message
    }
}

impl Named {
    /// The name stands in `To`, and in the Request-URI before there is a dialog: in one that is the Contact of the other side.
    fn put(&self, request: &mut Request, begins_dialog: bool) {
        if begins_dialog && request.uri.host_with_port == self.address {
            request.uri.host_with_port = self.name.clone();
        }
        for header in request.headers.iter_mut() {
            let Header::To(to) = header else { continue };
            let Ok(mut typed) = to.typed() else { continue };
            if typed.uri.host_with_port == self.address {
                typed.uri.host_with_port = self.name.clone();
                to.replace(typed.to_string());
            }
        }
    }
}

fn branch_of(request: &Request) -> Option<String> {
    let via = request.header_value("Via")?;
    let first = via.split(',').next()?;
    first.split(';').find_map(|part| part.trim().strip_prefix("branch=")).map(str::to_owned)
}

fn has_to_tag(request: &Request) -> bool {
    request.to_header().and_then(|to| to.tag()).is_ok_and(|tag| tag.is_some())
}

/// Puts what we have to show in place of what the library has made of our word for it.
fn show_credentials(auth: &mut ClientAuth, request: &mut Request) {
    let Ok(cseq) = request.cseq_header().and_then(|cseq| cseq.seq()) else { return };
    let (method, uri) = (request.method.to_string(), request.uri.to_string());
    let shown = auth.credentials(&method, &uri, cseq, &format!("{:032x}", rand::random::<u128>()));
    request.headers.retain(|header| !matches!(header, Header::Authorization(_) | Header::ProxyAuthorization(_)));
    for Credentials { is_proxy, value } in shown {
        request.headers.push(match is_proxy {
            true => Header::ProxyAuthorization(value.into()),
            false => Header::Authorization(value.into()),
        });
    }
}

fn challenge_of(header: &Header, is_proxy: bool) -> Option<String> {
    match (header, is_proxy) {
        (Header::WwwAuthenticate(challenge), false) => Some(challenge.value().to_owned()),
        (Header::ProxyAuthenticate(challenge), true) => Some(challenge.value().to_owned()),
        _ => None,
    }
}

fn call_id_of(message: &impl HeadersExt) -> Option<String> {
    message.call_id_header().ok().map(|call_id| call_id.value().to_owned())
}

fn has_tag(value: &str, tag: &str) -> bool {
    value.split(',').any(|other| other.trim().eq_ignore_ascii_case(tag))
}

/// RFC 3261 §12.1.2: the client's route is the response's, backwards.
fn routes_of(response: &Response) -> Vec<Header> {
    let lines = response.record_route_headers().into_iter().map(|header| header.value().to_owned());
    let mut routes: Vec<String> = lines.flat_map(|line| split_routes(&line)).collect();
    routes.reverse();
    routes.into_iter().map(|route| Header::Route(route.into())).collect()
}

/// Several may stand in a line. A comma in an address is escaped or between `<` and `>`.
fn split_routes(line: &str) -> Vec<String> {
    let mut is_inside = false;
    let parts = line.split(move |sign| {
        is_inside = (is_inside || sign == '<') && sign != '>';
        sign == ',' && !is_inside
    });
    parts.map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> SipMessage {
        text.replace('\n', "\r\n").as_str().try_into().unwrap()
    }

    const COMMON: &str = "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\nFrom: <sip:a@b>;tag=1\nTo: <sip:c@d>;tag=2\n\
        Call-ID: ours@patchcord\nMax-Forwards: 70\n";

    #[test]
    fn a_prack_takes_the_target_and_the_route_of_its_response() {
        let amendments = Amendments::default();
        let amended = amendments.open("ours@patchcord", None, None);
        let response = |require: &str| {
            message(&format!(
                "SIP/2.0 183 Progress\n{COMMON}CSeq: 1 INVITE\n{require}RSeq: 1\nContact: <sip:200@192.0.2.9:5070>\n\
                 Record-Route: <sip:p2.example;lr>, <sip:p1.example;lr>\nContent-Length: 0\n\n"
            ))
        };
        let prack = || message(&format!("PRACK sip:192.0.2.1 SIP/2.0\n{COMMON}CSeq: 2 PRACK\nContent-Length: 0\n\n"));
        amendments.after_received(response(""), None);
        assert_eq!(amendments.before_send(prack(), None).to_string(), prack().to_string());
        amendments.after_received(response("Require: 100rel\n"), None);
        let SipMessage::Request(sent) = amendments.before_send(prack(), None) else { panic!("a request") };
        assert_eq!(sent.uri.to_string(), "sip:200@192.0.2.9:5070");
        let routes: Vec<_> = sent.route_headers().iter().map(|route| route.value().to_owned()).collect();
        assert_eq!(routes, ["<sip:p1.example;lr>", "<sip:p2.example;lr>"]);
        let twice = amendments.before_send(SipMessage::Request(sent.clone()), None);
        assert_eq!(twice.to_string(), sent.to_string());
        drop(amended);
        assert_eq!(amendments.before_send(prack(), None).to_string(), prack().to_string());
    }

    #[test]
    fn a_server_is_named_in_each_request_and_challenges_are_for_that_name() {
        let amendments = Amendments::default();
        let host = |text: &str| HostWithPort::try_from(text).unwrap();
        let named = Named { name: host("pbx.example"), address: host("192.0.2.9:5070") };
        let _amended = amendments.open("ours@patchcord", None, Some(named));
        let sent = |method: &str, branch: &str, tag: &str| {
            let common = COMMON.replace("<sip:c@d>;tag=2", &format!("<sip:200@192.0.2.9:5070>{tag}"));
            let common = common.replace("z9hG4bK1", branch);
            let text =
                format!("{method} sip:200@192.0.2.9:5070 SIP/2.0\n{common}CSeq: 1 {method}\nContent-Length: 0\n\n");
            let SipMessage::Request(sent) = amendments.before_send(message(&text), None) else { panic!("a request") };
            (sent.uri.to_string(), sent.to_header().unwrap().value().to_owned())
        };
        let (name, contact) = ("sip:200@pbx.example".to_owned(), "sip:200@192.0.2.9:5070".to_owned());
        let to = |tag: &str| format!("<sip:200@pbx.example>{tag}");
        assert_eq!(sent("INVITE", "z9hG4bK1", ""), (name.clone(), to("")));
        assert_eq!(sent("CANCEL", "z9hG4bK1", ""), (name.clone(), to("")));
        assert_eq!(sent("ACK", "z9hG4bK1", ";tag=2"), (name, to(";tag=2")), "of a refusal");
        assert_eq!(sent("ACK", "z9hG4bK2", ";tag=2"), (contact.clone(), to(";tag=2")), "of a 200");
        assert_eq!(sent("BYE", "z9hG4bK3", ";tag=2"), (contact, to(";tag=2")));
    }

    #[test]
    fn reasons_of_cancel_and_bye_are_passed() {
        let amendments = Amendments::default();
        let amended = amendments.open("ours@patchcord", None, None);
        let cancel = || message(&format!("CANCEL sip:c@d SIP/2.0\n{COMMON}CSeq: 1 CANCEL\nContent-Length: 0\n\n"));
        assert_eq!(amendments.before_send(cancel(), None).to_string(), cancel().to_string());
        amended.cancel_because("caller_hung_up");
        let sent = amendments.before_send(cancel(), None).to_string();
        assert!(sent.contains("Reason: SIP;cause=200;text=\"caller_hung_up\"\r\n"), "{sent}");
        let bye = format!("BYE sip:c@d SIP/2.0\n{COMMON}CSeq: 1 BYE\nReason: Q.850;cause=16\nContent-Length: 0\n\n");
        amendments.after_received(message(&bye), None);
        assert_eq!(amended.farewell().map(|reason| reason.to_string()), Some("Q.850 16".to_owned()));
    }
}
