//! What the silos' listeners identify themselves by, and whom they let in without it: `[tls]`.

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

/// Without TLS nobody is served who is not on this machine, unless that was asked for.
pub(super) fn check(config: &Config, plaintext: bool) -> Result<(), Error> {
    let silos = config.silos.iter().flat_map(|silo| {
        let setting = |name: &str| format!("silos.{}.{name}", silo.id);
        [
            (setting("flight"), silo.flight),
            (setting("http"), silo.http),
        ]
    });
    let mut open: Vec<_> = silos.filter(|_| config.tls.is_none()).collect();
    open.push(("admin.listen".to_owned(), config.admin));
    let outside = open
        .into_iter()
        .find(|(_, address)| !address.ip().is_loopback());
    match outside {
        Some((setting, _)) if !plaintext && setting == "admin.listen" => Err(refused(
            setting,
            "health and metrics are served without TLS: listen on loopback, or set tls.plaintext = true",
        )),
        Some((setting, _)) if !plaintext => Err(refused(
            setting,
            "other machines would be served without TLS: set tls.certificate and tls.key, or tls.plaintext = true where \
             TLS ends in front of this server",
        )),
        _ => Ok(()),
    }
}
