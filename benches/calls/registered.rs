//! A thousand registered SIP phones that nobody calls, each over a TCP connection of its own, which costs more than
//! datagrams do.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use patchcord_simulator::sip_phone::{DigestHash, SipAccount, SipMessage, SipPhone, SipPhoneOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::machine;
use crate::meta;
use crate::service::{Service, ServiceOptions};
use crate::table::{Goal, Table};

const PHONES: usize = 1000;
const PHONES_OF_A_USER: usize = 10;
/// All come from one address, whose requests are dropped beyond a rate.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);
const TRIES: usize = 20;
const SETTLE: Duration = Duration::from_secs(2);
const WATCHED: Duration = Duration::from_secs(10);

/// Memory and processor time of the service.
pub async fn idle() -> anyhow::Result<Table> {
    let mut table = Table::default();
    // Free when the service binds it a moment later.
    let server = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let service = Service::start(&options(server)).await?;
    let at_rest = machine::resident_kb(service.process())? / 1e3;
    let phones = register(server).await?;
    tokio::time::sleep(SETTLE).await;
    let used = machine::usage(service.process())?;
    tokio::time::sleep(WATCHED).await;
    let busy = (machine::usage(service.process())? - used).process.as_secs_f64() / WATCHED.as_secs_f64();
    let resident = machine::resident_kb(service.process())? / 1e3;
    table.row(format!("memory of the service, {PHONES} phones over TCP"), resident, "MB", Goal::AtMost(60.0));
    table.row("  before they registered", at_rest, "MB", Goal::Shown);
    table.row("  each phone", (resident - at_rest) * 1e3 / phones.len() as f64, "kB", Goal::Shown);
    table.row("  share of a core while nobody calls", busy * 100.0, "%", Goal::Shown);
    Ok(table)
}

fn options(server: SocketAddr) -> ServiceOptions {
    let users: String = (0..PHONES / PHONES_OF_A_USER)
        .map(|user| format!("[[sip.users]]\nname = \"user{user}\"\npassword = \"{}\"\n", password(user)))
        .collect();
    ServiceOptions {
        // Never dialled.
        graph_url: "http://127.0.0.1:9".to_owned(),
        app_secret: meta::APP_SECRET.to_owned(),
        phone_number_id: meta::PHONE_NUMBER_ID.to_owned(),
        access_token: meta::ACCESS_TOKEN.to_owned(),
        route: "agent = \"sip-user:user0\"".to_owned(),
        sections: format!("[sip]\nlisten = [\"tcp:{server}\"]\nrealm = \"bench\"\n{users}"),
        refuses: false,
    }
}

fn password(user: usize) -> String {
    format!("secret of user{user}")
}

/// The phones' connections, one for each, once all are registered.
async fn register(server: SocketAddr) -> anyhow::Result<Vec<TcpStream>> {
    let phone = SipPhone::start(SipPhoneOptions::default()).await?;
    let mut streams = Vec::new();
    for number in 0..PHONES {
        let user = number / PHONES_OF_A_USER;
        let account = SipAccount {
            server,
            domain: "127.0.0.1".to_owned(),
            name: format!("user{user}"),
            password: password(user),
            hash: DigestHash::Sha256,
        };
        let contact = format!("Contact: <sip:phone{number}@192.0.2.1;transport=tcp>");
        let mut stream = TcpStream::connect(server).await?;
        let challenge = ask(&mut stream, &phone.register_request(&account, &[&contact], None)).await?;
        let proof = account.proof(&challenge, "REGISTER", &format!("sip:{}", account.domain), 1)?;
        let registered = ask(&mut stream, &phone.register_request(&account, &[&contact], Some(&proof))).await?;
        anyhow::ensure!(registered.code() == Some(200), "{registered}");
        streams.push(stream);
    }
    Ok(streams)
}

/// Sends a request until it is answered.
async fn ask(stream: &mut TcpStream, request: &SipMessage) -> anyhow::Result<SipMessage> {
    let request = request.to_string().replace("SIP/2.0/UDP", "SIP/2.0/TCP");
    for _ in 0..TRIES {
        stream.write_all(request.as_bytes()).await?;
        if let Ok(response) = timeout(ANSWERED_WITHIN, response(stream)).await {
            return response;
        }
    }
    anyhow::bail!("no response to {TRIES} requests")
}

async fn response(stream: &mut TcpStream) -> anyhow::Result<SipMessage> {
    let mut inbox = Vec::new();
    loop {
        anyhow::ensure!(stream.read_buf(&mut inbox).await? > 0, "the service closed the stream");
        let text = String::from_utf8_lossy(&inbox);
        // Pings are blank.
        let message = text.trim_start();
        if message.ends_with("\r\n\r\n") {
            return SipMessage::parse(message.as_bytes()).context("a response");
        }
    }
}
