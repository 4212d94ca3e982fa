//! Starts the SIP user agent, and says what its users and trunks may do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::mpsc;

use crate::agent;
use crate::calls::from_phones::{PhoneRule, PhoneRules};
use crate::config::Config;
use crate::config::sip::{Sip, SipUser};
use crate::config::trunks::Trunk;
use crate::queue::QueueName;
use crate::queues::{self, QueuesHandle};
use crate::sip::{self, Host, IncomingCall, RegistrarOptions, SipUri, UserAgent, UserAgentOptions};

/// None without `[sip]`: then nothing listens.
pub(super) async fn start_user_agent(
    config: &Config,
    addresses: &[(IpAddr, IpAddr)],
    incoming: mpsc::Sender<IncomingCall>,
) -> anyhow::Result<Option<UserAgent>> {
    let Some(settings) = &config.sip else { return Ok(None) };
    let advertise = match settings.advertise.is_empty() {
        true => addresses.iter().map(|(_, advertised)| *advertised).collect(),
        false => settings.advertise.clone(),
    };
    let tls = match &settings.tls.ca {
        None => agent::tls::usual()?,
        Some(ca) => sip::tls::client(ca).with_context(|| format!("sip.tls.ca = {ca:?}"))?,
    };
    let server_tls = settings.tls.identity.as_ref().map(|(cert, key)| {
        sip::tls::server(cert, key).with_context(|| format!("sip.tls.cert = {cert:?}, key = {key:?}"))
    });
    let options = UserAgentOptions {
        listen: settings.listen.clone(),
        websocket: settings.websocket.then(|| websocket_address(config, &advertise)),
        advertise,
        refer_to: settings.refer_to.clone(),
        tls: Arc::new(tls),
        server_tls: server_tls.transpose()?.map(Arc::new),
        registrar: registrar_options(config, settings, addresses),
        dns: settings.dns,
        trunks: settings.trunks.iter().map(|trunk| trunk.options.clone()).collect(),
        incoming,
    };
    UserAgent::start(options).await.map(Some)
}

/// Ends at once if no queue has a SIP user.
pub(super) fn attend_queues(
    config: &Config,
    queues: QueuesHandle,
    user_agent: Option<&UserAgent>,
) -> impl Future<Output = ()> + Send + use<> {
    let mut users: BTreeMap<String, BTreeSet<QueueName>> = BTreeMap::new();
    for (name, queue) in &config.queues {
        for user in &queue.sip_users {
            users.entry(user.clone()).or_default().insert(name.clone());
        }
    }
    let registered = user_agent.and_then(UserAgent::registered_users);
    async move {
        if let Some(registered) = registered {
            queues::phones::attend(queues, users, registered).await;
        }
    }
}

/// Nobody may call by default.
pub(super) fn phone_rules(config: &Config) -> PhoneRules {
    let users = config.sip.iter().flat_map(|sip| &sip.users);
    let rule = |user: &SipUser| PhoneRule { may_call: user.may_call, number: user.number.clone() };
    let trunks = config.sip.iter().flat_map(|sip| &sip.trunks);
    let rule_of_trunk = |trunk: &Trunk| PhoneRule { may_call: trunk.may_call, number: trunk.number.clone() };
    PhoneRules {
        users: users.map(|user| (user.name.clone(), rule(user))).collect(),
        trunks: trunks.map(|trunk| (trunk.options.name.clone(), rule_of_trunk(trunk))).collect(),
    }
}

/// None without users.
fn registrar_options(config: &Config, sip: &Sip, addresses: &[(IpAddr, IpAddr)]) -> Option<RegistrarOptions> {
    let users: HashMap<_, _> = sip.users.iter().map(|user| (user.name.clone(), user.hashes(&sip.realm))).collect();
    let mut domains = sip.domains.clone();
    if domains.is_empty() {
        let advertised = addresses.iter().flat_map(|(bound, advertised)| [*bound, *advertised]);
        let bound = sip.listen.iter().map(|listen| listen.address.ip());
        let all = advertised.chain(bound).chain(sip.advertise.iter().copied());
        domains.extend(all.filter(|address| !address.is_unspecified()).map(Host::Address));
        let named = config.http.public_url.as_ref().and_then(|url| url.host_str());
        let named = [named, Some(sip.realm.as_str())].into_iter().flatten();
        domains.extend(named.filter_map(|name| SipUri::host_of(&format!("sip:{name}"))));
    }
    (!users.is_empty()).then(|| RegistrarOptions { realm: sip.realm.clone(), domains, users })
}

/// What phones are told. They send over the socket that they have opened, so nothing is ever sent there.
fn websocket_address(config: &Config, advertise: &[IpAddr]) -> SocketAddr {
    let listen = config.http.listen;
    let ip = advertise.first().filter(|_| listen.ip().is_unspecified());
    SocketAddr::new(ip.copied().unwrap_or(listen.ip()), listen.port())
}
