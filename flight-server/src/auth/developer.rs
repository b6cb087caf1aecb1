//! The development issuer: tokens for trying things out, signed with a key in the keys folder.
//!
//! The configuration refuses it when any listener is not a loopback address. Its tokens are verified like any others.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use catalog::clock::{Random, Timestamp, array};
use serde_json::Map;

use super::signer::Signer;

/// The `iss` of its tokens.
pub const ISSUER: &str = "trailhouse-developer";
/// The `aud` of its tokens.
pub const AUDIENCE: &str = "trailhouse";

const KEY_FILE: &str = "developer.key";

/// Why the key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system says no.
    #[error("the development key `{}` cannot be read or made", path.display())]
    File {
        /// The key's file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not a key.
    #[error("`{}` is not a development key of 32 bytes", path.display())]
    NotAKey {
        /// The key's file.
        path: PathBuf,
    },
}

/// What a token shall say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRequest {
    /// Who it is about.
    pub subject: String,
    /// The tenant it is for.
    pub tenant: Option<String>,
    /// Roles, e.g. `Audit.Reader`.
    pub roles: Vec<String>,
    /// Scopes, e.g. `audit.write`.
    pub scopes: Vec<String>,
    /// The silo it is bound to.
    pub data_silo: Option<String>,
    /// What it may be used for.
    pub purpose: Option<String>,
    /// The part of the organisation its bearer belongs to.
    pub org_unit: Option<String>,
    /// What the customer has bought.
    pub edition: Option<String>,
}

/// The issuer, holding its signing key.
pub struct Developer {
    signer: Signer,
}

impl std::fmt::Debug for Developer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Developer")
            .field("key_id", &self.key_id())
            .finish_non_exhaustive()
    }
}

impl Developer {
    /// Opens the issuer whose key lies in this folder, making both if they are missing.
    ///
    /// # Errors
    /// When the key cannot be read, or made, or is none.
    pub fn open(keys_folder: &Path, random: &dyn Random) -> Result<Self, Error> {
        let path = keys_folder.join(KEY_FILE);
        let failed = |source| Error::File {
            path: path.clone(),
            source,
        };
        let seed = match read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                make(keys_folder, &path, array(random)).map_err(failed)?;
                // Another process may have been first: what lies there now is the key.
                read(&path).map_err(failed)?
            }
            other => other.map_err(failed)?,
        };
        let seed: [u8; 32] = seed.try_into().map_err(|_| Error::NotAKey { path })?;
        Ok(Self {
            signer: Signer::new(&seed),
        })
    }

    /// The `kid` of its tokens.
    #[must_use]
    pub fn key_id(&self) -> &str {
        self.signer.key_id()
    }

    /// What its tokens verify with.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.signer.public_key()
    }

    /// A token that says this, from now on for this long.
    #[must_use]
    pub fn mint(&self, request: &TokenRequest, lifetime: Duration, now: Timestamp) -> String {
        let seconds = |moment: Timestamp| moment.as_micros() / 1_000_000;
        let mut claims = Map::new();
        claims.insert("iss".to_owned(), ISSUER.into());
        claims.insert("aud".to_owned(), AUDIENCE.into());
        claims.insert("sub".to_owned(), request.subject.clone().into());
        claims.insert("iat".to_owned(), seconds(now).into());
        claims.insert("nbf".to_owned(), seconds(now).into());
        claims.insert("exp".to_owned(), seconds(now.plus(lifetime)).into());
        claims.insert("roles".to_owned(), request.roles.clone().into());
        claims.insert("scope".to_owned(), request.scopes.join(" ").into());
        let optional = [
            ("tenant", &request.tenant),
            ("data_silo", &request.data_silo),
            ("purpose", &request.purpose),
            ("org_unit", &request.org_unit),
            ("edition", &request.edition),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                claims.insert(name.to_owned(), value.clone().into());
            }
        }
        self.signer.sign(&claims)
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes the key beside its place and links it there, so that nobody ever reads half a key.
fn make(folder: &Path, path: &Path, seed: [u8; 32]) -> std::io::Result<()> {
    make_folder(folder)?;
    let draft = folder.join(format!("{KEY_FILE}.{}", uuid::Uuid::now_v7()));
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft)?;
    file.write_all(&seed)?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&draft, path);
    std::fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn make_folder(folder: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

#[cfg(test)]
mod tests {
    use catalog::clock::SeededRandom;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        let first = Developer::open(&keys, &SeededRandom::new(1)).unwrap();
        let second = Developer::open(&keys, &SeededRandom::new(2)).unwrap();
        assert_eq!(first.public_key(), second.public_key());
        assert_eq!(first.key_id(), second.key_id());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&keys), 0o700);
            assert_eq!(mode(&keys.join(KEY_FILE)), 0o600);
        }
        assert_eq!(std::fs::read_dir(&keys).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_key_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(KEY_FILE), b"short").unwrap();
        let opened = Developer::open(folder.path(), &SeededRandom::new(1));
        assert!(matches!(opened, Err(Error::NotAKey { .. })));
    }

    #[test]
    fn debug_output_shows_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let developer = Developer::open(folder.path(), &SeededRandom::new(1)).unwrap();
        let shown = format!("{developer:?}");
        assert!(
            shown.contains(developer.key_id()) && !shown.contains("signing"),
            "{shown}"
        );
    }
}
