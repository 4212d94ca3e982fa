//! The TLS settings of SIP, from PEM files.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// For connections that we open, to phones with a certificate of these authorities.
pub fn client(ca: &Path) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).context("an authority cannot be used")?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// For `tls:` listeners.
pub fn server(cert: &Path, key: &Path) -> anyhow::Result<ServerConfig> {
    let certificates = certificates(cert)?;
    let key = PrivateKeyDer::from_pem_file(key).context("the key cannot be read")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    config.with_no_client_auth().with_single_cert(certificates, key).context("certificate and key do not fit")
}

/// All certificates of a PEM file; at least one.
pub(crate) fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).context("the file cannot be read")?.collect();
    let certificates = certificates.context("a certificate cannot be read")?;
    anyhow::ensure!(!certificates.is_empty(), "the file holds no certificate");
    Ok(certificates)
}
