//! Keys in a folder: the key service of a single machine, and of development.
//!
//! ```text
//! <folder>/master.key                        32 random bytes
//! <folder>/<silo>/<opaque>.v<N>.kek          a wrapping key, sealed
//! <folder>/<silo>/<opaque>.s<N>.sig          an Ed25519 seed, sealed
//! <folder>/<silo>/<opaque>.v<N>.disabled     empty: the version is switched off; remove the file to switch it on
//! <folder>/<silo>/<opaque>.v<N>.destroyed    empty: the version is gone, and its number with it
//! ```
//!
//! Sealed is `nonce (12) | ciphertext (32) | tag (16)`: AES-256-GCM under the master key, AAD = the key id's text.
//! Test vector: master key `00 01 .. 1f`, key `kms://local/0a/v1` with bytes `20 21 .. 3f`, nonce `00 01 .. 0b` gives
//! `000102030405060708090a0b6723f438e1c0e43ca568bda09dc45642b3e7
//! b507c44e694b005edfbe21543e8d8c6c49c66c77d0e2cb145f97eaf17bf7`.
//!
//! Folders are made with mode 0700 and files with 0600. A file comes into being complete or not at all, and only once:
//! it is written and synced under a temporary name and then hard-linked, so that two processes that start at the same
//! time agree on one master key.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use ed25519_dalek::{Signer, SigningKey};
use zeroize::Zeroizing;

use super::owner_files::{create_file, exists, make_folder, read_exactly, sync_parent};
use super::{
    KEY_LEN, KeyError, KeyId, Kms, SEALED_KEY_LEN, SecretKey, SigningKeyId, open_key, seal_key,
};
use crate::clock::{self, Random};
use crate::ids::SiloId;

const MASTER_KEY_FILE: &str = "master.key";
/// How many numbers a rotation tries when others rotate at the same time.
const ROTATIONS_MAX: u64 = 64;

/// A [`Kms`] over a local folder.
#[derive(Debug)]
pub struct LocalKms(Arc<Folder>);

/// The folder; its methods block on the disk.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    master: SecretKey,
    random: Arc<dyn Random>,
}

impl LocalKms {
    /// Opens the folder; on first start makes it, and the master key in it.
    pub fn open(folder: &Path, random: Arc<dyn Random>) -> Result<Self, KeyError> {
        make_folder(folder)?;
        let master_path = folder.join(MASTER_KEY_FILE);
        let master = match read_master(&master_path)? {
            Some(master) => master,
            None if holds_keys(folder)? => {
                return Err(KeyError::unavailable(
                    "the master key is missing beside keys that were made under it: bring it back",
                ));
            }
            None => {
                let fresh = SecretKey::random(&*random);
                create_file(&master_path, fresh.expose(), &*random)?;
                // Read back also when it is ours: what counts is what the other processes will find.
                read_master(&master_path)?.ok_or(KeyError::Unknown)?
            }
        };
        // Another process may have linked the key just now; what is made under it must not outlive it.
        sync_parent(&master_path).map_err(KeyError::unavailable)?;
        Ok(Self(Arc::new(Folder {
            path: folder.to_owned(),
            master,
            random,
        })))
    }

    /// Runs one blocking step where it may block.
    async fn run<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Folder) -> Result<T, KeyError> + Send + 'static,
    ) -> Result<T, KeyError> {
        let folder = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || step(&folder))
            .await
            .map_err(KeyError::unavailable)?
    }
}

#[async_trait]
impl Kms for LocalKms {
    async fn create(&self, silo: &SiloId) -> Result<KeyId, KeyError> {
        let silo = silo.clone();
        self.run(move |folder| {
            let id = KeyId::new(&silo, &folder.fresh_opaque(), 1);
            folder.create_key(&folder.kek_path(&id), id.as_str())?;
            Ok(id)
        })
        .await
    }

    async fn wrap(&self, key: &KeyId, aad: &[u8], secret: &SecretKey) -> Result<Vec<u8>, KeyError> {
        let id = key.clone();
        let kek = self.run(move |folder| folder.kek(&id)).await?;
        Ok(seal_key(&kek, &*self.0.random, aad, secret)?)
    }

    async fn unwrap(&self, key: &KeyId, aad: &[u8], wrapped: &[u8]) -> Result<SecretKey, KeyError> {
        let id = key.clone();
        let kek = self.run(move |folder| folder.kek(&id)).await?;
        Ok(open_key(&kek, aad, wrapped)?)
    }

    async fn rotate(&self, key: &KeyId) -> Result<KeyId, KeyError> {
        let id = key.clone();
        self.run(move |folder| folder.rotate(&id)).await
    }

    async fn disable(&self, key: &KeyId) -> Result<(), KeyError> {
        let id = key.clone();
        self.run(move |folder| {
            folder.check_exists(&id)?;
            folder.mark(&folder.marker_path(&id, "disabled"))
        })
        .await
    }

    async fn destroy(&self, key: &KeyId) -> Result<(), KeyError> {
        let id = key.clone();
        self.run(move |folder| folder.destroy(&id)).await
    }

    async fn probe(&self) -> Result<(), KeyError> {
        self.run(Folder::probe).await
    }

    async fn create_signing(&self, silo: &SiloId) -> Result<SigningKeyId, KeyError> {
        let silo = silo.clone();
        self.run(move |folder| {
            let id = SigningKeyId::new(&silo, &folder.fresh_opaque(), 1);
            folder.create_key(&folder.seed_path(&id), id.as_str())?;
            Ok(id)
        })
        .await
    }

    async fn rotate_signing(&self, key: &SigningKeyId) -> Result<SigningKeyId, KeyError> {
        let id = key.clone();
        self.run(move |folder| {
            let next = |version| {
                let next = SigningKeyId::new(id.silo(), id.opaque(), version);
                (folder.seed_path(&next), next.to_string(), next)
            };
            folder.next_version(id.silo(), id.opaque(), &SEED, next)
        })
        .await
    }

    async fn sign(&self, key: &SigningKeyId, message: &[u8]) -> Result<[u8; 64], KeyError> {
        let id = key.clone();
        let key = self.run(move |folder| folder.signing_key(&id)).await?;
        Ok(key.sign(message).to_bytes())
    }

    async fn public_key(&self, key: &SigningKeyId) -> Result<[u8; 32], KeyError> {
        let id = key.clone();
        let key = self.run(move |folder| folder.signing_key(&id)).await?;
        Ok(key.verifying_key().to_bytes())
    }
}

impl Folder {
    fn fresh_opaque(&self) -> String {
        format!("{:032x}", u128::from_le_bytes(clock::array(&*self.random)))
    }

    // The grammar of key ids keeps these paths inside the folder: no part begins with a dot or holds a slash.
    fn kek_path(&self, id: &KeyId) -> PathBuf {
        self.marker_path(id, "kek")
    }

    fn marker_path(&self, id: &KeyId, extension: &str) -> PathBuf {
        let name = format!("{}.v{}.{extension}", id.opaque(), id.version());
        self.path.join(id.silo().as_str()).join(name)
    }

    fn seed_path(&self, id: &SigningKeyId) -> PathBuf {
        let name = format!("{}.s{}.sig", id.opaque(), id.version());
        self.path.join(id.silo().as_str()).join(name)
    }

    /// Makes a fresh sealed key; `false` if there is a file of that name.
    fn create_key(&self, path: &Path, id: &str) -> Result<bool, KeyError> {
        if let Some(silo_folder) = path.parent() {
            make_folder(silo_folder)?;
            sync_parent(silo_folder).map_err(KeyError::unavailable)?;
        }
        let key = SecretKey::random(&*self.random);
        let sealed = seal_key(&self.master, &*self.random, id.as_bytes(), &key)?;
        create_file(path, &sealed, &*self.random)
    }

    fn mark(&self, path: &Path) -> Result<(), KeyError> {
        create_file(path, &[], &*self.random).map(|_| ())
    }

    fn check_exists(&self, id: &KeyId) -> Result<(), KeyError> {
        if exists(&self.marker_path(id, "destroyed"))? {
            Err(KeyError::Destroyed)
        } else if exists(&self.kek_path(id))? {
            Ok(())
        } else {
            Err(KeyError::Unknown)
        }
    }

    fn kek(&self, id: &KeyId) -> Result<SecretKey, KeyError> {
        self.check_exists(id)?;
        if exists(&self.marker_path(id, "disabled"))? {
            return Err(KeyError::Disabled);
        }
        self.read_sealed(&self.kek_path(id), id.as_str())
    }

    fn signing_key(&self, id: &SigningKeyId) -> Result<SigningKey, KeyError> {
        let seed = self.read_sealed(&self.seed_path(id), id.as_str())?;
        Ok(SigningKey::from_bytes(seed.expose()))
    }

    fn read_sealed(&self, path: &Path, id: &str) -> Result<SecretKey, KeyError> {
        let mut sealed = [0; SEALED_KEY_LEN];
        if !read_exactly(path, &mut sealed)? {
            return Err(KeyError::Unknown);
        }
        open_key(&self.master, id.as_bytes(), &sealed).map_err(|_| KeyError::Malformed)
    }

    fn rotate(&self, id: &KeyId) -> Result<KeyId, KeyError> {
        let next = |version| {
            let next = KeyId::new(id.silo(), id.opaque(), version);
            (self.kek_path(&next), next.to_string(), next)
        };
        self.next_version(id.silo(), id.opaque(), &KEK, next)
    }

    /// Makes the version after the newest; `next` says where a version lies, and what it is called.
    fn next_version<Id>(
        &self,
        silo: &SiloId,
        opaque: &str,
        files: &Files,
        next: impl Fn(u64) -> (PathBuf, String, Id),
    ) -> Result<Id, KeyError> {
        let newest = self.newest_version(silo, opaque, files)?;
        for version in (newest..)
            .skip(1)
            .take_while(|version| version - newest <= ROTATIONS_MAX)
        {
            let (path, name, id) = next(version);
            if self.create_key(&path, &name)? {
                return Ok(id);
            }
        }
        Err(KeyError::unavailable(
            "too many rotations of one key at a time",
        ))
    }

    /// The highest version there is or was, destroyed ones among them: a number never comes back.
    fn newest_version(&self, silo: &SiloId, opaque: &str, files: &Files) -> Result<u64, KeyError> {
        let mut newest = None;
        let folder = self.path.join(silo.as_str());
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(KeyError::Unknown),
            Err(error) => return Err(KeyError::unavailable(error)),
        };
        for entry in entries {
            let name = entry.map_err(KeyError::unavailable)?.file_name();
            let version = name.to_str().and_then(|name| files.version(name, opaque));
            newest = newest.max(version);
        }
        newest.ok_or(KeyError::Unknown)
    }

    /// The mark comes first: whatever interrupts the rest, the key is refused from here on, and a second call finishes.
    fn destroy(&self, id: &KeyId) -> Result<(), KeyError> {
        let (path, mark) = (self.kek_path(id), self.marker_path(id, "destroyed"));
        if !exists(&path)? && !exists(&mark)? {
            return Err(KeyError::Unknown);
        }
        self.mark(&mark)?;
        let mut file = match OpenOptions::new().write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(KeyError::unavailable(error)),
        };
        let noise: [u8; SEALED_KEY_LEN] = clock::array(&*self.random);
        file.write_all(&noise)
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::remove_file(&path))
            .and_then(|()| sync_parent(&path))
            .map_err(KeyError::unavailable)
    }

    fn probe(&self) -> Result<(), KeyError> {
        match read_master(&self.path.join(MASTER_KEY_FILE))? {
            Some(master) if master == self.master => Ok(()),
            Some(_) => Err(KeyError::Malformed),
            None => Err(KeyError::Unknown),
        }
    }
}

/// Whether keys lie in the folder of any silo. A new master key would open none of them.
fn holds_keys(folder: &Path) -> Result<bool, KeyError> {
    for entry in fs::read_dir(folder).map_err(KeyError::unavailable)? {
        let path = entry.map_err(KeyError::unavailable)?.path();
        let silo = path.is_dir().then(|| fs::read_dir(&path)).transpose();
        if silo
            .map_err(KeyError::unavailable)?
            .is_some_and(|mut inside| inside.next().is_some())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read_master(path: &Path) -> Result<Option<SecretKey>, KeyError> {
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    if read_exactly(path, &mut bytes[..])? {
        Ok(Some(SecretKey::new(*bytes)))
    } else {
        Ok(None)
    }
}

/// How the files of a kind of key are called.
struct Files {
    marker: &'static str,
    extensions: &'static [&'static str],
}

const KEK: Files = Files {
    marker: ".v",
    extensions: &["kek", "destroyed"],
};
const SEED: Files = Files {
    marker: ".s",
    extensions: &["sig"],
};

impl Files {
    /// The version in `<opaque>.v<N>.kek`, `<opaque>.v<N>.destroyed` or `<opaque>.s<N>.sig`.
    fn version(&self, file_name: &str, opaque: &str) -> Option<u64> {
        let rest = file_name.strip_prefix(opaque)?.strip_prefix(self.marker)?;
        let (version, extension) = rest.split_once('.')?;
        self.extensions
            .contains(&extension)
            .then(|| crate::ids::parse_version(version))
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::clock::SystemRandom;
    use crate::keys::contract;

    fn open(folder: &Path) -> Result<LocalKms, KeyError> {
        LocalKms::open(folder, Arc::new(SystemRandom))
    }

    fn silo() -> SiloId {
        SiloId::parse("local").unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    /// Writes a file as whoever has the folder could.
    fn plant(path: &Path, bytes: &[u8], mode: u32) {
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test]
    async fn the_contract_holds() {
        let parent = tempfile::tempdir().unwrap();
        contract::check(&open(&parent.path().join("deeper/keys")).unwrap()).await;
    }

    #[tokio::test]
    async fn the_files_have_the_bytes_of_the_vector() {
        let folder = tempfile::tempdir().unwrap();
        let counting =
            |first: u8| std::array::from_fn(|index| first + u8::try_from(index).unwrap());
        plant(&folder.path().join("master.key"), &counting(0), 0o600);
        let sealed = "000102030405060708090a0b6723f438e1c0e43ca568bda09dc45642b3e7b507c44e694b005edfbe21543e8d8c6c49c66c77d0e2cb145f97eaf17bf7";
        let sealed: Vec<u8> = (0..sealed.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&sealed[at..at + 2], 16).unwrap())
            .collect();
        fs::create_dir(folder.path().join("local")).unwrap();
        plant(&folder.path().join("local/0a.v1.kek"), &sealed, 0o600);
        let kms = open(folder.path()).unwrap();
        let id = KeyId::parse("kms://local/0a/v1").unwrap();
        let wrapped = kms
            .wrap(&id, b"aad", &SecretKey::new([7; 32]))
            .await
            .unwrap();
        let kek = SecretKey::new(counting(0x20));
        assert_eq!(
            open_key(&kek, b"aad", &wrapped).unwrap(),
            SecretKey::new([7; 32])
        );
        // Under another name the same bytes are no key.
        plant(&folder.path().join("local/0b.v1.kek"), &sealed, 0o600);
        let other = KeyId::parse("kms://local/0b/v1").unwrap();
        let outcome = kms.wrap(&other, b"aad", &kek).await;
        assert!(matches!(outcome, Err(KeyError::Malformed)));
    }

    #[tokio::test]
    async fn keys_survive_a_restart_and_belong_to_their_master() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("keys");
        let kms = open(&folder).unwrap();
        let id = kms.create(&silo()).await.unwrap();
        let wrapped = kms.wrap(&id, b"", &SecretKey::new([7; 32])).await.unwrap();
        let again = open(&folder).unwrap();
        assert_eq!(
            again.unwrap(&id, b"", &wrapped).await.unwrap(),
            SecretKey::new([7; 32])
        );
        plant(&folder.join(MASTER_KEY_FILE), &[9; 32], 0o600);
        assert!(matches!(kms.probe().await, Err(KeyError::Malformed)));
        let foreign = open(&folder).unwrap().unwrap(&id, b"", &wrapped).await;
        assert!(matches!(foreign, Err(KeyError::Malformed)));
        fs::remove_file(folder.join(MASTER_KEY_FILE)).unwrap();
        assert!(matches!(kms.probe().await, Err(KeyError::Unknown)));
    }

    #[test]
    fn many_first_starts_make_one_master_key() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("keys");
        let masters: Vec<SecretKey> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..16)
                .map(|_| scope.spawn(|| open(&folder).unwrap()))
                .collect();
            let opened = starts.into_iter().map(|start| start.join().unwrap());
            opened
                .map(|kms| SecretKey::new(*kms.0.master.expose()))
                .collect()
        });
        assert!(masters.iter().all(|master| *master == masters[0]));
        let files = fs::read_dir(&folder).unwrap().count();
        assert_eq!(files, 1, "no temporary file is left");
    }

    #[tokio::test]
    async fn folders_and_files_are_the_owners_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("keys");
        let kms = open(&folder).unwrap();
        let id = kms.create(&silo()).await.unwrap();
        let kek = kms.0.kek_path(&id);
        assert_eq!((mode(&folder), mode(&folder.join("local"))), (0o700, 0o700));
        assert_eq!(
            (mode(&folder.join("master.key")), mode(&kek)),
            (0o600, 0o600)
        );
        fs::set_permissions(&kek, fs::Permissions::from_mode(0o640)).unwrap();
        let outcome = kms.wrap(&id, b"", &SecretKey::new([7; 32])).await;
        assert!(matches!(outcome, Err(KeyError::Exposed)));
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(open(&folder), Err(KeyError::Exposed)));
    }

    #[tokio::test]
    async fn destruction_overwrites_unlinks_and_can_be_resumed() {
        let parent = tempfile::tempdir().unwrap();
        let kms = open(&parent.path().join("keys")).unwrap();
        let id = kms.create(&silo()).await.unwrap();
        let path = kms.0.kek_path(&id);
        // A second link shows what became of the bytes.
        let witness = parent.path().join("witness");
        fs::hard_link(&path, &witness).unwrap();
        let before = fs::read(&witness).unwrap();
        kms.0.mark(&kms.0.marker_path(&id, "destroyed")).unwrap();
        let outcome = kms.wrap(&id, b"", &SecretKey::new([7; 32])).await;
        assert!(
            matches!(outcome, Err(KeyError::Destroyed)),
            "the mark alone is enough"
        );
        kms.destroy(&id).await.unwrap();
        assert!(!path.exists());
        assert_ne!(fs::read(&witness).unwrap(), before);
    }

    #[tokio::test]
    async fn racing_rotations_make_different_versions() {
        let parent = tempfile::tempdir().unwrap();
        let kms = open(&parent.path().join("keys")).unwrap();
        let id = kms.create(&silo()).await.unwrap();
        let rotated = futures::future::join_all((0..8).map(|_| kms.rotate(&id))).await;
        let mut versions: Vec<u64> = rotated
            .into_iter()
            .map(|id| id.unwrap().version())
            .collect();
        versions.sort_unstable();
        assert_eq!(versions, (2..=9).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn torn_files_are_malformed() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("keys");
        let kms = open(&folder).unwrap();
        let id = kms.create(&silo()).await.unwrap();
        plant(&kms.0.kek_path(&id), &[0; 59], 0o600);
        let outcome = kms.wrap(&id, b"", &SecretKey::new([7; 32])).await;
        assert!(matches!(outcome, Err(KeyError::Malformed)));
        plant(&folder.join(MASTER_KEY_FILE), &[0; 31], 0o600);
        assert!(matches!(open(&folder), Err(KeyError::Malformed)));
    }
}
