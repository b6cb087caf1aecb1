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
    /// An address of another kind.
    #[error("`{0}` is no address that can be spoken to: {1} is needed")]
    Scheme(String, &'static str),
    /// An address without TLS, with files for it.
    #[error(
        "`{0}` is spoken to without TLS, so --ca and --certificate would do nothing: {1} is needed"
    )]
    Clear(String, &'static str),
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
        let (scheme, rest) = uri.split_once("://").unwrap_or(("grpc", uri));
        let is_secure = match scheme.to_ascii_lowercase().as_str() {
            "grpc" | "grpc+tcp" | "http" => false,
            "grpc+tls" | "https" => true,
            _ => return Err(Error::Scheme(uri.to_owned(), "grpc:// or grpc+tls://")),
        };
        let failed = |source| Error::Flight(uri.to_owned(), source);
        let scheme = if is_secure { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{rest}")).map_err(failed)?;
        if !is_secure {
            self.nothing_for_tls(uri, "grpc+tls://")?;
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

    /// What a client for HTTP at this address is built from.
    pub(super) fn http(&self, url: &str) -> Result<reqwest::ClientBuilder, Error> {
        let (scheme, _) = url.split_once("://").unwrap_or_default();
        match scheme.to_ascii_lowercase().as_str() {
            "http" => self.nothing_for_tls(url, "https://")?,
            "https" => {}
            _ => return Err(Error::Scheme(url.to_owned(), "http:// or https://")),
        }
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

    /// Files for TLS that no TLS is spoken with are a mistake, and what follows it would go out in clear.
    fn nothing_for_tls(&self, address: &str, wanted: &'static str) -> Result<(), Error> {
        if self.ca.is_some() || self.certificate.is_some() {
            return Err(Error::Clear(address.to_owned(), wanted));
        }
        Ok(())
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
