//! UserAgent: listens, calls phones, and hands what they send in a dialog to that dialog.

mod requests;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rsipstack::EndpointBuilder;
use rsipstack::dialog::dialog_layer::DialogLayer;
use rsipstack::platform::CancellationToken;
use rsipstack::sip::{Header, Method, Request, Transport as LibraryTransport, Uri};
use rsipstack::transaction::endpoint::EndpointOption;
use rsipstack::transaction::{CallIdFormat, Endpoint};
use rsipstack::transport::TransportLayer;
use rsipstack::transport::udp::UdpConnection;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::info;

use super::amend::{Amendments, Inspectors};
use super::digest::Ha1;
use super::flow::{Flow, Flows};
use super::gate::Gate;
use super::incoming::{self, IncomingCall};
use super::leg::{Invite, RegisteredPhone, SipLeg};
use super::listen::Listen;
use super::names::{LibraryNames, Names};
use super::nat::BehindNat;
use super::outgoing::{self, our_contact};
use super::refer::ReferRule;
use super::registering::{Registrations, SWEEP};
use super::registrar::Binding;
use super::streams::Streams;
use super::trunk::{TrunkCall, TrunkNumber, TrunkOptions, Trunks, keep_alive};
use super::udp::{EdgeSocket, NoSocket};
use super::uri::{Host, SipUri, Transport};
use crate::clock;
use requests::take_requests;

/// The methods that we take.
const METHODS: [Method; 9] = [
    Method::Invite,
    Method::Ack,
    Method::Cancel,
    Method::Bye,
    Method::Options,
    Method::Info,
    Method::Update,
    Method::Refer,
    Method::Register,
];
/// Our SIP user agent. Clones share it.
#[derive(Clone)]
pub struct UserAgent(Arc<Inner>);

struct Inner {
    stack: Arc<Stack>,
    serving: Mutex<Vec<JoinHandle<()>>>,
    cancel: CancellationToken,
    listening: Vec<Listen>,
}

/// What a user agent needs to know.
#[derive(Clone, Debug)]
pub struct UserAgentOptions {
    /// Where it listens.
    pub listen: Vec<Listen>,
    /// Where phones open WebSockets, as they are told; None if they may not.
    pub websocket: Option<SocketAddr>,
    /// Its public addresses, at most one of each family; without one the bound address is given to phones.
    pub advertise: Vec<IpAddr>,
    /// Whom a phone may hand its caller over to; nobody else, or a phone could call at our cost.
    pub refer_to: Vec<ReferRule>,
    /// For connections that we open: the name of the phone is checked by it.
    pub tls: Arc<rustls::ClientConfig>,
    /// For `tls:` listeners.
    pub server_tls: Option<Arc<rustls::ServerConfig>>,
    /// None if no phone may register.
    pub registrar: Option<RegistrarOptions>,
    /// Whom people are called through, and who calls through us.
    pub trunks: Vec<TrunkOptions>,
    /// The DNS server that is asked; the system's if None.
    pub dns: Option<SocketAddr>,
    /// Takes the calls of phones; see [`UserAgent::incoming_calls`].
    pub incoming: mpsc::Sender<IncomingCall>,
}

/// Whose phones may register.
#[derive(Clone, Debug)]
pub struct RegistrarOptions {
    /// Shown to phones, and part of what is hashed with a password.
    pub realm: String,
    /// The hosts that a REGISTER may name.
    pub domains: Vec<Host>,
    /// Names and hashed passwords, at most one for each algorithm.
    pub users: HashMap<String, Vec<Ha1>>,
}

/// What dialogs share: the library, and our own parts around it.
pub(super) struct Stack {
    pub dialogs: Arc<DialogLayer>,
    pub gate: Gate,
    pub amendments: Amendments,
    pub names: Arc<Names>,
    pub streams: Arc<Streams>,
    /// None if no phone may register.
    pub registrations: Option<Arc<Registrations>>,
    pub trunks: Trunks,
    pub flows: Flows,
    pub incoming: mpsc::Sender<IncomingCall>,
    calls: Mutex<JoinSet<()>>,
    /// Dialogs run there, whichever thread begins them.
    runtime: Handle,
    /// The address that phones reach us at over each transport.
    contacts: Vec<(Transport, SocketAddr)>,
    refer_to: Vec<ReferRule>,
}

impl UserAgent {
    /// Starts listening.
    pub async fn start(options: UserAgentOptions) -> anyhow::Result<Self> {
        let cancel = CancellationToken::new();
        let domains = options.registrar.as_ref().map(|registrar| registrar.domains.clone()).unwrap_or_default();
        let allowed = options.trunks.iter().flat_map(|trunk| trunk.allow.clone()).collect();
        let (gate, flows) = (Gate::new(domains, allowed), Flows::default());
        let names = Arc::new(Names::new(options.dns, usable(&options.listen)));
        let layer = TransportLayer::new_with_domain_resolver(cancel.clone(), Box::new(LibraryNames(names.clone())));
        let (mut contacts, mut listening, mut listeners) = (Vec::new(), Vec::new(), Vec::new());
        for listen in &options.listen {
            let bound = listen_on(*listen, &gate, &options, &layer, &cancel).await;
            let Bound { address, contact, listener } =
                bound.with_context(|| format!("sip.listen = \"{listen}\" cannot be opened"))?;
            contacts.push((listen.transport, contact));
            listening.push(Listen { address, ..*listen });
            listeners.extend(listener.map(|listener| (listen.transport, listener)));
        }
        contacts.extend(options.websocket.map(|address| (Transport::Ws, address)));
        if let Some((_, contact)) = contacts.first().filter(|_| layer.get_listen_addrs().is_empty()) {
            let none = Arc::new(NoSocket(*contact));
            let none = UdpConnection::from_socket(none, Some(*contact), Some(cancel.child_token())).await;
            layer.add_transport(none.map_err(|error| library_error(&error))?.into());
        }
        let registrations = options.registrar.map(|RegistrarOptions { realm, users, .. }| {
            Arc::new(Registrations::new(&realm, users, flows.clone(), gate.clone()))
        });
        let amendments = Amendments::default();
        let nat = registrations.clone().map(BehindNat);
        let endpoint = endpoint(layer, Inspectors { amendments: amendments.clone(), nat }, &cancel);
        let streams = Arc::new(Streams::new(gate.clone(), flows.clone(), options.tls.clone(), &cancel));
        for (transport, listener) in listeners {
            let tls = options.server_tls.clone().filter(|_| transport == Transport::Tls);
            streams.listen(listener, tls, endpoint.inner.clone());
        }
        let requests = endpoint.incoming_transactions().context("the SIP library")?;
        let dialogs = Arc::new(DialogLayer::new(endpoint.inner.clone()));
        let mut serving = vec![tokio::spawn(async move { endpoint.serve().await })];
        serving.extend(registrations.clone().map(|registrations| tokio::spawn(sweep(registrations))));
        let refer_to = options.refer_to;
        let (incoming, runtime, calls) = (options.incoming, Handle::current(), Mutex::default());
        let stack = Stack {
            dialogs,
            gate,
            amendments,
            names,
            streams,
            registrations,
            trunks: Trunks::new(options.trunks),
            flows,
            incoming,
            calls,
            runtime,
            contacts,
            refer_to,
        };
        let stack = Arc::new(stack);
        serving.push(tokio::spawn(take_requests(requests, stack.clone())));
        serving.extend(keep_trunks_alive(&stack));
        for listen in &listening {
            info!("SIP phones are called from {listen}");
        }
        Ok(Self(Arc::new(Inner { stack, serving: Mutex::new(serving), cancel, listening })))
    }

    /// The bound addresses, in the order of the options.
    pub fn listening(&self) -> &[Listen] {
        &self.0.listening
    }

    /// Where the calls of phones come from, and where they are taken; one more than its room is answered 503.
    pub fn incoming_calls() -> (mpsc::Sender<IncomingCall>, mpsc::Receiver<IncomingCall>) {
        mpsc::channel(incoming::INCOMING)
    }

    /// Whether phones may open WebSockets.
    pub(super) fn takes_websockets(&self) -> bool {
        self.0.stack.contacts.iter().any(|(transport, _)| *transport == Transport::Ws)
    }

    pub(super) fn stack(&self) -> &Arc<Stack> {
        &self.0.stack
    }

    /// Calls a phone. What comes of it are the events of the leg.
    pub fn call(&self, invite: Invite) -> SipLeg {
        let (leg, events, commands) = SipLeg::new();
        self.0.stack.spawn_call(outgoing::run(self.0.stack.clone(), invite, events, commands));
        leg
    }

    /// The phones of a user that are registered now, the preferred ones first.
    pub fn phones(&self, user: &str) -> Vec<RegisteredPhone> {
        let bindings = self.0.stack.registrations.as_ref().map(|registrations| registrations.contacts(user));
        let phone = |Binding { uri, q, flow, .. }| RegisteredPhone { uri, flow, q };
        bindings.into_iter().flatten().map(phone).collect()
    }

    /// A number behind a trunk; None if there is no such trunk.
    pub fn behind(&self, number: &TrunkNumber) -> Option<TrunkCall> {
        let trunk = self.0.stack.trunks.get(&number.trunk)?.clone();
        Some(TrunkCall { trunk, number: number.number.clone() })
    }

    /// The users with a registered phone, now and from now on; None if no phone may register.
    pub fn registered_users(&self) -> Option<watch::Receiver<BTreeSet<String>>> {
        self.0.stack.registrations.as_ref().map(|registrations| registrations.present())
    }

    /// Waits for the last BYE to be answered, for so long at most, and closes all sockets.
    pub async fn stop(&self, within: Duration) {
        let mut calls = std::mem::take(&mut *self.0.stack.calls.lock().unwrap_or_else(PoisonError::into_inner));
        let _ = timeout(within, async { while calls.join_next().await.is_some() {} }).await;
        calls.shutdown().await;
        self.0.cancel.cancel();
        self.0.stack.streams.stop().await;
        let serving = std::mem::take(&mut *self.0.serving.lock().unwrap_or_else(PoisonError::into_inner));
        for task in serving {
            task.abort();
            // It ends as cancelled.
            let _ = task.await;
        }
    }
}

impl Stack {
    /// Runs a call to its end.
    pub fn spawn_call(&self, call: impl Future<Output = ()> + Send + 'static) {
        // The set is held for a moment only, and is valid at every step.
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        while calls.try_join_next().is_some() {}
        calls.spawn_on(call, &self.runtime);
    }

    /// Whether a request shows a password of ours, and not a trunk's.
    pub fn is_of_user(&self, request: &Request) -> bool {
        self.registrations.as_ref().is_some_and(|registrations| registrations.is_claimed(request))
    }

    /// Whether a phone may hand its caller over to this one.
    pub fn may_refer_to(&self, to: &SipUri) -> bool {
        self.refer_to.iter().any(|rule| rule.admits(to))
    }

    /// Our Contact for a phone at the other end of this flow; None if nothing can be sent over it.
    pub fn contact_over(&self, flow: &Flow) -> Option<Uri> {
        let transport = match flow.transport() {
            LibraryTransport::Udp => Transport::Udp,
            LibraryTransport::Ws | LibraryTransport::Wss => Transport::Ws,
            LibraryTransport::Tls | LibraryTransport::TlsSctp => Transport::Tls,
            LibraryTransport::Tcp | LibraryTransport::Sctp => Transport::Tcp,
        };
        Some(our_contact(false, transport, self.contact(transport, flow.ip().is_ipv6())?))
    }

    /// The address in our Contact for this transport; None if nothing can be sent over it.
    pub fn contact(&self, transport: Transport, is_ipv6: bool) -> Option<SocketAddr> {
        let of = |wanted: Transport| {
            let mut all = self.contacts.iter().filter(|(listens, _)| *listens == wanted);
            let same = all.clone().find(|(_, address)| address.is_ipv6() == is_ipv6);
            same.or_else(|| all.next()).map(|(_, address)| *address)
        };
        match transport {
            Transport::Udp => of(Transport::Udp),
            // A phone answers on the connection that carried our request.
            Transport::Tcp | Transport::Tls | Transport::Ws => {
                of(transport).or_else(|| self.contacts.first().map(|(_, address)| *address))
            }
        }
    }
}

/// A connection needs no listener: phones answer on it.
fn usable(listen: &[Listen]) -> Vec<Transport> {
    let has_udp = listen.iter().any(|listen| listen.transport == Transport::Udp);
    [Transport::Udp, Transport::Tcp, Transport::Tls]
        .into_iter()
        .filter(|each| has_udp || *each != Transport::Udp)
        .collect()
}

fn keep_trunks_alive(stack: &Arc<Stack>) -> Vec<JoinHandle<()>> {
    let trunks = stack.trunks.all().filter_map(|trunk| Some((trunk, trunk.options.keepalive?)));
    let targets =
        trunks.flat_map(|(trunk, every)| (0..trunk.options.targets.len()).map(move |index| (trunk, index, every)));
    targets.map(|(trunk, index, every)| tokio::spawn(keep_alive(stack.clone(), trunk.clone(), index, every))).collect()
}

/// A listening socket.
struct Bound {
    address: SocketAddr,
    /// What phones are told.
    contact: SocketAddr,
    /// None of UDP, which the library reads.
    listener: Option<TcpListener>,
}

async fn listen_on(
    listen: Listen,
    gate: &Gate,
    options: &UserAgentOptions,
    layer: &TransportLayer,
    cancel: &CancellationToken,
) -> anyhow::Result<Bound> {
    let is_same_family = |ip: &&IpAddr| ip.is_ipv6() == listen.address.is_ipv6();
    let advertised = |bound: SocketAddr| {
        let ip = options.advertise.iter().find(is_same_family).filter(|_| bound.ip().is_unspecified());
        SocketAddr::new(ip.copied().unwrap_or(bound.ip()), bound.port())
    };
    match listen.transport {
        Transport::Udp => {
            let socket = EdgeSocket::bind(listen.address, gate.clone())?;
            let address = socket.local_addr()?;
            let contact = advertised(address);
            let token = Some(cancel.child_token());
            let connection = UdpConnection::from_socket(Arc::new(socket), Some(contact), token).await;
            layer.add_transport(connection.map_err(|error| library_error(&error))?.into());
            Ok(Bound { address, contact, listener: None })
        }
        // A WebSocket is opened at the HTTP listener.
        Transport::Tcp | Transport::Tls | Transport::Ws => {
            let listener = TcpListener::bind(listen.address).await?;
            let address = listener.local_addr()?;
            Ok(Bound { address, contact: advertised(address), listener: Some(listener) })
        }
    }
}

fn endpoint(layer: TransportLayer, inspectors: Inspectors, cancel: &CancellationToken) -> Endpoint {
    let option = EndpointOption { callid_suffix: None, callid_format: CallIdFormat::Uuid, ..EndpointOption::default() };
    EndpointBuilder::new()
        .with_user_agent(concat!("Patchcord/", env!("CARGO_PKG_VERSION")))
        .with_allows(METHODS.to_vec())
        .with_transport_layer(layer)
        .with_inspector(Box::new(inspectors))
        .with_cancel_token(cancel.clone())
        .with_option(option)
        .build()
}

/// What our requests and answers say that we can.
pub(super) fn abilities() -> [Header; 2] {
    let methods: Vec<String> = METHODS.iter().map(ToString::to_string).collect();
    [Header::Allow(methods.join(", ").into()), Header::Supported("timer, replaces, 100rel".into())]
}

/// Keeps the registrar free of what has expired.
async fn sweep(registrations: Arc<Registrations>) {
    let mut clock = tokio::time::interval(SWEEP);
    loop {
        clock.tick().await;
        registrations.sweep(clock::now());
    }
}

/// The library's errors are of no use to anybody but its authors.
pub(super) fn library_error(error: &rsipstack::Error) -> anyhow::Error {
    anyhow::anyhow!("{error}")
}
