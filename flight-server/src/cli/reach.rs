//! How commands reach a server: where it is by default, by which roots it is believed, and what it is shown.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use zeroize::Zeroizing;

use crate::config::Config;

/// The files that TLS is spoken with.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Reach {
    /// Root certificates by which the server is believed (PEM); default: those of this system
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The certificate to show to a server that wants one (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate_key")]
    certificate: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate")]
    certificate_key: Option<PathBuf>,
}

/// Why no server can be reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error("`{0}` cannot be read")]
    File(PathBuf, #[source] std::io::Error),
    /// An address, or files that Flight cannot be spoken with.
    #[error("`{0}` cannot be spoken to")]
    Flight(String, #[source] tonic::transport::Error),
    /// Files that HTTP cannot be spoken with.
    #[error("HTTP cannot be spoken")]
    Http(#[source] reqwest::Error),
}

/// The address of a listener of this machine's settings, as a URL.
pub(super) fn url(config: &Config, address: Option<SocketAddr>) -> String {
    let scheme = if config.tls.is_some() {
        "https"
    } else {
        "http"
    };
    address.map_or(String::new(), |address| format!("{scheme}://{address}"))
}

impl Reach {
    /// Whatever is to be connected to for Flight SQL: `http`, `https`, `grpc` or `grpc+tls`.
    pub(super) fn flight(&self, uri: &str) -> Result<Endpoint, Error> {
        let (scheme, rest) = uri.split_once("://").unwrap_or(("http", uri));
        let scheme = match scheme {
            "grpc" | "grpc+tcp" => "http",
            "grpc+tls" => "https",
            other => other,
        };
        let failed = |source| Error::Flight(uri.to_owned(), source);
        let endpoint = Endpoint::from_shared(format!("{scheme}://{rest}")).map_err(failed)?;
        if scheme != "https" {
            return Ok(endpoint);
        }
        let mut tls = ClientTlsConfig::new();
        tls = match &self.ca {
            Some(ca) => tls.ca_certificate(Certificate::from_pem(&*read(ca)?)),
            None => tls.with_native_roots(),
        };
        if let Some((certificate, key)) = self.own() {
            tls = tls.identity(Identity::from_pem(&*read(certificate)?, &*read(key)?));
        }
        endpoint.tls_config(tls).map_err(failed)
    }

    /// What a client for HTTP is built from.
    pub(super) fn http(&self) -> Result<reqwest::ClientBuilder, Error> {
        let mut client = reqwest::Client::builder();
        if let Some(ca) = &self.ca {
            let roots = reqwest::Certificate::from_pem_bundle(&read(ca)?);
            client = client.tls_certs_only(roots.map_err(Error::Http)?);
        }
        if let Some((certificate, key)) = self.own() {
            let mut pem = read(certificate)?;
            pem.push(b'\n');
            pem.extend_from_slice(&read(key)?);
            let own = reqwest::Identity::from_pem(&pem).map_err(Error::Http)?;
            client = client.identity(own);
        }
        Ok(client)
    }

    fn own(&self) -> Option<(&Path, &Path)> {
        self.certificate
            .as_deref()
            .zip(self.certificate_key.as_deref())
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let read = std::fs::read(path).map(Zeroizing::new);
    read.map_err(|error| Error::File(path.to_owned(), error))
}
