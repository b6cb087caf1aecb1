//! Roots: where a store's objects lie, as an operator writes it, checked before anything is opened.
//!
//! | URL | store |
//! |---|---|
//! | `file:///srv/eu` | a folder, through [`FsyncStore`] |
//! | `s3://bucket/prefix` | S3, and what speaks like it |
//! | `az://container/prefix` | Azure blobs |
//! | `gs://bucket/prefix` | Google Cloud Storage |
//! | `memory://name` | the memory of this process, for tests and demonstrations |

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use url::Url;

use super::cloud::{Cloud, Provider};
use super::{Error, FsyncStore};

/// What a container's name may have, in characters.
const CONTAINER_NAME_MIN: usize = 3;
const CONTAINER_NAME_MAX: usize = 63;

/// Why a root is refused. No text holds a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// The URL itself.
    #[error("{0}")]
    Url(&'static str),
    /// A setting that this kind of store does not have.
    #[error("the store has no setting `{name}`")]
    UnknownSetting {
        /// As it was written.
        name: String,
        /// The usual ones.
        usual: &'static [&'static str],
    },
    /// A setting that is missing, or cannot be.
    #[error("the store's setting `{name}` {reason}")]
    Setting {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Where a store's objects lie, and how it is reached.
#[derive(Clone)]
pub struct Root {
    url: Url,
    place: Place,
}

#[derive(Clone)]
enum Place {
    Folder(PathBuf),
    Memory,
    Cloud(Box<Cloud>),
}

impl Root {
    /// A folder of this machine, named by an absolute path. It is made when it is opened.
    ///
    /// # Errors
    /// When the path is relative.
    pub fn folder(path: &Path) -> Result<Self, RootError> {
        let url = Url::from_directory_path(path)
            .map_err(|()| RootError::Url("is not a path of this machine"))?;
        Ok(Self {
            url,
            place: Place::Folder(path.to_path_buf()),
        })
    }

    /// The root that a URL names, with the store's settings by the names that `object_store` gives them. A name that
    /// ends in `_file` reads the setting from a file. What `settings` leave open is taken from `environment`, pairs
    /// of names and values: credentials only if `settings` hold none.
    ///
    /// # Errors
    /// When the URL or a setting cannot be.
    pub fn parse(
        text: &str,
        settings: &BTreeMap<String, String>,
        environment: &[(String, String)],
    ) -> Result<Self, RootError> {
        let url = Url::parse(text).map_err(|_| RootError::Url("is not a URL"))?;
        let provider = match url.scheme() {
            "s3" => Provider::S3,
            "az" => Provider::Azure,
            "gs" => Provider::Google,
            "file" | "memory" => return Self::local(url, settings),
            _ => {
                return Err(RootError::Url(
                    "takes a path or a URL that begins with file://, s3://, az://, gs:// or memory://",
                ));
            }
        };
        if !url.username().is_empty() || url.password().is_some() || url.port().is_some() {
            return Err(RootError::Url(
                "names a bucket or container and a prefix: credentials and endpoints belong in the store's settings",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(RootError::Url("takes no `?` and no `#`"));
        }
        let container = url.host_str().unwrap_or_default();
        check_container(container)?;
        let prefix = object_store::path::Path::from_url_path(url.path().trim_matches('/'))
            .map_err(|_| RootError::Url("has a prefix that is no path"))?;
        let cloud = Cloud::new(provider, container, prefix, settings, environment)?;
        Ok(Self {
            url,
            place: Place::Cloud(Box::new(cloud)),
        })
    }

    fn local(url: Url, settings: &BTreeMap<String, String>) -> Result<Self, RootError> {
        if let Some(name) = settings.keys().next() {
            return Err(RootError::UnknownSetting {
                name: name.clone(),
                usual: &[],
            });
        }
        if url.scheme() == "file" {
            let path = url
                .to_file_path()
                .map_err(|()| RootError::Url("is not a path of this machine"))?;
            return Self::folder(&path);
        }
        Ok(Self {
            url,
            place: Place::Memory,
        })
    }

    /// The URL, for comparing and showing. It holds no credentials.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The folder, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Folder(path) => Some(path),
            Place::Memory | Place::Cloud(_) => None,
        }
    }

    /// Whether everything is gone when the process ends.
    pub fn is_volatile(&self) -> bool {
        matches!(self.place, Place::Memory)
    }

    /// Whether this is the same place as another root.
    pub fn is(&self, other: &Self) -> bool {
        self.holds(other) && other.holds(self)
    }

    /// Whether one of two roots lies in the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.holds(other) || other.holds(self)
    }

    fn holds(&self, other: &Self) -> bool {
        match (&self.place, &other.place) {
            (Place::Folder(one), Place::Folder(other)) => other.starts_with(one),
            (Place::Memory, Place::Memory) => self.url == other.url,
            (Place::Cloud(one), Place::Cloud(other)) => one.holds(other),
            _ => false,
        }
    }

    /// Opens the store. A folder is made when it is absent; what is beyond this machine is not talked to yet.
    ///
    /// # Errors
    /// When the folder cannot be used, or the store's client refuses its settings.
    pub fn open(&self) -> Result<Arc<dyn ObjectStore>, Error> {
        match &self.place {
            Place::Folder(path) => Ok(Arc::new(FsyncStore::open(path)?)),
            Place::Memory => Ok(Arc::new(InMemory::new())),
            Place::Cloud(cloud) => cloud.open().map_err(|_| Error::Malformed {
                what: "the store's client refuses its settings or credentials",
            }),
        }
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Root").field(&self.url.as_str()).finish()
    }
}

fn check_container(name: &str) -> Result<(), RootError> {
    let good = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
    };
    if (CONTAINER_NAME_MIN..=CONTAINER_NAME_MAX).contains(&name.len()) && name.bytes().all(good) {
        Ok(())
    } else {
        Err(RootError::Url(
            "needs the name of a bucket or container after `://`: 3 to 63 of a-z, 0-9, `.`, `-`, `_`",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        settings(pairs).into_iter().collect()
    }

    fn root(url: &str, pairs: &[(&str, &str)]) -> Root {
        Root::parse(url, &settings(pairs), &[]).unwrap()
    }

    #[track_caller]
    fn refused(url: &str, pairs: &[(&str, &str)], expected: &str) {
        let error = Root::parse(url, &settings(pairs), &[]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
        for value in pairs.iter().map(|(_, value)| value) {
            assert!(value.len() < 5 || !text.contains(value), "{text}");
        }
    }

    #[tokio::test]
    async fn every_scheme_is_a_store() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("new/silo");
        assert!(Root::folder(&below).unwrap().open().is_ok());
        assert!(below.is_dir());
        let key = [("account_name", "acme"), ("account_key", "a2V5")];
        for root in [
            root("memory://eu", &[]),
            root("s3://bucket/a/b", &[("region", "eu-central-1")]),
            root("az://container", &key),
            root("gs://bucket/prefix/", &[("skip_signature", "true")]),
        ] {
            assert!(root.open().is_ok(), "{root:?}");
        }
    }

    #[test]
    fn urls_that_are_no_place_are_refused() {
        refused("ftp://host/x", &[], "begins with file://");
        refused("s3://", &[], "name of a bucket");
        refused("s3://ab", &[], "name of a bucket");
        refused("s3://Bucket", &[], "name of a bucket");
        refused("s3://key:secret@bucket/x", &[], "credentials");
        refused("s3://bucket:9000/x", &[], "endpoints");
        refused("az://container/x?sig=abc", &[], "no `?`");
        refused("az://container/x", &[], "account_name");
        refused("s3://bucket/a//b", &[], "no path");
    }

    #[test]
    fn settings_are_checked_and_never_told() {
        let with = |pairs: &[(&str, &str)], expected: &str| refused("s3://bucket", pairs, expected);
        with(&[("regin", "eu-west-1")], "`regin`");
        with(&[("bucket", "another")], "`bucket`");
        with(&[("conditional_put", "disabled")], "`conditional_put`");
        with(&[("access_key_id", "AKIAEXAMPLE")], "`secret_access_key`");
        with(&[("allow_http", "perhaps")], "`allow_http`");
        with(&[("endpoint", "no url at all")], "`endpoint`");
        with(&[("endpoint", "http://127.0.0.1:9000")], "`allow_http`");
        with(&[("endpoint", "https://me:secret@host")], "`endpoint`");
        with(
            &[("region", "here-1"), ("aws_region", "there-1")],
            "given twice",
        );
        with(
            &[("secret_access_key_file", "/no/such/file")],
            "`secret_access_key_file`",
        );
        refused("memory://eu", &[("region", "x")], "`region`");
        refused(
            "az://container",
            &[("account_name", "acme"), ("account_key", "not base64!")],
            "`account_key`",
        );
    }

    #[test]
    fn the_environment_fills_what_is_left_open() {
        let ambient = environment(&[
            ("AWS_ACCESS_KEY_ID", "ambient-id"),
            ("AWS_SECRET_ACCESS_KEY", "ambient-secret"),
            ("AWS_SESSION_TOKEN", "ambient-token"),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_BUCKET", "elsewhere"),
            ("AWS_EXECUTION_ENV", "lambda"),
            ("AZURE_STORAGE_ACCOUNT_NAME", "acme"),
        ]);
        let shown = |settings: &BTreeMap<String, String>| -> Vec<String> {
            let root = Root::parse("s3://bucket", settings, &ambient).unwrap();
            match root.place {
                Place::Cloud(cloud) => cloud.names().into_iter().map(str::to_owned).collect(),
                _ => unreachable!("a cloud"),
            }
        };
        assert_eq!(
            shown(&settings(&[])),
            [
                "aws_access_key_id",
                "aws_region",
                "aws_secret_access_key",
                "aws_session_token"
            ]
        );
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "own-secret\n").unwrap();
        let own = settings(&[
            ("access_key_id", "own-id"),
            ("secret_access_key_file", secret.to_str().unwrap()),
        ]);
        assert_eq!(
            shown(&own),
            ["aws_access_key_id", "aws_region", "aws_secret_access_key"],
            "another identity's token does not go with these keys"
        );
        assert!(Root::parse("az://container", &settings(&[]), &ambient).is_ok());
    }

    #[test]
    fn secrets_are_not_shown() {
        let own = [
            ("access_key_id", "own-id"),
            ("secret_access_key", "own-secret"),
        ];
        let root = root("s3://bucket/x", &own);
        assert_eq!(format!("{root:?}"), "Root(\"s3://bucket/x\")");
    }

    #[test]
    fn places_overlap_or_not() {
        let endpoint = [("endpoint", "https://s3.example")];
        let account = |name| {
            root(
                "az://data",
                &[("account_name", name), ("account_key", "a2V5")],
            )
        };
        let folder = |path: &str| Root::folder(Path::new(path)).unwrap();
        for (one, other, overlap) in [
            (folder("/srv/eu"), folder("/srv/eu/"), true),
            (folder("/srv/eu"), folder("/srv/eu/us"), true),
            (folder("/srv/eu"), folder("/srv/eu-2"), false),
            (
                root("s3://bucket/eu", &[]),
                root("s3://bucket/eu/", &[]),
                true,
            ),
            (root("s3://bucket", &[]), root("s3://bucket/eu", &[]), true),
            (
                root("s3://bucket/eu", &[]),
                root("s3://bucket/eu2", &[]),
                false,
            ),
            (
                root("s3://bucket", &[]),
                root("s3://bucket", &endpoint),
                false,
            ),
            (root("s3://bucket", &[]), root("gs://bucket", &[]), false),
            (account("acme"), account("globex"), false),
            (account("acme"), account("acme"), true),
            (root("memory://a", &[]), root("memory://a", &[]), true),
            (root("memory://a", &[]), root("memory://b", &[]), false),
        ] {
            assert_eq!(one.overlaps(&other), overlap, "{one:?} {other:?}");
            assert_eq!(other.overlaps(&one), overlap, "{one:?} {other:?}");
        }
        assert!(folder("/srv/eu").is(&folder("/srv/eu/")));
        assert!(!folder("/srv").is(&folder("/srv/eu")));
    }
}
