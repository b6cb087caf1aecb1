//! Where an issuer's public keys are read from: a file, an address, or wherever the issuer says (OpenID Connect
//! Discovery 1.0, 4).

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncReadExt;
use url::Url;

use crate::config::Jwks;
use crate::limits::{JWKS_BYTES_MAX, JWKS_KEYS_MAX};

const FETCH_TIME_MAX: Duration = Duration::from_secs(5);

/// Why a key set could not be read. Addresses and contents stay out of the texts.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the key file cannot be read")]
    File(#[from] std::io::Error),
    #[error("the key set cannot be fetched")]
    Fetch(#[from] reqwest::Error),
    #[error("the issuer answered with status {0}")]
    Status(u16),
    #[error("the key set is larger than {JWKS_BYTES_MAX} bytes or {JWKS_KEYS_MAX} keys")]
    TooLarge,
    #[error("the key set is not a JWKS")]
    Malformed,
    #[error("the key set holds no key for EdDSA, ES256 or RS256")]
    NoUsableKey,
    #[error("the issuer's discovery document is of another issuer")]
    OtherIssuer,
    #[error("the issuer's discovery document names no `jwks_uri` that can be trusted")]
    NoKeySet,
}

/// A source of keys.
#[derive(Debug)]
pub(super) enum Source {
    File(PathBuf),
    Url {
        url: Url,
        client: reqwest::Client,
    },
    /// The issuer's own document says where, each time anew: an issuer may move its keys.
    Discovery {
        issuer: String,
        document: Url,
        client: reqwest::Client,
    },
}

impl Source {
    /// The source that is configured for this issuer.
    pub(super) fn new(issuer: &str, jwks: &Jwks) -> Result<Self, Error> {
        let client = || {
            reqwest::Client::builder()
                .timeout(FETCH_TIME_MAX)
                // A redirect could lead out of https, or to where this server must not ask.
                .redirect(reqwest::redirect::Policy::none())
                .build()
        };
        Ok(match jwks {
            Jwks::File(path) => Self::File(path.clone()),
            Jwks::Url(url) => Self::Url {
                url: url.clone(),
                client: client()?,
            },
            Jwks::Discovery(document) => Self::Discovery {
                issuer: issuer.to_owned(),
                document: document.clone(),
                client: client()?,
            },
        })
    }

    /// The key set as it is now.
    pub(super) async fn read(&self) -> Result<Vec<u8>, Error> {
        match self {
            Self::File(path) => read_file(path).await,
            Self::Url { url, client } => fetch(client, url).await,
            Self::Discovery {
                issuer,
                document,
                client,
            } => {
                let found = fetch(client, document).await?;
                let keys = key_set_of(&found, issuer, document)?;
                fetch(client, &keys).await
            }
        }
    }
}

/// Where the keys are, if this is the document of this issuer (Discovery 4.3). They are in https, or where the document
/// itself is.
fn key_set_of(found: &[u8], issuer: &str, document: &Url) -> Result<Url, Error> {
    let found: Value = serde_json::from_slice(found).map_err(|_| Error::NoKeySet)?;
    if found["issuer"].as_str() != Some(issuer) {
        return Err(Error::OtherIssuer);
    }
    let keys = found["jwks_uri"].as_str().ok_or(Error::NoKeySet)?;
    let keys = Url::parse(keys).map_err(|_| Error::NoKeySet)?;
    if keys.scheme() == "https" || keys.origin() == document.origin() {
        Ok(keys)
    } else {
        Err(Error::NoKeySet)
    }
}

async fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    let file = tokio::fs::File::open(path).await?;
    let mut bytes = Vec::new();
    let limit = JWKS_BYTES_MAX as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).await?;
    if bytes.len() > JWKS_BYTES_MAX {
        return Err(Error::TooLarge);
    }
    Ok(bytes)
}

async fn fetch(client: &reqwest::Client, url: &Url) -> Result<Vec<u8>, Error> {
    let request = client.get(url.clone());
    let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
    if !response.status().is_success() {
        return Err(Error::Status(response.status().as_u16()));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(reqwest::Error::without_url)?
    {
        if bytes.len() + chunk.len() > JWKS_BYTES_MAX {
            return Err(Error::TooLarge);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::response::Redirect;
    use axum::routing::get;
    use serde_json::json;

    use super::*;

    /// Something to read from, on a port of its own; gives its address.
    async fn served(router: impl FnOnce(&Url) -> Router) -> Url {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = Url::parse(&format!("http://{address}/")).unwrap();
        tokio::spawn(axum::serve(listener, router(&url)).into_future());
        url
    }

    #[tokio::test]
    async fn keys_are_fetched_but_not_from_where_a_redirect_leads() {
        let url = served(|_| {
            Router::new()
                .route("/good", get(|| async { "keys" }))
                .route("/large", get(|| async { " ".repeat(JWKS_BYTES_MAX + 1) }))
                .route("/moved", get(|| async { Redirect::temporary("/good") }))
        });
        let url = url.await;
        let read = async |path: &str| {
            let jwks = Jwks::Url(url.join(path).unwrap());
            Source::new("i", &jwks).unwrap().read().await
        };
        assert_eq!(read("good").await.unwrap(), b"keys");
        assert!(matches!(read("moved").await, Err(Error::Status(307))));
        assert!(matches!(read("large").await, Err(Error::TooLarge)));
        assert!(matches!(read("nowhere").await, Err(Error::Status(404))));
    }

    #[tokio::test]
    async fn an_issuer_says_where_its_keys_are_and_nobody_else() {
        let url = served(|url| {
            let says = |issuer: &str, keys: &str| {
                let text = json!({"issuer": issuer, "jwks_uri": keys}).to_string();
                get(move || async { text })
            };
            Router::new()
                .route("/keys", get(|| async { "keys" }))
                .route("/good", says("the issuer", &format!("{url}keys")))
                .route("/other", says("the issuer/", &format!("{url}keys")))
                .route("/clear", says("the issuer", "http://203.0.113.7/keys"))
                .route("/file", says("the issuer", "file:///etc/passwd"))
                .route("/text", get(|| async { "no document" }))
        });
        let url = url.await;
        let read = async |path: &str| {
            let jwks = Jwks::Discovery(url.join(path).unwrap());
            Source::new("the issuer", &jwks).unwrap().read().await
        };
        assert_eq!(read("good").await.unwrap(), b"keys");
        assert!(matches!(read("other").await, Err(Error::OtherIssuer)));
        for untrusted in ["clear", "file", "text"] {
            let outcome = read(untrusted).await;
            assert!(matches!(outcome, Err(Error::NoKeySet)), "{untrusted}");
        }
    }
}
