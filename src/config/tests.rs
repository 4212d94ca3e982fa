//! Configurations good and bad, and the exact lines that a user sees.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use secrecy::ExposeSecret;

use super::api::Scope;
use super::media::Advertise;
use super::*;
use crate::agent::AgentTarget;
use crate::call::route::AnswerWhen;

#[test]
fn the_example_is_a_start() {
    let config = Config::parse(EXAMPLE, "patchcord.example.toml", &example_environment()).unwrap();
    assert_eq!(config.http.listen, SocketAddr::from(([0, 0, 0, 0], 8080)));
    assert_eq!(config.media.advertise, Advertise::Bound);
    assert_eq!(config.whatsapp.numbers[0].route, "reception");
    assert_eq!(config.whatsapp.numbers[0].access_token.expose_secret(), "graph token");
    assert_eq!(shown(&config.routes["reception"].targets[1..]), ["prompt:goodbye"]);
}

#[test]
fn the_example_shows_every_key_and_each_commented_line_works() {
    let switched_on = switched_on(EXAMPLE);
    let (config, known) = read(&switched_on, "example", &example_environment());
    let config = config.unwrap_or_else(|errors| panic!("{errors}"));
    assert!(matches!(config.media.advertise, Advertise::Configured(_)));

    let table: Table = switched_on.parse().unwrap();
    let missing: Vec<&String> = known.iter().filter(|key| !is_shown(&table, key)).collect();
    assert_eq!(missing, Vec::<&String>::new());
}

#[test]
fn what_is_commented_out_as_usual_is_what_happens_without_it() {
    let short = Config::parse(EXAMPLE, "example", &example_environment()).unwrap();
    let long = Config::parse(&switched_on(EXAMPLE), "example", &example_environment()).unwrap();
    assert_eq!((short.http.limits, short.http.proxies), (long.http.limits, long.http.proxies));
    assert_eq!(short.calls, long.calls);
    assert_eq!(short.log, long.log);
    assert_eq!((short.prompts, short.store), (long.prompts, long.store));
    assert_eq!((short.recordings.dir, short.recordings.keep_local), (long.recordings.dir, long.recordings.keep_local));
    assert_eq!(short.events.give_up_after, long.events.give_up_after);
    assert_eq!(short.media.ports, long.media.ports);
    assert_eq!(short.media.workers, long.media.workers);
    assert_eq!(short.media.max_load_percent, long.media.max_load_percent);
    assert_eq!(short.media.max_lateness, long.media.max_lateness);
    assert_eq!(short.whatsapp.numbers[0].placing, long.whatsapp.numbers[0].placing);
    assert_eq!(short.whatsapp.graph_url, long.whatsapp.graph_url);
    assert_eq!(short.whatsapp.graph_version, long.whatsapp.graph_version);
    let (countries, shown) =
        (&short.whatsapp.countries_without_outgoing_calls, &long.whatsapp.countries_without_outgoing_calls);
    assert_eq!(countries, shown);
    let (short, long) = (short.routes["reception"].agents, long.routes["reception"].agents);
    assert_eq!((short.format, short.profile), (long.format, long.profile));
}

#[test]
fn a_route_has_the_rate_of_its_dialects_platform_unless_it_names_one() {
    let rate = |keys: &str| {
        let text = with("route", &format!("agent = \"ws://127.0.0.1:9000/call\"\n{keys}"));
        let config = Config::parse(&text, "patchcord.toml", &example_environment()).unwrap();
        config.routes["reception"].agents.format.sample_rate.hz()
    };
    assert_eq!([rate(""), rate("dialect = \"vonage\""), rate("dialect = \"jambonz\"")], [16_000; 3]);
    for dialect in ["twilio", "telnyx", "plivo", "exotel", "asterisk", "asterisk-json"] {
        assert_eq!(rate(&format!("dialect = \"{dialect}\"")), 8000, "{dialect}");
    }
    assert_eq!(rate("dialect = \"exotel\"\nsample_rate = 24000"), 24_000);
    assert_eq!(rate("dialect = \"telnyx\"\nencoding = \"opus\""), 48_000);
}

#[test]
fn a_queue_is_read_with_its_usual_values_and_its_route_answers_at_once() {
    let text = with("route", "agent = \"browser:support\"\nfallback = [\"queue:night\"]")
        + "\n[queues.support]\n[queues.night]\nsticky_for = 0\nwrap_up = \"0s\"\nskills = [\"spanish\"]\n"
        + "[api]\nkeys = [{ id = \"ada\", sha256 = \""
        + &"ab".repeat(32)
        + "\", scopes = [\"agent:support\"], "
        + "skills = [\"spanish\"] }]\n";
    let config = Config::parse(&text, "patchcord.toml", &example_environment()).unwrap();
    let route = &config.routes["reception"];
    assert_eq!(shown(&route.targets), ["queue:support", "queue:night"]);
    assert_eq!(route.answer, AnswerWhen::AtOnce);
    let queue = |name: &str| config.queues.get(name).unwrap();
    let (support, night) = (queue("support"), queue("night"));
    assert_eq!(support.options.ring_timeout, Duration::from_secs(20));
    assert_eq!((support.options.max_waiting, support.options.max_missed), (50, 3));
    assert_eq!((support.room.hold.as_str(), support.room.announce.as_str()), ("hold", "position"));
    assert_eq!((night.options.sticky_for, night.options.wrap_up), (Duration::ZERO, Duration::ZERO));
    assert!(night.room.skills.contains("spanish"));
    let key = &config.api.keys[0];
    assert_eq!(key.scopes, [Scope::Agent]);
    assert!(key.queues.named.contains("support") && !key.queues.all && key.skills.contains("spanish"));
    let rings = with("route", "agent = \"queue:support\"\nanswer = \"when_agent_ready\"") + "\n[queues.support]\n";
    let config = Config::parse(&rings, "patchcord.toml", &example_environment()).unwrap();
    assert_eq!(config.routes["reception"].answer, AnswerWhen::AgentReady);
}

#[test]
fn sip_is_read_with_its_usual_values_and_is_off_without_a_place_to_listen() {
    let text = with("route", "agent = \"sip:200@pbx.example\"") + "\n[sip]\nlisten = [\"udp:0.0.0.0:5060\"]\n";
    let config = Config::parse(&text, "patchcord.toml", &example_environment()).unwrap();
    let sip = config.sip.unwrap();
    assert_eq!((sip.ring_timeout, sip.refer_to.len(), sip.advertise.len()), (Duration::from_secs(20), 0, 0));
    assert_eq!(shown(&config.routes["reception"].targets), ["sip:200@pbx.example"]);
    let without = Config::parse(&with("http", ""), "patchcord.toml", &example_environment()).unwrap();
    assert_eq!(without.sip, None);
}

#[test]
fn sip_users_are_read_and_what_is_wrong_with_them_is_told() {
    let sip = |users: &str| with("http", "") + "\n[sip]\nlisten = [\"udp:0.0.0.0:5060\"]\n" + users;
    let good = "domains = [\"SIP.example.com\", \"192.0.2.1\"]\n[[sip.users]]\nname = \"alice\"\n\
                password = { env = \"ALICE_SIP_PASSWORD\" }\n";
    let config = Config::parse(&sip(good), "patchcord.toml", &example_environment()).unwrap().sip.unwrap();
    assert_eq!((config.users[0].name.as_str(), config.users[0].hashes("r").len()), ("alice", 2));
    assert_eq!((config.realm.as_str(), config.domains.len()), ("patchcord", 2));
    let bad = "realm = \"a\\\"b\"\ndomains = [\"sip.example.com:5060\"]\n[[sip.users]]\nname = \"al ice\"\npassword = \"x\"\n\
               [[sip.users]]\nname = \"bob\"\n[[sip.users]]\nname = \"eve\"\nha1 = { md5 = \"ab\" }\n\
               [[sip.users]]\nname = \"eve\"\npassword = \"secret\"\nha1 = { sha256 = \"ab\", sha1 = \"cd\" }\nnumber = \"77\"\n";
    insta::assert_snapshot!(problems_of(&sip(bad)).unwrap(), @r#"
    patchcord.toml: sip.realm = 'a"b': a realm has 1 to 128 signs of ASCII, without quotes and backslashes
    patchcord.toml: sip.domains = ["sip.example.com:5060"]: give the name or address that phones register at, such as "sip.example.com"
    patchcord.toml: sip.users[0].name = "al ice": a SIP user's name has 1 to 64 letters, digits, '.', '_' or '-'
    patchcord.toml: sip.users[1].password: give either password = { env = "ALICE_SIP_PASSWORD" } or ha1 = { md5 = "…", sha256 = "…" }
    patchcord.toml: sip.users[2].ha1.md5: give the hash of name:realm:password, 32 hexadecimal digits
    patchcord.toml: sip.users[3].password: give either password = { env = "ALICE_SIP_PASSWORD" } or ha1 = { md5 = "…", sha256 = "…" }
    patchcord.toml: sip.users[3].ha1.sha256: give the hash of name:realm:password, 64 hexadecimal digits
    patchcord.toml: sip.users[3].ha1.sha1: there is no such key; known here: md5, sha256
    patchcord.toml: sip.users[3].number = "77": give the phone_number_id of one of [[whatsapp.numbers]]
    patchcord.toml: sip.users[3].name = "eve": another user has this name
    "#);
    let unknown = with("route", "agent = \"sip-user:alicia\"")
        + "\n[sip]\nlisten = [\"udp:0.0.0.0:5060\"]\n[[sip.users]]\nname = \"alice\"\npassword = \"x\"\n";
    insta::assert_snapshot!(problems_of(&unknown).unwrap(), @r#"patchcord.toml: routes.reception.agent = "sip-user:alicia": no [[sip.users]] has this name; did you mean sip-user:alice?"#);
}

#[test]
fn trunks_are_read_and_what_is_wrong_with_them_is_told() {
    let sip = |trunks: &str| {
        with("route", "agent = \"sip-trunk:pbx/200\"\nsip_headers = { User-to-User = \"04c8\" }")
            + "\n[sip]\nlisten = [\"udp:0.0.0.0:5060\"]\n"
            + trunks
    };
    let good = "[[sip.trunks]]\nname = \"pbx\"\ntargets = [\"sip:pbx.example;transport=tls\"]\nusername = \"u\"\n\
                password = { env = \"PBX_PASSWORD\" }\nallow = [\"203.0.113.0/24\"]\nmay_call = true\n";
    let config = Config::parse(&sip(good), "patchcord.toml", &example_environment()).unwrap();
    assert_eq!(shown(&config.routes["reception"].targets), ["sip-trunk:pbx/200"]);
    let trunks = config.sip.unwrap().trunks;
    let options = &trunks[0].options;
    assert_eq!(
        (options.keepalive, options.gives_number, trunks[0].may_call),
        (Some(Duration::from_secs(30)), false, true)
    );
    let other = sip(good).replace("PBX_PASSWORD", "PBX_INCOMING_PASSWORD");
    let other = Config::parse(&other, "patchcord.toml", &example_environment()).unwrap().sip.unwrap().trunks;
    assert!(trunks != other && trunks == trunks.clone(), "a restart is needed for another password");
    assert!(!format!("{trunks:?}").contains("our password"));
    let bad = "[[sip.trunks]]\nname = \"p bx\"\ntargets = [\"sip:200@pbx.example\"]\nusername = \"u\"\nmay_call = true\n\
               identity = \"+4930\"\ncaller_identity = \"yes\"\n\
               [[sip.trunks]]\nname = \"a\"\ntargets = []\nallow = [\"203.0.113.0/24\", \"pbx.example\"]\nkeepalive = \"2h\"\n\
               headers = { Via = \"x\", \"X Y\" = \"z\", X-Line = \"a\\r\\nb\" }\nincoming = { username = \"u\" }\n\
               headers_to_parameters = { X-Ticket = \"a b\" }\n\
               [[sip.trunks]]\nname = \"b\"\ntargets = [\"sip:b.example\"]\nallow = [\"198.51.100.0/24\"]\n\
               [[sip.trunks]]\nname = \"b\"\ntargets = [\"sip:b.example;srtp=required\"]\nallow = [\"198.51.100.7\"]\nsecret = \"x\"\n\
               [[sip.trunks]]\nname = \"b\"\ntargets = [\"sip:b.example\", \"sip:c.example\"]\nallow = [\"198.51.100.7\"]\n";
    insta::assert_snapshot!(problems_of(&sip(bad)).unwrap(), @r#"
    patchcord.toml: sip.trunks[0].name = "p bx": a trunk's name has 1 to 64 letters, digits, '.', '_' or '-'
    patchcord.toml: sip.trunks[0].targets = ["sip:200@pbx.example"]: give a server without a user, such as sip:pbx.example: the number comes from the route
    patchcord.toml: sip.trunks[0].username: give username and either password = { env = "PBX_PASSWORD" } or ha1 = { md5 = "…", sha256 = "…" }
    patchcord.toml: sip.trunks[0].allow: may_call needs the addresses that its calls come from: give ["203.0.113.0/24"]
    patchcord.toml: sip.trunks[0].identity = "+4930": give an address such as "sip:+12025550100@example.com"
    patchcord.toml: sip.trunks[0].caller_identity = "yes": give "none", or "number" to let the trunk have the WhatsApp user's number
    patchcord.toml: sip.trunks[1].targets: give 1 to 8 servers
    patchcord.toml: sip.trunks[1].allow = ["203.0.113.0/24", "pbx.example"]: give addresses and ranges, such as "203.0.113.7" or "203.0.113.0/24"
    patchcord.toml: sip.trunks[1].incoming.password: it is missing; give what proves it, such as { env = "PBX_INCOMING_PASSWORD" }
    patchcord.toml: sip.trunks[1].headers.Via: this header belongs to the call itself; leave it out
    patchcord.toml: sip.trunks[1].headers.X Y: a header's name has 2 to 64 letters, digits and hyphens
    patchcord.toml: sip.trunks[1].headers.X-Line: a header's value has 1 to 512 printable signs of ASCII
    patchcord.toml: sip.trunks[1].keepalive = "2h": give at most "1h"
    patchcord.toml: sip.trunks[1].headers_to_parameters.X-Ticket: a parameter's name has 1 to 64 letters, digits, '_', '-' or '.'
    patchcord.toml: sip.trunks[3].targets: SRTP is required, and its keys would be sent unencrypted: give ;transport=tls, or sip.srtp_keys_in_clear = true in a network of your own
    patchcord.toml: sip.trunks[3].secret: there is no such key; known here: name, targets, username, password, ha1, allow, incoming, may_call, number, headers, identity, caller_identity, keepalive, headers_to_parameters
    patchcord.toml: sip.trunks[3].name = "b": another trunk has this name
    patchcord.toml: sip.trunks[3].allow: another trunk's calls come from such an address
    patchcord.toml: sip.trunks[4].name = "b": another trunk has this name
    patchcord.toml: sip.trunks[4].allow: another trunk's calls come from such an address
    "#);
    let unknown = sip(&good.replace("\"pbx\"", "\"pbx1\""));
    insta::assert_snapshot!(problems_of(&unknown).unwrap(), @r#"patchcord.toml: routes.reception.agent = "sip-trunk:pbx/200": no [[sip.trunks]] has this name; did you mean sip-trunk:pbx1/200?"#);
    let without = with("route", "agent = \"sip-trunk:pbx/200\"");
    insta::assert_snapshot!(problems_of(&without).unwrap(), @r#"patchcord.toml: routes.reception.agent = "sip-trunk:pbx/200": sip.listen is not set: add [sip] with listen = ["udp:0.0.0.0:5060"]"#);
}

#[test]
fn what_is_wrong_with_sip_is_told() {
    let text = with("route", "agent = \"sip:200@pbx.example;transport=tls\"\nfallback = [\"sip:a b@pbx\"]")
        + "\n[sip]\nlisten = [\"udp:0.0.0.0\"]\nadvertise = [\"pbx\"]\nring_timeout = \"2m\"\nrefer_to = [\"201\"]\n";
    insta::assert_snapshot!(problems_of(&text).unwrap(), @r#"
    patchcord.toml: routes.reception.fallback = ["sip:a b@pbx"]: the part before @ has 1 to 128 letters, digits and signs such as + . _ -
    patchcord.toml: sip.listen = ["udp:0.0.0.0"]: give an address such as "udp:0.0.0.0:5060"
    patchcord.toml: sip.advertise = ["pbx"]: give addresses such as "203.0.113.7"
    patchcord.toml: sip.ring_timeout = "2m": give at most "1m"
    patchcord.toml: sip.refer_to = ["201"]: give an address such as sip:200@pbx.example, with ;transport=tcp or ;transport=tls if it is not UDP
    "#);
    let idle = with("http", "") + "\n[sip]\nring_timeout = \"20s\"\n";
    insta::assert_snapshot!(problems_of(&idle).unwrap(), @r#"patchcord.toml: sip.listen: it is missing; give ["udp:0.0.0.0:5060"], or set websocket = true"#);
    let websocket = with("http", "") + "\n[sip]\nwebsocket = true\nring_timeout = \"10s\"\n";
    let sip = Config::parse(&websocket, "patchcord.toml", &example_environment()).unwrap().sip.unwrap();
    assert!(sip.websocket && sip.listen.is_empty());
    let encrypted =
        with("route", "agent = \"sip:200@pbx.example\"\nfallback = [\"sip:a@b;transport=tls\", \"sip:a@b;srtp=off\"]")
            + "\n[sip]\nlisten = [\"udp:0.0.0.0:5060\"]\nsrtp = \"required\"\n";
    insta::assert_snapshot!(problems_of(&encrypted).unwrap(), @r#"
    patchcord.toml: routes.reception.agent = "sip:200@pbx.example": SRTP is required, and its keys would be sent unencrypted: give ;transport=tls, or sip.srtp_keys_in_clear = true in a network of your own
    "#);
    let streams = with("route", "agent = \"sip:200@pbx.example\"\nfallback = [\"sips:200@pbx.example\"]")
        + "\n[sip]\nlisten = [\"tls:0.0.0.0:5061\"]\ntls = { cert = \"a.pem\" }\n";
    insta::assert_snapshot!(problems_of(&streams).unwrap(), @r#"
    patchcord.toml: sip.tls.key: it is missing; give the path of its private key, as PEM
    patchcord.toml: sip.tls: a tls: listener needs a certificate: give { cert = "sip.pem", key = "sip.key" }
    patchcord.toml: routes.reception.agent = "sip:200@pbx.example": nothing listens on UDP: add "udp:0.0.0.0:5060" to sip.listen, or give ;transport=tcp or ;transport=tls
    "#);
}

#[test]
fn what_is_wrong_with_queues_is_told() {
    let text = with("route", "agent = \"queue:suport\"\nfallback = [\"queue:nowhere\", \"queue:\"]")
        + "\n[queues.support]\nring_timeout = \"2h\"\nwrap_up = \"long\"\nunstaffed = \"close\"\nmax_wait = \"0s\"\n"
        + "holds = \"x\"\n[queues.\"front desk\"]\n[api]\nkeys = [{ id = \"ada\", sha256 = \""
        + &"ab".repeat(32)
        + "\", scopes = [\"agent:sales\"], skills = [\"a b\"] }]\n";
    insta::assert_snapshot!(problems_of(&text).unwrap(), @r#"
    patchcord.toml: routes.reception.fallback = ["queue:nowhere", "queue:"]: a queue's name has 1 to 64 letters, digits, '_' or '-'
    patchcord.toml: queues.front desk: a queue's name has 1 to 64 letters, digits, '_' or '-'
    patchcord.toml: queues.support.ring_timeout = "2h": give at most "10m"
    patchcord.toml: queues.support.wrap_up = "long": give a time with its unit, such as "30s" or "4h", or 0
    patchcord.toml: queues.support.max_wait = "0s": give a time above zero with its unit, such as "30s" or "4h"
    patchcord.toml: queues.support.unstaffed = "close": give "wait" or "overflow"
    patchcord.toml: queues.support.holds: there is no such key; did you mean queues.support.hold?
    patchcord.toml: routes.reception.agent = "queue:suport": there is no section [queues.suport]; did you mean "support"?
    patchcord.toml: api.keys[0].scopes = ["agent:sales"]: there is no section [queues.sales]
    patchcord.toml: api.keys[0].skills = ["a b"]: a skill has 1 to 64 letters, digits, '_' or '-'
    "#);
}

#[test]
fn a_person_that_a_route_names_has_a_key() {
    let named = |agent: &str| {
        with("route", &format!("agent = \"{agent}\"\nfallback = [\"agent:\"]"))
            + "\n[queues.support]\n[api]\nkeys = [{ id = \"ada\", sha256 = \""
            + &"ab".repeat(32)
            + "\", scopes = [\"agent:support\"] }]\n"
    };
    insta::assert_snapshot!(problems_of(&named("agent:adda")).unwrap(), @r#"
    patchcord.toml: routes.reception.fallback = ["agent:"]: an agent's name is the id of its API key: 1 to 64 letters, digits or hyphens
    patchcord.toml: routes.reception.agent = "agent:adda": no key in [api] with a scope "agent:QUEUE" has this id; did you mean "ada"?
    "#);
    let right = named("agent:ada").replace("\"agent:\"", "");
    let config = Config::parse(&right, "patchcord.toml", &example_environment()).unwrap();
    assert_eq!(shown(&config.routes["reception"].targets), ["agent:ada"]);
}

#[test]
fn the_section_egress_is_read_by_its_earlier_name_too() {
    let allowed = |section| {
        let text = with(section, "allow = [\"bots.example.com\"]");
        Config::parse(&text, "patchcord.toml", &example_environment()).unwrap().egress.allow
    };
    assert_eq!(allowed("outbound"), allowed("egress"));
    assert_eq!(allowed("egress").len(), 1);
    let both = with("egress", "") + "\n[outbound]\n";
    assert!(problems_of(&both).unwrap().contains("outbound"), "one of them would be passed over");
}

#[test]
fn the_contract_of_the_first_version_is_accepted() {
    let digest = "ab".repeat(32);
    let text = format!(
        r#"
        [http]
        listen = "0.0.0.0:8080"
        public_url = "https://calls.example.com"
        [media]
        listen = ["0.0.0.0"]
        advertise = ["203.0.113.7"]
        ports = "40000-40255"
        workers = 0
        allow_private = false
        [whatsapp]
        graph_url = "https://graph.facebook.com"
        graph_version = "v26.0"
        verify_token = "word"
        app_secrets = ["secret"]
        [[whatsapp.numbers]]
        phone_number_id = "200000000000002"
        access_token = {{ env = "WHATSAPP_TOKEN" }}
        route = "reception"
        [routes.reception]
        agent = "ws://127.0.0.1:9000/call"
        dialect = "native"
        sample_rate = 16000
        fallback = ["prompt:goodbye"]
        answer = "when_agent_ready"
        record = false
        [prompts]
        dir = "media/prompts"
        [recordings]
        dir = "recordings"
        [api]
        keys = [{{ id = "app", sha256 = "{digest}", scopes = ["calls:write"] }}]
        [store]
        path = "patchcord.db"
        "#
    );
    let config = Config::parse(&text, "patchcord.toml", &example_environment()).unwrap();
    assert_eq!(config.api.keys[0].sha256, [0xab; 32]);
    assert_eq!(config.api.keys[0].scopes, [Scope::CallsWrite]);
    assert_eq!(config.media.advertise, Advertise::Configured(vec![IpAddr::from([203, 0, 113, 7])]));
    assert_eq!(config.calls.accept_timeout, Duration::from_secs(30));
    assert_eq!(config.calls.media_timeout, Duration::from_secs(30));
    assert_eq!(config.calls.media_lost_end, Duration::from_secs(30));
    assert_eq!(config.calls.media_silent_end, Duration::from_secs(120));
    assert_eq!(config.calls.max_calls, 1000);
}

#[test]
fn every_wrong_value_is_one_line_that_says_what_is_right() {
    let changes = [
        ("http", "listen = 8080"),
        ("http", "listen = \"8080\""),
        ("http", "public_url = \"calls.example.com\""),
        ("http", "idle_timeout = \"2h\""),
        ("http", "max_connections = 0"),
        ("http", "max_webhook_bytes = 1000"),
        ("http", "proxies = [\"proxy.example.com\"]"),
        ("http", "allow_origins = [\"https://app.example.com/\"]"),
        ("media", "ports = \"40000\""),
        ("media", "ports = \"40010-40000\""),
        ("media", "ports = \"40000-40001\"\nworkers = 4"),
        ("media", "workers = -1"),
        ("media", "allow_private = \"yes\""),
        ("media", "listen = \"0.0.0.0\""),
        ("media", "listen = []"),
        ("media", "listen = [\"eth0\"]"),
        ("media", "listen = [\"10.0.0.5\"]"),
        ("media", "listen = [\"127.0.0.1\", \"fd00::1\"]"),
        ("media", "listen = [\"203.0.113.7\", \"169.254.1.1\"]"),
        ("media", "advertise = [\"10.0.0.5\"]"),
        ("media", "advertise = [\"0.0.0.0\"]"),
        ("media", "advertise = [\"2001:db8::1\"]"),
        ("media", "stun = [\"stun.example.com\"]"),
        ("media", "adverise = [\"203.0.113.7\"]"),
        ("whatsapp", "graph_url = \"http://graph.example.com\""),
        ("whatsapp", "graph_version = \"26\""),
        ("whatsapp", "app_secret = \"confidential\""),
        ("whatsapp", "forward_url = \"http://chat.example.com/webhook\""),
        ("whatsapp", "forward_url = \"https://user:confidential@chat.example.com/webhook\""),
        ("whatsapp", "forward_url = \"wss://chat.example.com/webhook\""),
        ("route", "agent = \"app\""),
        ("route", "agent = \"audiosocket:127.0.0.1:9092\""),
        ("route", "agent = \"audiosocket://bots.example.com:9092\""),
        ("route", "agent = \"audiosocket://bot:9092\"\nencoding = \"opus\""),
        ("route", "agent_tls = { cert = \"client.pem\" }"),
        ("route", "agent = \"sip:bot@example.com\""),
        ("route", "agent = \"sips:bot@example.com\""),
        ("route", "agent = \"browser:support\""),
        ("route", "agent = \"http://127.0.0.1:9000\""),
        ("route", "agent = \"127.0.0.1\""),
        ("route", "agent = \"ws://bots.example.com/call?key=confidential\""),
        ("route", "agent = \"wss://user:confidential@bots.example.com/call\""),
        ("route", "agent = \"prompt:../secret\""),
        ("route", "fallback = [\"prompt:goodbye\", \"wss://b.example.com\"]"),
        ("route", "fallback = [\"sip:x\"]"),
        ("route", "dialect = \"twillio\""),
        ("route", "twilio_auth_token = \"token\""),
        ("route", "model = { voice = \"marin\" }"),
        ("route", "agent = \"gemini-live:m\""),
        ("route", "agent = \"elevenlabs:a\"\nmodel = { key = \"k\", tools = [\"fly\"], transfer_to = [\"moon\"] }"),
        (
            "route",
            "agent = \"elevenlabs:a\"\nmodel = { key = \"k\", tools = [{ name = \"2nd\" }, { name = \"transfer\", description = \"x\" }, { name = \"f\", parameters = { type = \"string\" }, webhook = \"http://app.example.com\" }] }",
        ),
        ("route", "sample_rate = 44100"),
        ("route", "encoding = \"opus\"\nsample_rate = 16000"),
        ("route", "encoding = \"pcm\""),
        ("route", "answer = \"at_twice\""),
        ("route", "barge_in = \"yes\""),
        ("route", "profile = \"best\""),
        ("route", "parameters = { retries = 3 }"),
        ("route", "decide = \"https://app.example.com/calls\""),
        ("route", "decide_secret = { env = \"DECIDE_SECRET\" }"),
        ("route", "decide = \"http://app.example.com\"\ndecide_secret = { env = \"DECIDE_SECRET\" }"),
        ("route", "decide = \"https://app.example.com\"\ndecide_secret = \"confidential\""),
        (
            "route",
            "decide = \"https://a.example.com\"\ndecide_secret = { env = \"DECIDE_SECRET\" }\ndecide_timeout = \"4s\"",
        ),
        ("route", "headers = { Upgrade = \"h2c\" }"),
        ("route", "headers = { Authorization = 7 }"),
        ("calls", "accept_timeout = 30"),
        ("calls", "accept_timeout = \"30\""),
        ("calls", "accept_timeout = \"5m\""),
        ("calls", "agent_timeout = \"0s\""),
        ("calls", "agent_idle_timeout = 20"),
        ("calls", "media_lost_end = \"3s\""),
        ("calls", "media_silent_end = \"5s\""),
        ("calls", "max_calls = 0"),
        ("prompts", "dir = \"\""),
        ("api", "keys = [{ id = \"a b\", sha256 = \"confidential\", scopes = [\"call:write\"] }]"),
        ("api", "keys = [\"confidential\"]"),
        ("api", "keys = [{ id = \"a\", sha256 = \"0\", scopes = [], requests_per_second = 0 }]"),
        ("api", "closed = [\"/livez\"]"),
        ("egress", "allow = \"bots.example.com\""),
        ("egress", "allow = [\"https://bots.example.com\"]"),
        ("egress", "allow = [\"10.0.0.0/33\"]"),
        ("store", "keep_calls = \"forever\""),
        ("store", "keep_events = \"0s\""),
        ("store", "required = \"yes\""),
        ("store", "min_free = \"1 TB\""),
        ("events", "give_up_after = \"90d\""),
        ("events", "webhooks = [{ url = \"https://a.example.com\" }]"),
        ("events", "webhooks = [{ url = \"http://a.example.com\", secret = { env = \"EVENTS_SECRET\" } }]"),
        (
            "events",
            "webhooks = [{ url = \"https://u:confidential@a.example.com\", secret = { env = \"EVENTS_SECRET\" } }]",
        ),
        ("events", "webhooks = [{ url = \"https://a.example.com?key=confidential\", secret = \"confidential\" }]"),
        (
            "events",
            "webhooks = [{ url = \"https://a.example.com\", secret = { env = \"EVENTS_SECRET\" }, events = [\"ended\"] }]",
        ),
        (
            "events",
            "webhooks = [{ url = \"https://a.example.com\", secret = { env = \"EVENTS_SECRET\" } },
                { url = \"https://a.example.com?b\", secret = { env = \"EVENTS_SECRET\" } }]",
        ),
        ("log", "format = \"xml\""),
        ("log", "filter = \"loud=very\""),
        ("telemetry", "address = \"127.0.0.1\""),
    ];
    let lines: Vec<String> = changes
        .iter()
        .map(|(section, lines)| problems_of(&with(section, lines)).unwrap_or_else(|| format!("{lines} is accepted")))
        .collect();
    let lines = lines.join("\n");
    assert!(!lines.contains("confidential"), "{lines}");
    insta::assert_snapshot!(lines, @r#"
    patchcord.toml: http.listen = 8080: give something like "0.0.0.0:8080"
    patchcord.toml: http.listen = "8080": give something like "0.0.0.0:8080"
    patchcord.toml: http.public_url = "calls.example.com": give an address such as "https://calls.example.com"
    patchcord.toml: http.idle_timeout = "2h": give at most "1h"
    patchcord.toml: http.max_connections = 0: give a whole number from 1 to 100000
    patchcord.toml: http.max_webhook_bytes = 1000: give a whole number from 3145728 to 1073741824
    patchcord.toml: http.proxies = ["proxy.example.com"]: "proxy.example.com" is no address or range, such as "10.0.0.0/8"
    patchcord.toml: http.allow_origins = ["https://app.example.com/"]: "https://app.example.com/" is no origin, such as "https://app.example.com"
    patchcord.toml: media.ports = "40000": give a first and a last port, such as "40000-40255"
    patchcord.toml: media.ports = "40010-40000": give a first and a last port, such as "40000-40255"
    patchcord.toml: media.ports = "40000-40001": 4 workers need at least as many ports
    patchcord.toml: media.workers = -1: give a whole number from 0 to 1024
    patchcord.toml: media.allow_private = "yes": give true or false
    patchcord.toml: media.listen = "0.0.0.0": give a list, such as ["…"]
    patchcord.toml: media.listen = []: give at least one address, such as "0.0.0.0"
    patchcord.toml: media.listen = ["eth0"]: "eth0" is no IP address; give one such as "203.0.113.7"
    patchcord.toml: media.listen = "10.0.0.5": nobody outside can reach 10.0.0.5: set media.advertise to the public address, or media.allow_private = true for a closed network
    patchcord.toml: media.listen = "127.0.0.1": nobody outside can reach 127.0.0.1: set media.advertise to the public address, or media.allow_private = true for a closed network
    patchcord.toml: media.listen = "fd00::1": nobody outside can reach fd00::1: set media.advertise to the public address, or media.allow_private = true for a closed network
    patchcord.toml: media.listen = "169.254.1.1": nobody outside can reach 169.254.1.1: set media.advertise to the public address, or media.allow_private = true for a closed network
    patchcord.toml: media.advertise = "10.0.0.5": nobody outside can reach 10.0.0.5: set media.advertise to the public address, or media.allow_private = true for a closed network
    patchcord.toml: media.advertise = "0.0.0.0": nobody can send to this address: give the public one
    patchcord.toml: media.advertise = "2001:db8::1": media.listen has no IPv6 address to receive on: add "::" to it
    patchcord.toml: media.stun = ["stun.example.com"]: "stun.example.com" is no STUN server; give host:port, such as "stun.example.com:3478"
    patchcord.toml: media.adverise: there is no such key; did you mean media.advertise?
    patchcord.toml: whatsapp.graph_url = "http://graph.example.com": http:// would carry the access token in the clear: use https://
    patchcord.toml: whatsapp.graph_version = "26": give a version such as "v26.0"
    patchcord.toml: whatsapp.app_secret: there is no such key; did you mean whatsapp.app_secrets?
    patchcord.toml: whatsapp.forward_url = "http://chat.example.com/webhook": http:// would carry Meta's webhooks in the clear through the internet: use https://
    patchcord.toml: whatsapp.forward_url = "https://chat.example.com/webhook": a password in an address ends in logs: Meta's webhooks are signed instead
    patchcord.toml: whatsapp.forward_url = "wss://chat.example.com/webhook": give an address such as "https://chat.example.com/webhook"
    patchcord.toml: routes.reception.agent = "app": nobody gets a token for its WebSocket: give a key in [api], or decide to the route
    patchcord.toml: routes.reception.agent = "audiosocket:127.0.0.1:9092": give audiosocket://HOST:PORT, or audiosocket://HOST:PORT/UUID
    patchcord.toml: routes.reception.agent = "audiosocket://bots.example.com:9092": AudioSocket would carry the call's sound in the clear through the internet: use wss:// there
    patchcord.toml: routes.reception.encoding = "opus": AudioSocket carries PCM: leave encoding out
    patchcord.toml: routes.reception.agent_tls.key: it is missing; a certificate proves nothing without its key: give "client.key"
    patchcord.toml: routes.reception.agent = "sip:bot@example.com": sip.listen is not set: add [sip] with listen = ["udp:0.0.0.0:5060"]
    patchcord.toml: routes.reception.agent = "sips:bot@example.com": sip.listen is not set: add [sip] with listen = ["udp:0.0.0.0:5060"]
    patchcord.toml: routes.reception.agent = "queue:support": there is no section [queues.support]
    patchcord.toml: routes.reception.agent = "http://127.0.0.1:9000": give ws://, wss://, app, audiosocket://, offer:https://, twiml:https://, ncco:https://, openai-realtime:MODEL, sip:, sip-user:NAME, sip-trunk:NAME/NUMBER, queue:NAME, agent:NAME or prompt:NAME
    patchcord.toml: routes.reception.agent = "127.0.0.1": give ws://, wss://, app, audiosocket://, offer:https://, twiml:https://, ncco:https://, openai-realtime:MODEL, sip:, sip-user:NAME, sip-trunk:NAME/NUMBER, queue:NAME, agent:NAME or prompt:NAME
    patchcord.toml: routes.reception.agent = "ws://bots.example.com/call?…": ws:// would carry the call's sound in the clear through the internet: use wss://
    patchcord.toml: routes.reception.agent = "wss://bots.example.com/call": a password in an address ends in logs: put it into headers.Authorization
    patchcord.toml: routes.reception.agent = "prompt:../secret": a prompt's name is 1 to 128 letters, digits, '.', '_' or '-', and starts with no '.'
    patchcord.toml: routes.reception.fallback: nothing after a prompt is ever reached: put the prompt last
    patchcord.toml: routes.reception.fallback = "sip:x": sip.listen is not set: add [sip] with listen = ["udp:0.0.0.0:5060"]
    patchcord.toml: routes.reception.dialect = "twillio": give one of "native", "twilio", "telnyx", "plivo", "exotel", "vonage", "jambonz", "asterisk", "asterisk-json"
    patchcord.toml: routes.reception.twilio_auth_token: it is for dialect = "twilio"; agent_secret signs for every dialect
    patchcord.toml: routes.reception.model: no agent of this route is a model: give agent = "openai-realtime:MODEL"
    patchcord.toml: routes.reception.model.key: the model needs its vendor's API key: give { env = "MODEL_API_KEY" }
    patchcord.toml: routes.reception.model.tools = "fly": give some of "hangup", "send_dtmf", or a table with a function of yours
    patchcord.toml: routes.reception.model.transfer_to = "moon": give names of routes
    patchcord.toml: routes.reception.model.tools[0].name = "2nd": a function's name has 1 to 64 letters, digits or '_', and begins with no digit
    patchcord.toml: routes.reception.model.tools[1].name = "transfer": this function is built in: model.transfer_to names its routes
    patchcord.toml: routes.reception.model.tools[1].webhook: it is missing, and so is model.tools_webhook; give "https://app.example.com/functions"
    patchcord.toml: routes.reception.model.tools[2].description: it is missing; say to the model what it is for
    patchcord.toml: routes.reception.model.tools[2].parameters = { type = "string" }: give a JSON schema of the type "object"
    patchcord.toml: routes.reception.model.tools[2].webhook = "http://app.example.com": http:// would carry function calls in the clear through the internet: use https://
    patchcord.toml: routes.reception.model.tools_secret: it is missing; it signs the calls of functions: give { env = "TOOLS_SECRET" }
    patchcord.toml: routes.reception.sample_rate = 44100: give 8000, 16000, 24000 or 48000
    patchcord.toml: routes.reception.sample_rate = 16000: Opus always counts at 48000: leave sample_rate out
    patchcord.toml: routes.reception.encoding = "pcm": give "pcm_s16le" or "opus"
    patchcord.toml: routes.reception.answer = "at_twice": give "when_agent_ready", "at_once" or "on_command"
    patchcord.toml: routes.reception.barge_in = "yes": give "off", "events" or "clear"
    patchcord.toml: routes.reception.profile = "best": give "eco" or "hq"
    patchcord.toml: routes.reception.parameters.retries = 3: give text in quotes
    patchcord.toml: routes.reception.decide_secret: it is missing; it signs what is asked: give { env = "DECIDE_SECRET" }
    patchcord.toml: routes.reception.decide: it is missing; nothing is asked without an address: give "https://app.example.com/calls"
    patchcord.toml: routes.reception.decide = "http://app.example.com": http:// would carry calls in the clear through the internet: use https://
    patchcord.toml: routes.reception.decide_secret: a signing secret is whsec_ and the base64 of 24 to 64 random bytes
    patchcord.toml: routes.reception.decide_timeout = "4s": give at most "3s"
    patchcord.toml: routes.reception.headers.Upgrade: this header belongs to the connection itself; leave it out
    patchcord.toml: routes.reception.headers.Authorization: give text in quotes, { env = "NAME" } or { file = "PATH" }
    patchcord.toml: calls.accept_timeout = 30: give a time above zero with its unit, such as "30s" or "4h"
    patchcord.toml: calls.accept_timeout = "30": give a time above zero with its unit, such as "30s" or "4h"
    patchcord.toml: calls.accept_timeout = "5m": give at most "1m"
    patchcord.toml: calls.agent_timeout = "0s": give a time above zero with its unit, such as "30s" or "4h"
    patchcord.toml: calls.agent_idle_timeout = 20: give a time above zero with its unit, such as "30s" or "4h"
    patchcord.toml: calls.media_lost_warn = "5s": the warning must come before media_lost_end
    patchcord.toml: calls.media_lost_warn = "5s": the warning must come before media_silent_end
    patchcord.toml: calls.max_calls = 0: give a whole number from 1 to 1000000
    patchcord.toml: prompts.dir = "": give a path
    patchcord.toml: api.keys[0].id = "a b": an id has 1 to 64 letters, digits or hyphens
    patchcord.toml: api.keys[0].sha256: give the SHA-256 of the whole key as 64 hexadecimal digits, not the key
    patchcord.toml: api.keys[0].scopes = ["call:write"]: there is no scope "call:write"; did you mean "calls:write"?
    patchcord.toml: api.keys[0]: give a table, such as { id = "…" }
    patchcord.toml: api.keys[0].sha256: give the SHA-256 of the whole key as 64 hexadecimal digits, not the key
    patchcord.toml: api.keys[0].requests_per_second = 0: give a whole number from 1 to 100000
    patchcord.toml: api.closed = ["/livez"]: give some of /metrics, /openapi.json
    patchcord.toml: egress.allow = "bots.example.com": give a list, such as ["…"]
    patchcord.toml: egress.allow = ["https://bots.example.com"]: "https://bots.example.com" is no host: give a host such as "bots.example.com" or "*.example.com", or a range such as "10.0.0.0/8"
    patchcord.toml: egress.allow = ["10.0.0.0/33"]: "10.0.0.0/33" is no host: give a host such as "bots.example.com" or "*.example.com", or a range such as "10.0.0.0/8"
    patchcord.toml: store.keep_calls = "forever": give a time above zero with its unit, such as "30s" or "4h"
    patchcord.toml: store.keep_events = "0s": give a time above zero with its unit, such as "30s" or "4h"
    patchcord.toml: store.required = "yes": give true or false
    patchcord.toml: store.min_free = "1 TB": give a size such as "200 MB" or "2 GB"
    patchcord.toml: events.give_up_after = "90d": give at most "30days"
    patchcord.toml: events.webhooks[0].secret: it is missing; it signs what is sent: give { env = "EVENTS_SECRET" }
    patchcord.toml: events.webhooks[0].url = "http://a.example.com": http:// would carry events in the clear through the internet: use https://
    patchcord.toml: events.webhooks[0].url = "https://a.example.com": a password in an address ends in logs: events are signed instead
    patchcord.toml: events.webhooks[0].secret: a signing secret is whsec_ and the base64 of 24 to 64 random bytes
    patchcord.toml: events.webhooks[0].events = ["ended"]: give kinds such as "call.ended" or "call.*"
    patchcord.toml: events.webhooks[1].name: this webhook stands twice: give each a name of its own
    patchcord.toml: log.format = "xml": give "text" or "json"
    patchcord.toml: log.filter = "loud=very": give levels, such as "info" or "info,patchcord::call=debug"
    patchcord.toml: telemetry: there is no such key; known here: http, media, routes, whatsapp, calls, prompts, recordings, queues, sip, api, egress, twilio, store, events, log
    "#);
}

#[test]
fn addresses_that_are_good_are_accepted() {
    for (section, lines) in [
        ("http", "listen = \"[::]:0\""),
        ("media", "listen = [\"0.0.0.0\", \"::\"]\nadvertise = [\"203.0.113.7\", \"2001:db8::7\"]"),
        ("media", "listen = [\"10.0.0.5\"]\nadvertise = [\"203.0.113.7\"]"),
        ("media", "listen = [\"10.0.0.5\"]\nstun = [\"stun.example.com:3478\"]"),
        ("media", "listen = [\"127.0.0.1\"]\nallow_private = true"),
        ("media", "advertise = [\"10.0.0.5\"]\nallow_private = true"),
        ("whatsapp", "graph_url = \"http://127.0.0.1:4000\""),
        ("route", "agent = \"wss://bots.example.com/call?key=x\""),
        ("route", "agent = \"ws://bot:9000/call\""),
        ("route", "agent = \"ws://10.1.2.3/call\""),
        ("route", "agent = \"ws://[fd00::1]:9000/call\""),
        ("route", "agent = \"ws://bot.default.svc.cluster.local/call\""),
        ("route", "agent = \"prompt:hold\""),
        ("route", "encoding = \"opus\""),
    ] {
        assert_eq!(problems_of(&with(section, lines)), None, "{lines}");
    }
}

#[test]
fn all_problems_are_told_together() {
    let text = r#"
        [http]
        lisen = "0.0.0.0:80"
        [whatsapp]
        app_secrets = []
        [[whatsapp.numbers]]
        phone_number_id = "+1 202 555 0199"
        access_token = { env = "NO_SUCH_VARIABLE" }
        route = "recption"
        [[whatsapp.numbers]]
        phone_number_id = "1"
        access_token = { file = "/no/such/file" }
        route = "sales"
        [[whatsapp.numbers]]
        phone_number_id = "1"
        access_token = { vault = "confidential" }
        [routes.reception]
        [routes."front desk"]
        agent = "prompt:hold"
        [calls]
        max_duraton = "1h"
    "#;
    insta::assert_snapshot!(problems_of(text).unwrap(), @r#"
    patchcord.toml: http.lisen: there is no such key; did you mean http.listen?
    patchcord.toml: routes.reception.agent: it is missing; give ws://, wss://, app, audiosocket://, offer:https://, twiml:https://, ncco:https://, openai-realtime:MODEL, sip:, sip-user:NAME, sip-trunk:NAME/NUMBER, queue:NAME, agent:NAME or prompt:NAME
    patchcord.toml: routes.front desk: a route's name has 1 to 64 letters, digits, '_' or '-'
    patchcord.toml: whatsapp.verify_token: it is missing; give the word that you enter beside the webhook's address in the app dashboard
    patchcord.toml: whatsapp.numbers[0].phone_number_id = "+1 202 555 0199": give the number's id from the app dashboard, in digits
    patchcord.toml: whatsapp.numbers[0].access_token: the environment variable NO_SUCH_VARIABLE is not set
    patchcord.toml: whatsapp.numbers[0].route = "recption": there is no section [routes.recption]; did you mean "reception"?
    patchcord.toml: whatsapp.numbers[1].access_token: the file /no/such/file cannot be read: No such file or directory (os error 2)
    patchcord.toml: whatsapp.numbers[1].route = "sales": there is no section [routes.sales]
    patchcord.toml: whatsapp.numbers[2].access_token: give text in quotes, { env = "NAME" } or { file = "PATH" }
    patchcord.toml: whatsapp.numbers[2].route: it is missing; give the name of a [routes.…] section
    patchcord.toml: whatsapp.app_secrets = []: without one, anybody could forge webhooks: give at least one
    patchcord.toml: calls.max_duraton: there is no such key; did you mean calls.max_duration?
    "#);
}

#[test]
fn a_number_may_not_stand_twice() {
    let number =
        "\n[[whatsapp.numbers]]\nphone_number_id = \"200000000000002\"\naccess_token = \"t\"\nroute = \"reception\"\n";
    let problems = problems_of(&format!("{}{number}", with("", "")));
    insta::assert_snapshot!(problems.unwrap(), @r#"
    patchcord.toml: whatsapp.numbers[1].phone_number_id: this number stands twice: keep one of them
    "#);
}

#[test]
fn shared_secrets_may_be_left_out_where_every_number_has_its_own() {
    let without_shared = |keys: &str| with("number", keys).replace("app_secrets = [\"secret\"]", "");
    assert_eq!(problems_of(&without_shared("app_secrets = [\"own\"]")), None);
    insta::assert_snapshot!(problems_of(&without_shared("app_secrets = []")).unwrap(), @r#"
    patchcord.toml: whatsapp.numbers[0].app_secrets = []: without one, anybody could forge webhooks: give at least one
    "#);
    insta::assert_snapshot!(problems_of(&with("number", "max_calls = 0")).unwrap(), @r#"
    patchcord.toml: whatsapp.numbers[0].max_calls = 0: give a whole number from 1 to 1000000
    "#);
    insta::assert_snapshot!(problems_of(&with("number", "placing = { per_second = 0, lives = 3 }")).unwrap(), @r#"
    patchcord.toml: whatsapp.numbers[0].placing.per_second = 0: give a whole number from 1 to 1000
    patchcord.toml: whatsapp.numbers[0].placing.lives: there is no such key; did you mean whatsapp.numbers[0].placing.live?
    "#);
    insta::assert_snapshot!(problems_of(&without_shared("max_calls = 1")).unwrap(), @r#"
    patchcord.toml: whatsapp.app_secrets: it is missing; without one, anybody could forge webhooks: give [{ env = "WHATSAPP_APP_SECRET" }]
    "#);
}

#[test]
fn apps_that_signal_their_calls_need_no_whatsapp_section() {
    let text = "[api]\n[routes.reception]\nagent = \"prompt:hold\"\n";
    let whatsapp = Config::parse(text, "patchcord.toml", &Environment::default()).unwrap().whatsapp;
    assert_eq!((whatsapp.numbers.len(), whatsapp.app_secrets.len()), (0, 0), "no webhook is believed");
}

#[test]
fn without_secrets_numbers_or_routes_there_is_no_start() {
    insta::assert_snapshot!(problems_of("").unwrap(), @r#"
    patchcord.toml: whatsapp.verify_token: it is missing; give the word that you enter beside the webhook's address in the app dashboard
    patchcord.toml: whatsapp.numbers: it is missing; give at least one [[whatsapp.numbers]]
    patchcord.toml: whatsapp.app_secrets: it is missing; without one, anybody could forge webhooks: give [{ env = "WHATSAPP_APP_SECRET" }]
    "#);
}

#[test]
fn broken_toml_is_told_by_line_and_shows_no_text_of_the_file() {
    let problems = problems_of("[whatsapp]\nverify_token = \"confidential\nx = 1\n").unwrap();
    assert!(problems.starts_with("patchcord.toml: line 2: "), "{problems}");
    assert!(!problems.contains("confidential") && problems.lines().count() == 1, "{problems}");
    let problems = problems_of("[http]\nlisten = \"0.0.0.0:1\"\nlisten = \"0.0.0.0:2\"\n").unwrap();
    assert!(problems.starts_with("patchcord.toml: line 3: "), "{problems}");
}

#[test]
fn the_environment_sets_any_key() {
    let environment = environment(&[
        ("PATCHCORD_HTTP__LISTEN", "127.0.0.1:0"),
        ("PATCHCORD_MEDIA__LISTEN", "127.0.0.1, ::1"),
        ("PATCHCORD_MEDIA__ALLOW_PRIVATE", "true"),
        ("PATCHCORD_MEDIA__WORKERS", "2"),
        ("PATCHCORD_MEDIA__PORTS", ""),
        ("PATCHCORD_WHATSAPP__VERIFY_TOKEN", "12345"),
        ("PATCHCORD_WHATSAPP__APP_SECRETS", "new, old"),
        ("PATCHCORD_WHATSAPP__NUMBERS__0__PHONE_NUMBER_ID", "100000000000001"),
        ("PATCHCORD_WHATSAPP__NUMBERS__0__ACCESS_TOKEN", "{ env = \"WHATSAPP_TOKEN\" }"),
        ("PATCHCORD_WHATSAPP__NUMBERS__0__ROUTE", "Front-Desk"),
        ("PATCHCORD_WHATSAPP__NUMBERS__1__PHONE_NUMBER_ID", "100000000000002"),
        ("PATCHCORD_WHATSAPP__NUMBERS__1__ACCESS_TOKEN", "second"),
        ("PATCHCORD_WHATSAPP__NUMBERS__1__ROUTE", "night"),
        ("PATCHCORD_ROUTES__FRONT_DESK__SAMPLE_RATE", "24000"),
        ("PATCHCORD_ROUTES__FRONT_DESK__PARAMETERS__LANGUAGE", "pl"),
        ("PATCHCORD_ROUTES__NIGHT__AGENT", "prompt:goodbye"),
        ("PATCHCORD_ROUTES__FRONT_DESK__FALLBACK", "[\"wss://b.example.com\", \"prompt:busy\"]"),
        ("PATCHCORD_CALLS__MAX_CALLS", "5"),
        ("PATCHCORD_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("WHATSAPP_TOKEN", "first"),
    ]);
    let text = "[routes.Front-Desk]\nagent = \"ws://127.0.0.1:9000\"\n";
    let config = Config::parse(text, "patchcord.toml", &environment).unwrap_or_else(|errors| panic!("{errors}"));

    assert_eq!(config.http.listen.port(), 0);
    assert_eq!(config.media.listen.len(), 2);
    assert_eq!((config.media.workers, config.media.ports.count()), (2, 256));
    assert_eq!(config.whatsapp.verify_token.expose_secret(), "12345");
    let secrets: Vec<&str> = config.whatsapp.app_secrets.iter().map(ExposeSecret::expose_secret).collect();
    assert_eq!(secrets, ["new", "old"]);
    let tokens: Vec<&str> = config.whatsapp.numbers.iter().map(|number| number.access_token.expose_secret()).collect();
    assert_eq!(tokens, ["first", "second"]);
    let route = &config.routes["Front-Desk"];
    assert_eq!((route.agents.format.sample_rate.hz(), route.targets.len()), (24000, 3));
    let Some(AgentTarget::WebSocket(agent)) = route.targets.first() else { panic!("{:?}", route.targets) };
    assert_eq!((agent.format, agent.parameters["language"].as_str()), (route.agents.format, "pl"));
    assert_eq!(shown(&config.routes["night"].targets), ["prompt:goodbye"]);
    assert_eq!(config.calls.max_calls, 5);
}

#[test]
fn problems_of_the_environment_name_the_variable() {
    let environment = environment(&[
        ("PATCHCORD_MEDIA__PORTS", "40000"),
        ("PATCHCORD_MEDIA__WORKERS", "two"),
        ("PATCHCORD_MEDIA__PORT", "1"),
        ("PATCHCORD_HTTP_LISTEN", "127.0.0.1:0"),
        ("PATCHCORD_HTTP__LISTEN__PORT", "1"),
        ("PATCHCORD_WHATSAPP__VERIFY_TOKEN", "{ file = \"/no/such/file\" }"),
        ("PATCHCORD_WHATSAPP__NUMBERS__3__ROUTE", "x"),
        ("PATCHCORD_WHATSAPP__NUMBERS__ROUTE", "x"),
        ("WHATSAPP_TOKEN", "token"),
    ]);
    let errors = Config::parse(&with("http", "listen = \"0.0.0.0:1\""), "patchcord.toml", &environment).unwrap_err();
    insta::assert_snapshot!(errors, @r#"
    environment: PATCHCORD_HTTP__LISTEN__PORT: it names a key inside of something that is a plain value
    environment: PATCHCORD_WHATSAPP__NUMBERS__ROUTE: it names a key of a list: put the index between, as in NUMBERS__0__ROUTE
    environment: PATCHCORD_WHATSAPP__NUMBERS__3__ROUTE: the next free index of this list is 1
    environment: PATCHCORD_MEDIA__PORTS = "40000": give a first and a last port, such as "40000-40255"
    environment: PATCHCORD_MEDIA__WORKERS = "two": give a whole number from 0 to 1024
    environment: PATCHCORD_MEDIA__PORT: there is no such key; did you mean media.ports?
    environment: PATCHCORD_WHATSAPP__VERIFY_TOKEN: the file /no/such/file cannot be read: No such file or directory (os error 2)
    environment: PATCHCORD_HTTP_LISTEN: a section and its key are two underscores apart: write PATCHCORD_HTTP__LISTEN
    "#);
}

#[test]
fn a_secret_from_a_file_loses_its_line_end_and_an_empty_one_is_refused() {
    let folder = std::env::temp_dir();
    let full = folder.join(format!("patchcord-config-test-{}-full", std::process::id()));
    let empty = folder.join(format!("patchcord-config-test-{}-empty", std::process::id()));
    std::fs::write(&full, "s3cret\r\n").unwrap();
    std::fs::write(&empty, "\n").unwrap();
    let verify_token = |path: &Path| with("whatsapp", &format!("verify_token = {{ file = '{}' }}", path.display()));

    let config = Config::parse(&verify_token(&full), "patchcord.toml", &example_environment());
    let problems = problems_of(&verify_token(&empty));
    std::fs::remove_file(&full).unwrap();
    std::fs::remove_file(&empty).unwrap();

    assert_eq!(config.unwrap().whatsapp.verify_token.expose_secret(), "s3cret");
    assert_eq!(problems.as_deref(), Some("patchcord.toml: whatsapp.verify_token: the secret is empty"));
}

#[test]
fn debug_output_shows_no_secret() {
    let text = with("route", "headers = { Authorization = \"confidential\" }")
        .replace("verify_token = \"word\"", "verify_token = \"confidential\"");
    let config = Config::parse(&text, "patchcord.toml", &example_environment()).unwrap();
    let shown = format!("{config:?}");
    assert!(!shown.contains("confidential") && !shown.contains("graph token"), "{shown}");
}

#[test]
fn a_file_that_is_not_there_is_one_line() {
    let errors = Config::load(Path::new("/no/such/patchcord.toml"), &Environment::default()).unwrap_err();
    let line = errors.to_string();
    assert!(line.starts_with("/no/such/patchcord.toml: file: the configuration cannot be read: "), "{line}");
}

proptest::proptest! {
    #[test]
    fn foreign_text_never_panics(text in ".{0,200}", value in ".{0,40}") {
        let set = environment(&[("PATCHCORD_MEDIA__LISTEN", &value), ("PATCHCORD_API__KEYS", &value)]);
        let _ = Config::parse(&text, "patchcord.toml", &set);
    }
}

const EXAMPLE: &str = include_str!("../../patchcord.example.toml");

fn example_environment() -> Environment {
    environment(&[
        ("WHATSAPP_VERIFY_TOKEN", "word"),
        ("WHATSAPP_APP_SECRET", "app secret"),
        ("WHATSAPP_TOKEN", "graph token"),
        ("RECEPTION_APP_SECRET", "reception's secret"),
        ("AGENT_AUTHORIZATION", "Bearer agent"),
        ("RECORDINGS_ACCESS_KEY", "archive key"),
        ("RECORDINGS_SECRET_KEY", "archive secret"),
        ("ALICE_SIP_PASSWORD", "alice's password"),
        ("PBX_PASSWORD", "our password"),
        ("PBX_INCOMING_PASSWORD", "its password"),
        ("DECIDE_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("AGENT_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("TWILIO_AUTH_TOKEN", "token"),
        ("OPENAI_API_KEY", "key"),
        ("TOOLS_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("EVENTS_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ])
}

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn problems_of(text: &str) -> Option<String> {
    Config::parse(text, "patchcord.toml", &example_environment()).err().map(|errors| errors.to_string())
}

/// A small good configuration in which `lines` stand in `section`, instead of the same keys there.
fn with(section: &str, lines: &str) -> String {
    let mut text = String::new();
    let usual = [
        ("http", "[http]", ""),
        ("media", "[media]", ""),
        ("whatsapp", "[whatsapp]", "verify_token = \"word\"\napp_secrets = [\"secret\"]"),
        (
            "number",
            "[[whatsapp.numbers]]",
            "phone_number_id = \"200000000000002\"\naccess_token = { env = \"WHATSAPP_TOKEN\" }\nroute = \"reception\"",
        ),
        ("route", "[routes.reception]", "agent = \"ws://127.0.0.1:9000/call\""),
    ];
    for (name, header, usual) in usual {
        let replaced = if name == section { lines } else { "" };
        let is_replaced = |line: &&str| !replaced.starts_with(&line[..=line.find('=').unwrap_or(0)]);
        let usual: Vec<&str> = usual.lines().filter(is_replaced).collect();
        text += &format!("{header}\n{}\n{replaced}\n", usual.join("\n"));
    }
    if !section.is_empty() && usual.iter().all(|(name, ..)| *name != section) {
        text += &format!("[{section}]\n{lines}\n");
    }
    text
}

fn shown(targets: &[AgentTarget]) -> Vec<String> {
    targets.iter().map(AgentTarget::shown).collect()
}

/// The example with every commented-out key switched on.
fn switched_on(example: &str) -> String {
    let is_key = |line: &str| {
        line.split_once(" = ").is_some_and(|(key, _)| {
            key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        })
    };
    let is_header = |line: &str| line.starts_with('[') && line.ends_with(']');
    let switch_on = |line| match str::strip_prefix(line, "# ") {
        Some(rest) if is_key(rest) || is_header(rest) => rest,
        _ => line,
    };
    example.lines().map(switch_on).collect::<Vec<_>>().join("\n")
}

/// Whether a key such as `whatsapp.numbers[].route` or `routes.*.agent` is in the table.
fn is_shown(table: &Table, key: &str) -> bool {
    let steps = key.replace("[]", ".[]");
    has(&toml::Value::Table(table.clone()), &steps.split('.').collect::<Vec<_>>())
}

fn has(value: &toml::Value, steps: &[&str]) -> bool {
    let Some((step, rest)) = steps.split_first() else { return true };
    match (*step, value) {
        ("[]", toml::Value::Array(items)) => items.iter().any(|item| has(item, rest)),
        ("*", toml::Value::Table(table)) => table.values().any(|value| has(value, rest)),
        (step, toml::Value::Table(table)) => table.get(step).is_some_and(|value| has(value, rest)),
        _ => false,
    }
}
