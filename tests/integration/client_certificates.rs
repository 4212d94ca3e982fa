//! Agents behind TLS that want a certificate of ours, or have one of an authority of their own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use patchcord_simulator::agent::Agent;
use patchcord_simulator::meta::{Meta, MetaOptions};
use patchcord_simulator::model::{Model, ModelScript, Vendor};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::people::{AGENT_HZ, CALLER_HZ, agent, caller, objections, quiet_caller, until_caller_hears};
use crate::program::Program;
use crate::service::{DEADLINE, Folder, TestOptions, TestService};

/// An authority that signs for both sides.
pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> anyhow::Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new(Vec::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = params.self_signed(&key)?.der().clone();
        Ok(Self { issuer: rcgen::Issuer::new(params, key), root })
    }

    /// A certificate for this name, and its key.
    pub fn sign(&self, name: &str) -> anyhow::Result<(CertificateDer<'static>, Vec<u8>)> {
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &self.issuer)?;
        Ok((certificate.der().clone(), key.serialize_der()))
    }
}

fn write_pem(path: &Path, label: &str, der: &[u8]) -> anyhow::Result<()> {
    let text = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der));
    Ok(std::fs::write(path, text)?)
}

/// The files of a route, for a client of this authority.
pub struct Files {
    cert: PathBuf,
    key: PathBuf,
    pub ca: PathBuf,
}

impl Files {
    pub fn in_folder(folder: &Folder) -> Self {
        let [cert, key, ca] = ["client.pem", "client.key", "ca.pem"].map(|name| folder.0.join(name));
        Self { cert, key, ca }
    }

    pub fn write(&self, authority: &Authority) -> anyhow::Result<()> {
        let (certificate, key) = authority.sign("patchcord")?;
        write_pem(&self.cert, "CERTIFICATE", &certificate)?;
        write_pem(&self.key, "PRIVATE KEY", &key)?;
        write_pem(&self.ca, "CERTIFICATE", &authority.root)
    }

    /// The key of the route.
    fn agent_tls(&self) -> String {
        let Self { cert, key, ca } = self;
        format!(
            "agent_tls = {{ cert = \"{}\", key = \"{}\", ca = \"{}\" }}",
            cert.display(),
            key.display(),
            ca.display()
        )
    }
}

/// TLS in front of an agent, which admits clients of this authority alone.
struct Front {
    address: SocketAddr,
    /// How many clients were admitted.
    admitted: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Front {
    /// Of the agent at this ws:// address.
    async fn start(agent: &str, authority: &Authority) -> anyhow::Result<Self> {
        // In a service of this process the provider is installed already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut roots = RootCertStore::empty();
        roots.add(authority.root.clone())?;
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
        let (certificate, key) = authority.sign("localhost")?;
        let config = rustls::ServerConfig::builder().with_client_cert_verifier(verifier);
        let config = config.with_single_cert(vec![certificate], PrivatePkcs8KeyDer::from(key).into())?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let behind = url::Url::parse(agent)?.socket_addrs(|| None)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (admit, admitted) = watch::channel(0);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                admit.send_modify(|count| *count += 1);
                let Ok(mut agent) = TcpStream::connect(&behind[..]).await else { continue };
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut agent).await });
            }
        });
        Ok(Self { address, admitted, task })
    }

    /// By name, as certificates are.
    fn url(&self) -> String {
        format!("wss://localhost:{}/call", self.address.port())
    }

    async fn wait_for_admitted(&self, count: usize) -> anyhow::Result<()> {
        let mut admitted = self.admitted.clone();
        let waited = tokio::time::timeout(DEADLINE, admitted.wait_for(|admitted| *admitted >= count)).await;
        waited.with_context(|| format!("no client number {count}")).map(drop)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_wants_our_certificate_gets_it_and_without_one_it_refuses() -> anyhow::Result<()> {
    let (authority, folder) = (Authority::new()?, Folder::new()?);
    let files = Files::in_folder(&folder);
    files.write(&authority)?;
    let agent = Agent::start(agent()).await?;
    let front = Front::start(&agent.url(), &authority).await?;

    let options = TestOptions { route: files.agent_tls(), ..TestOptions::default() };
    let service = TestService::start_with(&front.url(), options).await?;
    let call = service.call(caller()).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    front.wait_for_admitted(1).await?;
    assert_eq!(objections(&call), [], "{}", call.seen());

    let without = format!("agent_tls = {{ ca = \"{}\" }}\nfallback = [\"prompt:hold\"]", files.ca.display());
    let mut service =
        TestService::start_with(&front.url(), TestOptions { route: without, ..TestOptions::default() }).await?;
    let _call = service.call(quiet_caller()).await?;
    let lost = service.event("call.agent_lost").await?;
    assert_eq!(lost.data["failure"], "refused", "{}", lost.data);
    let told = lost.data["detail"].as_str().unwrap_or_default();
    assert!(told.contains("CertificateRequired"), "{told}");

    // The authority is not one of the system's.
    let fallback = TestOptions { route: "fallback = [\"prompt:hold\"]".to_owned(), ..TestOptions::default() };
    let mut service = TestService::start_with(&front.url(), fallback).await?;
    let _call = service.call(quiet_caller()).await?;
    let lost = service.event("call.agent_lost").await?;
    assert!(lost.data["detail"].as_str().is_some_and(|told| told.starts_with("no TLS connection: ")), "{}", lost.data);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_behind_a_gateway_of_the_operators_is_reached_with_the_routes_files() -> anyhow::Result<()> {
    let (authority, folder) = (Authority::new()?, Folder::new()?);
    let files = Files::in_folder(&folder);
    files.write(&authority)?;
    let key = "key-of-the-vendor".to_owned();
    let script = ModelScript { vendor: Vendor::OpenAi, key, greeting: Vec::new(), speaks_on: Vec::new() };
    let model = Model::start(script).await?;
    let front = Front::start(&model.url(), &authority).await?;
    let model_keys = format!("model = {{ url = \"{}\", key = \"key-of-the-vendor\" }}", front.url());
    let options = TestOptions { route: format!("{}\n{model_keys}", files.agent_tls()), ..TestOptions::default() };
    let service = TestService::start_with("openai-realtime:gpt-realtime", options).await?;
    let call = service.call(caller()).await?;
    front.wait_for_admitted(1).await?;
    model.wait_for_session().await?.wait_for_tone(CALLER_HZ).await?;
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_file_stops_the_start_with_one_line() -> anyhow::Result<()> {
    let (authority, folder) = (Authority::new()?, Folder::new()?);
    let files = Files::in_folder(&folder);
    let told_of = async |cert: &str, key: &str, ca: &str| -> anyhow::Result<String> {
        let path = |name: &str| folder.0.join(name).display().to_string();
        let keys = [("cert", cert), ("key", key), ("ca", ca)].map(|(key, name)| format!("{key} = \"{}\"", path(name)));
        let options = TestOptions { route: format!("agent_tls = {{ {} }}", keys.join(", ")), ..TestOptions::default() };
        let started = TestService::start_with("wss://localhost:1/call", options).await;
        Ok(format!("{:#}", started.err().context("it starts")?).replace(&folder.0.display().to_string(), "DIR"))
    };
    files.write(&authority)?;
    let (_, other_key) = authority.sign("patchcord")?;
    write_pem(&folder.0.join("other.key"), "PRIVATE KEY", &other_key)?;
    std::fs::write(folder.0.join("empty.pem"), "confidential\n")?;
    for (cert, key, ca, told) in [
        ("none.pem", "client.key", "ca.pem", "agent_tls.cert = \"DIR/none.pem\": the file cannot be read"),
        ("empty.pem", "client.key", "ca.pem", "agent_tls.cert = \"DIR/empty.pem\": the file holds no certificate"),
        ("client.pem", "client.pem", "ca.pem", "agent_tls.key = \"DIR/client.pem\": the key cannot be read"),
        ("client.pem", "other.key", "ca.pem", "key = \"DIR/other.key\": certificate and key do not fit"),
        ("client.pem", "client.key", "empty.pem", "agent_tls.ca = \"DIR/empty.pem\": the file holds no certificate"),
    ] {
        let line = told_of(cert, key, ca).await?;
        assert!(line.starts_with("routes.reception: ") && line.contains(told), "{line}");
        assert!(!line.contains('\n') && !line.contains("confidential"), "{line}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_reads_the_files_again_and_wrong_ones_change_nothing() -> anyhow::Result<()> {
    let (authority, folder) = (Authority::new()?, Folder::new()?);
    let files = Files::in_folder(&folder);
    files.write(&authority)?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(agent()).await?;
    let front = Front::start(&agent.url(), &authority).await?;
    let mut program = Program::start(&folder, &meta, &agent, TestOptions::default()).await?;
    let behind_tls = format!("\"{}\"\n{}", front.url(), files.agent_tls());
    program.rewrite_config(|text| text.replace(&format!("\"{}\"", agent.url()), &behind_tls))?;
    program.hang_up()?;
    program.line_with("configuration reloaded").await?;
    let call = meta.place_call(caller()).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    front.wait_for_admitted(1).await?;
    call.hang_up().await?;

    std::fs::remove_file(&files.key)?;
    program.hang_up()?;
    let told = program.line_with("the old one stays in use").await?;
    assert!(told.contains("routes.reception: agent_tls.key = "), "{told}");
    let call = meta.place_call(caller()).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    call.hang_up().await?;

    // Renewed, by another authority that the agent does not know.
    files.write(&Authority::new()?)?;
    write_pem(&files.ca, "CERTIFICATE", &authority.root)?;
    program.hang_up()?;
    program.line_with("configuration reloaded").await?;
    let _call = meta.place_call(quiet_caller()).await?;
    let told = program.line_with("WebSocket upgrade").await?;
    // Both authorities of the test have the same name, so the agent sees a wrong signature.
    assert!(told.contains("received fatal alert: DecryptError"), "{told}");
    Ok(())
}
