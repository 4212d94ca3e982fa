//! The TLS settings of agents: the system's authorities, or a route's own, and the certificate that proves that it is us.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_platform_verifier::BuilderVerifierExt;

use crate::sip::tls::certificates;

/// PEM files of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentTlsFiles {
    /// Our certificate, with the intermediate ones behind it, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The authorities of the agents, if they are not the system's.
    pub ca: Option<PathBuf>,
}

/// For agents that want no certificate of ours and have one of the system's authorities.
pub fn usual() -> anyhow::Result<ClientConfig> {
    Ok(builder()?.with_platform_verifier().context("the system's certificates")?.with_no_client_auth())
}

impl AgentTlsFiles {
    /// Reads the files. The error names the key.
    pub fn read(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let builder = match &self.ca {
            None => builder()?.with_platform_verifier().context("the system's certificates")?,
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                let read = certificates(ca).and_then(|authorities| {
                    authorities.into_iter().try_for_each(|one| roots.add(one).context("an authority cannot be used"))
                });
                read.with_context(|| format!("agent_tls.ca = {ca:?}"))?;
                builder()?.with_root_certificates(roots)
            }
        };
        let Some((cert, key)) = &self.identity else { return Ok(Arc::new(builder.with_no_client_auth())) };
        let chain = certificates(cert).with_context(|| format!("agent_tls.cert = {cert:?}"))?;
        let private = PrivateKeyDer::from_pem_file(key);
        // The library's text may hold a line of the file.
        let private = private.map_err(|_| anyhow::anyhow!("agent_tls.key = {key:?}: the key cannot be read"))?;
        let config = builder.with_client_auth_cert(chain, private);
        let config = config
            .with_context(|| format!("agent_tls.cert = {cert:?}, key = {key:?}: certificate and key do not fit"))?;
        Ok(Arc::new(config))
    }
}

fn builder() -> anyhow::Result<ConfigBuilder<ClientConfig, WantsVerifier>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().context("TLS")
}
