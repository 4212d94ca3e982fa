//! Gate: whose messages are read at all.
//!
//! A message must belong to a dialog that we began; its Call-ID is random. Or it is a REGISTER for a domain of ours, or an
//! INVITE from where a registered phone is: its sender must authenticate. Or it is an INVITE or OPTIONS from an address of a
//! trunk. All others are dropped without an answer, and an address that sends ten of them is not read for a while: scanners go
//! on as long as they get answers.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::edge::Head;
use super::uri::{Host, SipUri};
use crate::address::AddressRange;

/// Failures until a ban.
const FAILURES: u32 = 10;
/// Failures are forgotten after it, and a ban ends.
const BANNED_FOR: Duration = Duration::from_secs(60 * 60);
/// Addresses remembered at once; beyond it the oldest ones are forgotten.
const ADDRESSES: usize = 10_000;
/// Messages of a dialog that is over may still come, and are answered: 64*T1 (RFC 3261 §17.1.1.2), and a bit.
const LINGERS: Duration = Duration::from_secs(40);

/// What one dialog may send in a second; a phone with retransmissions sends a few. The library's queues are unbounded, so
/// this bounds them.
const MESSAGES_PER_SECOND: u32 = 50;
/// Requests of strangers in a second, of one address and of all: an office behind one address may start at once, and a phone
/// repeats what is dropped.
const REQUESTS_PER_ADDRESS: u32 = 100;
const REQUESTS_PER_SECOND: u32 = 500;

/// The gate of one user agent. Clones share it.
#[derive(Clone, Default)]
pub struct Gate(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Whose users may register; empty if there are none.
    domains: Vec<Host>,
    /// Where trunks are: they may call, and are never banned.
    trunks: Vec<AddressRange>,
    /// Where registered phones are: they may call.
    phones: HashSet<IpAddr>,
    requests: Requests,
    /// By Call-ID.
    dialogs: HashMap<String, Dialog>,
    suspects: HashMap<IpAddr, Suspect>,
}

/// The requests of strangers in the present second.
#[derive(Default)]
struct Requests {
    since: Option<Instant>,
    total: u32,
    /// At most as many as `total`.
    by_address: HashMap<IpAddr, u32>,
}

struct Dialog {
    /// It is a stranger's, who must still prove who he is.
    is_strange: bool,
    ended: Option<Instant>,
    /// When the present second began, and the messages in it.
    second: Instant,
    messages: u32,
}

struct Suspect {
    failures: u32,
    since: Instant,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is read.
    Pass,
    /// It is read, but its sender must prove who he is.
    Ask,
    /// It is dropped.
    Drop(&'static str),
}

/// A dialog of ours, for as long as its messages are read.
pub struct OpenDialog {
    gate: Gate,
    call_id: String,
    now: fn() -> Instant,
}

impl Gate {
    /// Users may register for these domains, and trunks are at these addresses.
    pub fn new(domains: Vec<Host>, trunks: Vec<AddressRange>) -> Self {
        Self(Arc::new(Mutex::new(State { domains, trunks, ..State::default() })))
    }

    /// Registered phones are at these addresses, and nowhere else.
    pub fn set_phones(&self, phones: HashSet<IpAddr>) {
        self.state().phones = phones;
    }

    /// Messages with this Call-ID are read until the result is dropped, and some seconds longer.
    pub fn open(&self, call_id: &str, now: fn() -> Instant) -> OpenDialog {
        let mut state = self.state();
        let at = now();
        state.dialogs.retain(|_, dialog| dialog.is_read(at));
        state.dialogs.insert(call_id.to_owned(), Dialog::new(None, at));
        OpenDialog { gate: self.clone(), call_id: call_id.to_owned(), now }
    }

    /// Whether anything of this address is read.
    pub fn is_banned(&self, from: IpAddr, now: Instant) -> bool {
        self.state().is_banned(from, now)
    }

    /// Decides about a well-formed message.
    pub fn judge(&self, from: IpAddr, head: &Head<'_>, now: Instant) -> Verdict {
        let mut state = self.state();
        // Before the ban: a Call-ID is a secret of the two sides, and datagrams may bear a forged address.
        if let Some(dialog) = state.dialogs.get_mut(head.call_id).filter(|dialog| dialog.is_read(now)) {
            return dialog.judge(now);
        }
        if state.is_banned(from, now) {
            return Verdict::Drop("banned");
        }
        let is_trunk = state.is_trunk(from);
        let is_call = head.method == Some("INVITE") && (is_trunk || state.phones.contains(&from.to_canonical()));
        let is_question = head.method == Some("OPTIONS") && is_trunk;
        if is_call || is_question || head.method == Some("REGISTER") && state.is_for_us(head.target) {
            if !state.requests.take(from, now) {
                return Verdict::Drop("flood");
            }
            if is_call {
                state.begin_strange(head.call_id, now);
            }
            return Verdict::Ask;
        }
        // A late response of a dialog long over says nothing against its sender.
        if head.method.is_some() {
            state.failed(from, now);
        }
        Verdict::Drop("unknown")
    }

    /// The address sent what is no SIP, or failed to prove who it is.
    pub fn failed(&self, from: IpAddr, now: Instant) {
        self.state().failed(from, now);
    }

    /// The lock is held for a look-up only, and the state is valid at every step.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dialog {
    fn new(ended: Option<Instant>, now: Instant) -> Self {
        Self { is_strange: false, ended, second: now, messages: 0 }
    }

    fn is_read(&self, now: Instant) -> bool {
        self.ended.is_none_or(|ended| now < ended + LINGERS)
    }

    fn judge(&mut self, now: Instant) -> Verdict {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.messages) = (now, 0);
        }
        self.messages = self.messages.saturating_add(1);
        match (self.messages <= MESSAGES_PER_SECOND, self.is_strange) {
            (true, false) => Verdict::Pass,
            (true, true) => Verdict::Ask,
            (false, _) => Verdict::Drop("flood"),
        }
    }
}

impl Requests {
    fn take(&mut self, from: IpAddr, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            *self = Self { since: Some(now), ..Self::default() };
        }
        if self.total >= REQUESTS_PER_SECOND {
            return false;
        }
        let of_address = self.by_address.entry(from).or_default();
        let has_room = *of_address < REQUESTS_PER_ADDRESS;
        if has_room {
            *of_address += 1;
            self.total += 1;
        }
        has_room
    }
}

impl State {
    /// The rest of what begins with an INVITE: its ACK, CANCEL, and the same with a proof. [`Gate::open`] makes a dialog of
    /// it.
    fn begin_strange(&mut self, call_id: &str, now: Instant) {
        self.dialogs.retain(|_, dialog| dialog.is_read(now));
        // `requests` bounds how many there are.
        self.dialogs.insert(call_id.to_owned(), Dialog { is_strange: true, ..Dialog::new(Some(now), now) });
    }

    /// Whether a Request-URI names a domain of ours.
    fn is_for_us(&self, target: &str) -> bool {
        !self.domains.is_empty() && SipUri::host_of(target).is_some_and(|host| self.domains.contains(&host))
    }

    fn is_trunk(&self, address: IpAddr) -> bool {
        self.trunks.iter().any(|range| range.contains(address))
    }

    fn is_banned(&self, from: IpAddr, now: Instant) -> bool {
        let is_current = |suspect: &Suspect| now.saturating_duration_since(suspect.since) < BANNED_FOR;
        self.suspects.get(&from).is_some_and(|suspect| suspect.failures >= FAILURES && is_current(suspect))
    }

    fn failed(&mut self, from: IpAddr, now: Instant) {
        // After a restart a trunk goes on with calls that we do not know any more.
        if self.is_trunk(from) {
            return;
        }
        if self.suspects.len() >= ADDRESSES && !self.suspects.contains_key(&from) {
            let oldest = self.suspects.iter().min_by_key(|(_, suspect)| suspect.since).map(|(address, _)| *address);
            oldest.map(|oldest| self.suspects.remove(&oldest));
        }
        let suspect = self.suspects.entry(from).or_insert(Suspect { failures: 0, since: now });
        if now.saturating_duration_since(suspect.since) >= BANNED_FOR {
            *suspect = Suspect { failures: 0, since: now };
        }
        suspect.failures = suspect.failures.saturating_add(1);
        if suspect.failures == FAILURES {
            suspect.since = now;
            metrics::counter!("patchcord_sip_bans_total").increment(1);
        }
    }
}

impl Drop for OpenDialog {
    fn drop(&mut self) {
        let now = (self.now)();
        if let Some(dialog) = self.gate.state().dialogs.get_mut(&self.call_id) {
            dialog.ended = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(call_id: &str) -> Head<'_> {
        Head { method: Some("BYE"), target: "sip:a@b", call_id, length: 100, content_length: Some(0) }
    }

    #[test]
    fn only_our_dialogs_are_read_and_ten_other_messages_are_a_ban() {
        let (gate, now) = (Gate::default(), Instant::now());
        let (friend, scanner): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let dialog = gate.open("ours", Instant::now);
        for _ in 0..FAILURES {
            assert_eq!(gate.judge(scanner, &head("theirs"), now), Verdict::Drop("unknown"));
        }
        assert_eq!(gate.judge(scanner, &head("theirs"), now), Verdict::Drop("banned"));
        assert!(gate.is_banned(scanner, now) && !gate.is_banned(friend, now));
        assert!(!gate.is_banned(scanner, now + BANNED_FOR));
        assert_eq!(gate.judge(scanner, &head("ours"), now), Verdict::Pass);
        assert_eq!(gate.judge(friend, &head("ours"), now), Verdict::Pass);
        drop(dialog);
        let now = Instant::now();
        assert_eq!(gate.judge(friend, &head("ours"), now), Verdict::Pass);
        assert_eq!(gate.judge(friend, &head("ours"), now + LINGERS + LINGERS), Verdict::Drop("unknown"));
    }

    #[test]
    fn a_dialog_that_floods_is_read_in_part_and_harms_no_other() {
        let (gate, from) = (Gate::default(), IpAddr::from([192, 0, 2, 1]));
        let _dialogs = ["storm", "calm"].map(|call_id| gate.open(call_id, Instant::now));
        let now = Instant::now() + Duration::from_secs(1);
        for _ in 0..MESSAGES_PER_SECOND {
            assert_eq!(gate.judge(from, &head("storm"), now), Verdict::Pass);
        }
        assert_eq!(gate.judge(from, &head("storm"), now), Verdict::Drop("flood"));
        assert_eq!(gate.judge(from, &head("calm"), now), Verdict::Pass);
        assert_eq!(gate.judge(from, &head("storm"), now + Duration::from_secs(1)), Verdict::Pass);
        assert!(!gate.is_banned(from, now));
    }

    #[test]
    fn a_register_for_our_domain_is_read_up_to_a_rate_and_no_other() {
        let host = |text: &str| SipUri::host_of(text).unwrap();
        let gate = Gate::new(vec![host("sip:pbx.example"), host("sip:192.0.2.9")], Vec::new());
        let (now, from) = (Instant::now(), IpAddr::from([192, 0, 2, 1]));
        let register = |target| Head { method: Some("REGISTER"), target, ..head("theirs") };
        for target in ["sip:pbx.example", "sip:PBX.example:5070;transport=tcp", "sips:192.0.2.9", "sip:x@192.0.2.9"] {
            assert_eq!(gate.judge(from, &register(target), now), Verdict::Ask, "{target}");
        }
        for target in ["sip:192.0.2.8", "sip:pbx.example.org", "tel:1", ""] {
            assert_eq!(gate.judge(from, &register(target), now), Verdict::Drop("unknown"), "{target}");
        }
        assert_eq!(Gate::default().judge(from, &register("sip:pbx.example"), now), Verdict::Drop("unknown"));
        for _ in 4..REQUESTS_PER_ADDRESS {
            assert_eq!(gate.judge(from, &register("sip:192.0.2.9"), now), Verdict::Ask);
        }
        assert_eq!(gate.judge(from, &register("sip:192.0.2.9"), now), Verdict::Drop("flood"));
        let later = now + Duration::from_secs(1);
        assert_eq!(gate.judge(from, &register("sip:192.0.2.9"), later), Verdict::Ask);
        let read =
            |number: u32| gate.judge(IpAddr::from((number + 1).to_be_bytes()), &register("sip:192.0.2.9"), later);
        assert_eq!((0..1000).filter(|number| read(*number) == Verdict::Ask).count(), REQUESTS_PER_SECOND as usize - 1);
        for _ in 0..FAILURES {
            gate.failed(from, later);
        }
        assert_eq!(gate.judge(from, &register("sip:192.0.2.9"), later), Verdict::Drop("banned"));
    }

    #[test]
    fn trunks_may_call_and_ask_and_are_never_banned() {
        let gate = Gate::new(Vec::new(), vec!["203.0.113.0/24".parse().unwrap()]);
        let (now, trunk, stranger) = (Instant::now(), IpAddr::from([203, 0, 113, 7]), IpAddr::from([203, 0, 114, 7]));
        let message = |method, call_id| Head { method: Some(method), ..head(call_id) };
        assert_eq!(gate.judge(trunk, &message("OPTIONS", "1"), now), Verdict::Ask);
        assert_eq!(gate.judge(trunk, &message("INVITE", "2"), now), Verdict::Ask);
        assert_eq!(gate.judge(trunk, &message("ACK", "2"), now), Verdict::Ask, "of the INVITE");
        for method in ["OPTIONS", "INVITE"] {
            assert_eq!(gate.judge(stranger, &message(method, "3"), now), Verdict::Drop("unknown"));
        }
        for _ in 0..2 * FAILURES {
            assert_eq!(gate.judge(trunk, &message("BYE", "4"), now), Verdict::Drop("unknown"));
        }
        assert!(!gate.is_banned(trunk, now));
    }

    #[test]
    fn late_responses_are_no_failures_and_the_memory_is_bounded() {
        let (gate, now) = (Gate::default(), Instant::now());
        let address: IpAddr = [192, 0, 2, 1].into();
        for _ in 0..100 {
            gate.judge(address, &Head { method: None, ..head("over") }, now);
        }
        assert!(!gate.is_banned(address, now));
        for number in 0..ADDRESSES as u32 + 5 {
            gate.failed(std::net::Ipv4Addr::from(number).into(), now + Duration::from_millis(number.into()));
        }
        assert_eq!(gate.state().suspects.len(), ADDRESSES);
    }
}
