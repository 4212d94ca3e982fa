//! URLs that callers might name, allowed and refused.

use std::cell::Cell;
use std::net::Ipv4Addr;

use axum::Router;
use axum::response::Redirect;
use axum::routing::get;
use tokio::net::TcpListener;

use super::*;

fn egress(allow: &[&str]) -> Egress {
    Egress::new(allow.iter().map(|text| Allowed::parse(text).unwrap()))
}

/// The verdict on a URL whose host has these addresses.
async fn verdict(allow: &[&str], url: &str, hosts: Hosts, addresses: &[&str]) -> Result<CheckedUrl, Refused> {
    let meant_for = if url.starts_with("ws") { Use::WebSocket } else { Use::Web };
    let resolve = async |_: &str, port| {
        Ok(addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), port)).collect())
    };
    egress(allow).check_with(url, meant_for, hosts, resolve).await
}

#[tokio::test]
async fn only_hosts_on_the_list_are_named() {
    let allow = ["bots.example.com", "*.apps.example.com", "10.1.0.0/16", "2001:4860::/32"];
    for url in [
        "https://bots.example.com/call",
        "https://BOTS.example.com./call?key=1",
        "wss://bots.example.com:8443",
        "wss://a.apps.example.com",
        "wss://a.b.apps.example.com",
    ] {
        assert!(verdict(&allow, url, Hosts::Listed, &["8.8.8.8"]).await.is_ok(), "{url}");
    }
    for url in ["wss://10.1.2.3/", "ws://10.1.2.3:9000/", "http://10.1.2.3/", "https://[2001:4860::8888]/"] {
        assert!(verdict(&allow, url, Hosts::Listed, &[]).await.is_ok(), "{url}");
    }
    for url in [
        "https://example.com",
        "https://apps.example.com",
        "https://bots.example.com.evil.com",
        "https://evilbots.example.com",
        "https://xapps.example.com",
        "https://bots.example.co",
        "https://10.2.0.1",
        "https://8.8.8.8",
        "https://[2001:4861::1]",
    ] {
        assert_eq!(verdict(&allow, url, Hosts::Listed, &["8.8.8.8"]).await, Err(Refused::HostNotAllowed), "{url}");
    }
    assert_eq!(verdict(&[], "https://a.com", Hosts::Listed, &["8.8.8.8"]).await, Err(Refused::HostNotAllowed));
    assert!(verdict(&["*"], "https://a.com", Hosts::Listed, &["8.8.8.8"]).await.is_ok());
    assert!(verdict(&[], "https://a.com", Hosts::Any, &["8.8.8.8"]).await.is_ok());
}

#[tokio::test]
async fn every_way_to_write_an_inner_address_is_seen_through() {
    for url in [
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://017700000001/",
        "https://0177.0.0.1/",
        "https://127.0.0.1./",
        "https://１２７.0.0.1/",
        "https://127。0。0。1/",
        "https://0/",
        "https://0.0.0.0:8080/",
        "https://10.0.0.1/",
        "https://100.64.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://0xa9fea9fe/",
        "https://172.16.0.1/",
        "https://192.168.0.1/",
        "https://192.0.0.1/",
        "https://198.18.0.1/",
        "https://203.0.113.1/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://[::]/",
        "https://[::1]/",
        "https://[0:0:0:0:0:0:0:1]/",
        "https://[::127.0.0.1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://[::ffff:0:127.0.0.1]/",
        "https://[::ffff:0:7f00:1]/",
        "https://[::ffff:0:10.0.0.1]/",
        "https://168.63.129.16/machine?comp=goalstate",
        "https://0xa83f8110/",
        "https://[::ffff:168.63.129.16]/",
        "https://[64:ff9b::168.63.129.16]/",
        "https://[2002:a83f:8110::]/",
        "https://[2600::5efe:10.0.0.1]/",
        "https://[4000::1]/",
        "https://100.100.100.200/latest/meta-data/",
        "https://192.0.0.192/",
        "https://[fd20:ce::254]/",
        "https://[64:ff9b::10.0.0.1]/",
        "https://[64:ff9b:1::1]/",
        "https://[2001:db8::1]/",
        "https://[2001::1]/",
        "https://[2002:7f00:1::]/",
        "https://[fc00::1]/",
        "https://[fd00:ec2::254]/",
        "https://[fe80::1]/",
        "https://[fec0::1]/",
        "https://[ff02::1]/",
        "wss://127.0.0.1:9000/call",
    ] {
        for allow in [&["*"][..], &[]] {
            assert_eq!(verdict(allow, url, Hosts::Any, &[]).await, Err(Refused::AddressNotAllowed), "{url}");
        }
    }
}

#[tokio::test]
async fn a_name_that_leads_inside_is_refused_with_all_it_has() {
    let (allow, url) = (["bots.example.com"], "https://bots.example.com");
    for addresses in [
        &["127.0.0.1"][..],
        &["10.0.0.1"],
        &["169.254.169.254"],
        &["::1"],
        &["::ffff:10.0.0.1"],
        &["fd00::1"],
        &["8.8.8.8", "10.0.0.1"],
        &["10.0.0.1", "8.8.8.8"],
    ] {
        let verdict = verdict(&allow, url, Hosts::Listed, addresses).await;
        assert_eq!(verdict, Err(Refused::AddressNotAllowed), "{addresses:?}");
    }
    assert_eq!(verdict(&allow, url, Hosts::Listed, &[]).await, Err(Refused::Unresolved));
    let both = ["bots.example.com", "10.0.0.0/8"];
    assert!(verdict(&both, url, Hosts::Listed, &["10.0.0.1", "8.8.8.8"]).await.is_ok());
    assert_eq!(verdict(&both, url, Hosts::Listed, &["127.0.0.1"]).await, Err(Refused::AddressNotAllowed));
}

#[tokio::test]
async fn in_the_clear_only_inside_and_never_with_a_password() {
    let allow = ["*", "10.0.0.0/8"];
    let of = async |url: &str, addresses: &[&str]| verdict(&allow, url, Hosts::Listed, addresses).await.map(drop);
    assert_eq!(of("http://bot", &["10.0.0.1"]).await, Ok(()));
    assert_eq!(of("ws://bot", &["10.0.0.1"]).await, Ok(()));
    assert_eq!(of("http://bot", &["8.8.8.8"]).await, Err(Refused::InTheClear("https://")));
    assert_eq!(of("ws://bot", &["8.8.8.8", "10.0.0.1"]).await, Err(Refused::InTheClear("wss://")));
    for url in ["https://user@a.com", "https://user:pass@a.com", "https://:pass@a.com", "https://10.0.0.1@a.com"] {
        assert_eq!(of(url, &["8.8.8.8"]).await, Err(Refused::Credentials), "{url}");
    }
    for url in ["file:///etc/passwd", "gopher://a.com", "ftp://a.com", "wss://a.com", "data:,x", "javascript:alert(1)"]
    {
        let verdict = egress(&allow).check(url, Use::Web, Hosts::Any).await;
        assert_eq!(verdict.map(drop), Err(Refused::Scheme("https://")), "{url}");
    }
    let long = format!("https://a.com/{}", "x".repeat(MAX_URL_BYTES));
    for url in [
        "",
        "a.com",
        "//a.com",
        "https://",
        "https:///",
        "https://a.com:0",
        "https://a.com:70000",
        "https://a.com#x",
        "https://[::1",
        "https://a b.com",
        &long,
    ] {
        assert_eq!(of(url, &["8.8.8.8"]).await, Err(Refused::NotAUrl), "{url}");
    }
}

#[test]
fn the_list_takes_hosts_and_ranges_and_nothing_else() {
    for text in [
        "a.example.com",
        "A.Example.Com.",
        "bot",
        "*.example.com",
        "*",
        "10.0.0.0/8",
        "10.0.0.1",
        "fd00::/8",
        "bücher.example",
    ] {
        assert!(Allowed::parse(text).is_ok(), "{text}");
    }
    for text in [
        "",
        "https://a.com",
        "a.com/x",
        "a.com:80",
        "*a.com",
        "a.*.com",
        "*.*",
        "**",
        "10.0.0.0/33",
        "a b",
        "*.10.0.0.1",
        "user@a.com",
    ] {
        assert!(Allowed::parse(text).is_err(), "{text}");
    }
}

#[tokio::test]
async fn real_names_are_resolved_and_looked_at() {
    let verdict = egress(&["localhost"]).check("wss://localhost:1", Use::WebSocket, Hosts::Listed).await;
    assert_eq!(verdict, Err(Refused::AddressNotAllowed));
    let inside = egress(&["localhost", "127.0.0.0/8", "::1"]);
    let found = inside.check("ws://localhost:1/call", Use::WebSocket, Hosts::Listed).await.unwrap();
    assert!(found.addresses().iter().all(|address| address.ip().is_loopback() && address.port() == 1));
    let nobody = egress(&["*"]).check("https://nobody.invalid", Use::Web, Hosts::Listed).await;
    assert_eq!(nobody, Err(Refused::Unresolved));
}

/// The name resolves to our server in the check, and not at all afterwards: DNS has no `.invalid`. So
/// a request that reaches the server used the checked address.
#[tokio::test]
async fn a_name_is_looked_up_once_and_then_only_its_addresses_are_used() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let router = Router::new().route("/moved", get(async || Redirect::temporary("/"))).route("/", get(async || "here"));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let server = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });

    let lookups = Cell::new(0);
    let resolve = async |name: &str, port| {
        assert_eq!(name, "rebind.invalid");
        lookups.set(lookups.get() + 1);
        Ok(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))])
    };
    let inside = egress(&["rebind.invalid", "127.0.0.0/8"]);
    let url = format!("http://rebind.invalid:{}/", server.port());
    let destination = inside.check_with(&url, Use::Web, Hosts::Listed, resolve).await.unwrap();
    assert_eq!((destination.addresses(), lookups.get()), (&[server][..], 1));

    let client = destination.pin(reqwest::Client::builder()).build().unwrap();
    for _ in 0..2 {
        let answer = client.get(destination.url().clone()).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap()), (200, "here".to_owned()));
    }
    // A redirect is an answer like any other, and is not followed.
    let moved = client.get(destination.url().join("moved").unwrap()).send().await.unwrap();
    assert_eq!(moved.status().as_u16(), 307);
    assert_eq!(lookups.get(), 1);
    serving.abort();
}
