//! Locate: which servers an address means, by what the DNS says of its host (RFC 3263). Pure.
//!
//! NAPTR says which transports a domain has, SRV which servers each of them has, A and AAAA where these are. A transport, a
//! port or an IP address in the address itself goes before each of these.

use rand::Rng;

use super::uri::{Host, SipUri, Transport};

/// Servers that one call tries for one address.
const MAX_SERVERS: usize = 4;

/// A record that names a service of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Naptr {
    pub order: u16,
    pub preference: u16,
    /// In lower case.
    pub flags: String,
    /// Such as `SIP+D2U`, in upper case.
    pub service: String,
    /// The name of its SRV records.
    pub replacement: String,
}

/// A record that names a server of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Srv {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    /// Without a dot at its end; empty if the service is not there.
    pub target: String,
}

/// Where to look first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// At this server alone.
    Server(Server),
    /// For the servers of this domain: with one of these transports, the preferred one first.
    Domain { name: String, transports: Vec<Transport> },
}

/// A server by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub host: Host,
    pub port: u16,
    pub transport: Transport,
}

/// Where an address leads at first. `usable` are the transports that something listens for here.
pub(super) fn start(uri: &SipUri, usable: &[Transport]) -> Start {
    let server = |transport: Transport| Server { host: uri.host.clone(), port: uri.port_or_usual(), transport };
    let name = match (&uri.host, uri.port) {
        (Host::Name(name), None) => name.clone(),
        // §4.1: then UDP or TLS.
        (Host::Name(_) | Host::Address(_), _) => return Start::Server(server(uri.transport())),
    };
    let transports = match (uri.is_secure, uri.transport) {
        (true, _) => vec![Transport::Tls],
        (false, Some(transport)) => vec![transport],
        (false, None) => {
            [Transport::Udp, Transport::Tcp, Transport::Tls].into_iter().filter(|each| usable.contains(each)).collect()
        }
    };
    match transports.is_empty() {
        true => Start::Server(server(uri.transport())),
        false => Start::Domain { name, transports },
    }
}

/// The SRV name of a service without NAPTR records.
pub(super) fn service_name(name: &str, transport: Transport) -> String {
    let service = match transport {
        Transport::Udp => "_sip._udp",
        Transport::Tcp | Transport::Ws => "_sip._tcp",
        Transport::Tls => "_sips._tcp",
    };
    format!("{service}.{name}")
}

/// The services of a domain that can be used, in the domain's order: their transport and the name of their SRV records.
pub(super) fn services(mut records: Vec<Naptr>, transports: &[Transport]) -> Vec<(Transport, String)> {
    records.sort_by_key(|record| (record.order, record.preference));
    let usable = records.into_iter().filter(|record| record.flags == "s").filter_map(|record| {
        let transport = match record.service.as_str() {
            "SIP+D2U" => Transport::Udp,
            "SIP+D2T" => Transport::Tcp,
            "SIPS+D2T" => Transport::Tls,
            _ => return None,
        };
        transports.contains(&transport).then_some((transport, record.replacement))
    });
    usable.take(MAX_SERVERS).collect()
}

/// The servers of a service in the order in which they are tried: by priority, and among equals by chance in proportion to
/// their weights (RFC 2782).
pub(super) fn servers(mut records: Vec<Srv>, transport: Transport, chance: &mut impl Rng) -> Vec<Server> {
    records.retain(|record| !record.target.is_empty() && record.port != 0);
    // Those without a weight come first, so that they have a small chance.
    records.sort_by_key(|record| (record.priority, record.weight != 0));
    let mut ordered = Vec::new();
    while let Some(priority) = records.first().map(|record| record.priority) {
        let equals = records.iter().take_while(|record| record.priority == priority);
        let sum: u64 = equals.clone().map(|record| u64::from(record.weight)).sum();
        let mut rest = chance.random_range(0..=sum);
        let chosen = equals.clone().position(|record| {
            let is_it = u64::from(record.weight) >= rest;
            rest = rest.saturating_sub(record.weight.into());
            is_it
        });
        ordered.push(records.remove(chosen.unwrap_or(0)));
    }
    let server = |Srv { port, target, .. }| Server { host: Host::Name(target.to_ascii_lowercase()), port, transport };
    ordered.into_iter().take(MAX_SERVERS).map(server).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const ALL: [Transport; 3] = [Transport::Udp, Transport::Tcp, Transport::Tls];

    fn start_of(text: &str, usable: &[Transport]) -> Start {
        start(&SipUri::parse(text).unwrap(), usable)
    }

    fn srv(priority: u16, weight: u16, target: &str) -> Srv {
        Srv { priority, weight, port: 5060, target: target.to_owned() }
    }

    #[test]
    fn what_the_address_says_goes_before_the_dns() {
        for (text, port, transport) in [
            ("sip:a@192.0.2.1", 5060, Transport::Udp),
            ("sip:a@[2001:db8::1];transport=tls", 5061, Transport::Tls),
            ("sip:a@pbx.example:5070", 5070, Transport::Udp),
            ("sips:a@pbx.example:5071", 5071, Transport::Tls),
        ] {
            let Start::Server(server) = start_of(text, &ALL) else { panic!("{text}") };
            assert_eq!((server.port, server.transport), (port, transport), "{text}");
        }
        for (text, expected) in [
            ("sip:a@pbx.example", &ALL[..]),
            ("sip:a@pbx.example;transport=tcp", &[Transport::Tcp]),
            ("sips:a@pbx.example", &[Transport::Tls]),
        ] {
            let Start::Domain { name, transports } = start_of(text, &ALL) else { panic!("{text}") };
            assert_eq!((name.as_str(), transports.as_slice()), ("pbx.example", expected), "{text}");
        }
        let Start::Domain { transports, .. } = start_of("sip:a@pbx.example", &ALL[1..]) else { panic!() };
        assert_eq!(transports, ALL[1..], "nothing listens on UDP");
    }

    #[test]
    fn services_are_in_the_domains_order_and_ours_alone() {
        let record = |order, preference, flags: &str, service: &str| Naptr {
            order,
            preference,
            flags: flags.to_owned(),
            service: service.to_owned(),
            replacement: format!("{order}.{preference}"),
        };
        let records = vec![
            record(20, 1, "s", "SIP+D2U"),
            record(10, 2, "s", "SIP+D2T"),
            record(10, 1, "s", "SIPS+D2T"),
            record(5, 1, "u", "E2U+SIP"),
            record(5, 2, "s", "SIP+D2S"),
        ];
        let all: Vec<Transport> = services(records.clone(), &ALL).into_iter().map(|(transport, _)| transport).collect();
        assert_eq!(all, [Transport::Tls, Transport::Tcp, Transport::Udp]);
        assert_eq!(services(records, &[Transport::Udp]), [(Transport::Udp, "20.1".to_owned())]);
    }

    #[test]
    fn servers_are_chosen_by_priority_and_in_proportion_to_their_weights() {
        let records = [srv(2, 50, "last"), srv(1, 30, "a"), srv(1, 10, "b"), srv(1, 0, "c"), srv(1, 60, "")];
        let (mut chance, mut first) = (StdRng::seed_from_u64(7), std::collections::BTreeMap::new());
        for _ in 0..4000 {
            let servers = servers(records.to_vec(), Transport::Udp, &mut chance);
            assert_eq!(servers.len(), 4, "one says that it is not there");
            assert_eq!(servers[3].host, Host::Name("last".to_owned()));
            *first.entry(servers[0].host.to_string()).or_insert(0) += 1;
        }
        let share = |name: &str| f64::from(first.get(name).copied().unwrap_or(0)) / 4000.0;
        assert!((0.68..0.80).contains(&share("a")) && (0.19..0.30).contains(&share("b")), "{first:?}");
        assert!((0.005..0.06).contains(&share("c")), "{first:?}");
    }

    proptest! {
        #[test]
        fn each_server_comes_once_and_no_lower_priority_before_a_higher_one(
            records in prop::collection::vec((0..3_u16, any::<u16>(), "[a-z]{1,3}"), 0..4), seed: u64,
        ) {
            let records: Vec<Srv> = records.into_iter().map(|(priority, weight, target)| srv(priority, weight, &target)).collect();
            let servers = servers(records.clone(), Transport::Tcp, &mut StdRng::seed_from_u64(seed));
            let hosts = |mut hosts: Vec<String>| { hosts.sort(); hosts };
            prop_assert_eq!(
                hosts(servers.iter().map(|server| server.host.to_string()).collect()),
                hosts(records.iter().map(|record| record.target.clone()).collect())
            );
        }
    }
}
