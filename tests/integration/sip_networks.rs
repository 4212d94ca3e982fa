//! SIP phones over IPv6, and phones that open a connection of their own to our TCP and TLS listeners.

use std::sync::Arc;

use anyhow::Context;
use patchcord_simulator::sip_phone::{SipAnswer, SipPhone, SipPhoneOptions};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpStream, UdpSocket};

use crate::people::{AGENT_HZ, CALLER_HZ, HOLD_NOTE_HZ, caller, until_caller_hears};
use crate::service::{Folder, TestOptions, TestService};
use crate::sip::{Bridge, one_line, phone, relay, until_phone_hears};

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_is_called_over_ipv6() -> anyhow::Result<()> {
    let phone = SipPhone::start(SipPhoneOptions { ipv6: true, ..phone(SipAnswer::Answer) }).await?;
    let sip = "[sip]\nlisten = [\"udp:[::1]:0\", \"udp:127.0.0.1:0\"]".to_owned();
    let options = TestOptions { sip, ipv6: true, ..TestOptions::default() };
    let mut service = TestService::start_with(&phone.uri(), options).await?;
    let call = service.call(caller()).await?;
    let invite = phone.request("INVITE").await?;
    assert!(invite.header("Contact").is_some_and(|contact| contact.contains("@[::1]:")), "{invite}");
    assert!(invite.body.contains("c=IN IP6 ::1"), "{invite}");
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    until_phone_hears(&phone, &[CALLER_HZ]).await?;
    one_line(&phone).await?;
    assert_eq!(phone.reinvite(&phone.sdp("sendonly")?, "").await?.code(), Some(200));
    until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
    assert_eq!(phone.hang_up().await?, 200);
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_opens_a_connection_for_its_own_requests() -> anyhow::Result<()> {
    // In a service of this process the provider is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    for is_tls in [false, true] {
        let folder = Folder::new()?;
        let certificate = identity(&folder)?;
        let phone = SipPhone::start(phone(SipAnswer::Answer)).await?;
        let bridge = Bridge::start(&phone, None).await?;
        let listen = if is_tls { "tls" } else { "tcp" };
        let sip = format!(
            "[sip]\nlisten = [\"{listen}:127.0.0.1:0\"]\ntls = {{ cert = \"{0}/cert.pem\", key = \"{0}/key.pem\" }}",
            folder.0.display()
        );
        let uri = format!("sip:200@{};transport=tcp", bridge.address);
        let mut service = TestService::start_with(&uri, TestOptions { sip, ..TestOptions::default() }).await?;
        let call = service.call(caller()).await?;
        until_caller_hears(&call, &[AGENT_HZ]).await?;

        let listener = service.app.sip_listening().first().context("it listens")?.address;
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.connect(phone.address()).await?;
        phone.send_to(socket.local_addr()?)?;
        let stream = TcpStream::connect(listener).await?;
        let carrying = match is_tls {
            false => tokio::spawn(async move { relay(stream, socket).await }),
            true => {
                let stream = connector(certificate)?.connect(ServerName::try_from("localhost")?, stream).await?;
                tokio::spawn(async move { relay(stream, socket).await })
            }
        };
        for (direction, heard) in [("sendonly", HOLD_NOTE_HZ), ("sendrecv", AGENT_HZ)] {
            assert_eq!(phone.reinvite(&phone.sdp(direction)?, "").await?.code(), Some(200), "{listen}");
            until_caller_hears(&call, &[heard]).await?;
        }
        assert_eq!(phone.hang_up().await?, 200);
        assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
        carrying.abort();
    }
    Ok(())
}

/// A certificate of ours and its key, in this folder; gives the certificate.
fn identity(folder: &Folder) -> anyhow::Result<CertificateDer<'static>> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    let pem = |kind: &str, der: &[u8]| {
        let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
        format!("-----BEGIN {kind}-----\n{base64}\n-----END {kind}-----\n")
    };
    std::fs::write(folder.0.join("cert.pem"), pem("CERTIFICATE", certificate.der()))?;
    std::fs::write(folder.0.join("key.pem"), pem("PRIVATE KEY", &key.serialize_der()))?;
    Ok(certificate.der().clone())
}

fn connector(authority: CertificateDer<'static>) -> anyhow::Result<tokio_rustls::TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority)?;
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(tokio_rustls::TlsConnector::from(Arc::new(config)))
}
