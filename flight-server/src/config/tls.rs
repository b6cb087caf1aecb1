//! What the silos' listeners identify themselves by, and whom they let in without it: `[tls]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::raw::RawTls;
use super::resolved::{absolute, refused};
use super::{Config, Error};

/// The files that TLS is spoken with, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate of this server, and those between it and its root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The roots of clients' certificates: with them, a client without a certificate is not let in.
    pub client_ca: Option<PathBuf>,
}

pub(super) fn resolve(raw: &RawTls) -> Result<Option<Tls>, Error> {
    let path = |setting: &str, path: &Option<String>| {
        let path = path.as_deref();
        path.map(|path| absolute(setting, path)).transpose()
    };
    let certificate = path("tls.certificate", &raw.certificate)?;
    let key = path("tls.key", &raw.key)?;
    let client_ca = path("tls.client_ca", &raw.client_ca)?;
    match (certificate, key, client_ca) {
        (Some(certificate), Some(key), client_ca) => Ok(Some(Tls {
            certificate,
            key,
            client_ca,
        })),
        (None, None, None) => Ok(None),
        (Some(_), None, _) => Err(refused("tls.key", "is missing: a certificate goes with it")),
        (None, ..) => Err(refused("tls.certificate", "is missing")),
    }
}

/// Without TLS nobody is served who is not on this machine, unless that was asked for: of the silos, and of the admin
/// listener, which never has it.
pub(super) fn check(
    config: &Config,
    silos_plaintext: bool,
    admin_plaintext: bool,
) -> Result<(), Error> {
    let outside = |address: &SocketAddr| !address.ip().is_loopback();
    let mut silos = config.silos.iter().flat_map(|silo| {
        let setting = |name: &str| format!("silos.{}.{name}", silo.id);
        [
            (setting("flight"), silo.flight),
            (setting("http"), silo.http),
        ]
    });
    if silos_plaintext && config.tls.is_some() {
        return Err(refused(
            "tls.plaintext",
            "true goes without a certificate: with one nothing is served in clear",
        ));
    }
    if let Some((setting, _)) = silos.find(|(_, address)| outside(address))
        && config.tls.is_none()
        && !silos_plaintext
    {
        return Err(refused(
            setting,
            "other machines would be served without TLS: set tls.certificate and tls.key, or tls.plaintext = true where \
             TLS ends in front of this server",
        ));
    }
    if outside(&config.admin) && !admin_plaintext {
        return Err(refused(
            "admin.listen",
            "health and metrics are served without TLS: listen on loopback, or set admin.plaintext = true",
        ));
    }
    Ok(())
}
