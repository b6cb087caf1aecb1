//! The server's `/v1/exports`, as a client sees it.
//!
//! Who has answered once is waited for: while an export is made or fetched a server may be busy, or be started anew. What is
//! asked for here can be asked for again; a request for an export that is under way is that export.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, StatusCode, header};
use reqwest::{RequestBuilder, Response};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::Server;
use crate::auth::developer::TokenRequest;
use crate::cli::{self, reach, token};
use crate::config::Config;

const PATH: &str = "/v1/exports";
const TOKEN_LIFETIME: Duration = Duration::from_secs(12 * 3_600);
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long one attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(30);
/// How long it may take a server to read all of an export.
const VERIFY_MAX: Duration = Duration::from_secs(6 * 3_600);
/// How long a server that is busy, or away, is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
const FIRST_WAIT: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(15);

/// Why there is no export, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server could not be reached.
    #[error("the server did not answer: is it running?")]
    Unreachable(#[from] reqwest::Error),
    /// The server refused.
    #[error("the server refused: {status} {slug}: {detail}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Problem slug.
        slug: String,
        /// What to do.
        detail: String,
    },
    /// A filter that is none.
    #[error("`{0}` is no filter: FIELD=VALUE is needed")]
    Filter(String),
    /// An export that ended otherwise.
    #[error("the export {state}: {detail}")]
    Ended {
        /// How.
        state: String,
        /// Why.
        detail: String,
    },
    /// An export whose files are not there.
    #[error("there is nothing to fetch: the export is {0}")]
    NotThere(String),
    /// A folder that is something already.
    #[error("`{}` is not empty: --resume goes on with a download that broke off", .0.display())]
    Occupied(PathBuf),
    /// A name that would lead out of the folder.
    #[error("the server names a file that lies outside of the folder: {0:?}")]
    Outside(String),
    /// A file that is not what it should be.
    #[error("{0:?} is not the file that was made; what was fetched of it is removed")]
    Damaged(String),
    /// Something of this machine.
    #[error("`{}` cannot be written", .0.display())]
    Local(PathBuf, #[source] io::Error),
    /// A server that breaks off time after time.
    #[error("the connection broke off; --resume goes on from there")]
    BrokeOff,
    /// An answer that is none.
    #[error("the server's answer cannot be read: it has no {0}")]
    Malformed(&'static str),
    /// Stored files that are not what they were.
    #[error("not verified: what is stored is not what was made; export again")]
    NotSound,
}

/// What an attempt came to.
enum Attempt {
    Answered(Response),
    /// Not now; perhaps after so long.
    Later(Option<Duration>, Error),
}

/// A server, and who asks it.
pub(super) struct Client {
    client: reqwest::Client,
    url: String,
    tenant: String,
    token: String,
    /// Whether it has answered.
    is_there: AtomicBool,
}

impl Client {
    pub(super) fn of(config: &Config, server: &Server) -> Result<Self, cli::Error> {
        let token = match &server.token_file {
            Some(file) => {
                let text = std::fs::read_to_string(file);
                let text = text.map_err(|source| cli::Error::File(file.clone(), source))?;
                text.trim().to_owned()
            }
            None => {
                let roles = server.role.iter().map(|role| token::role_name(role));
                let request = exporter(&server.tenant, roles.collect::<Result<_, _>>()?);
                token::mint(config, &request, TOKEN_LIFETIME)?
            }
        };
        let own = || reach::url(config, config.silos.first().map(|silo| silo.http));
        let url = server.url.clone().unwrap_or_else(own);
        let client = server.reach.http(&url)?.connect_timeout(CONNECT_MAX);
        Ok(Self {
            client: client.build().map_err(Error::from)?,
            url: format!("{}{PATH}", url.trim_end_matches('/')),
            tenant: server.tenant.clone(),
            token,
            is_there: AtomicBool::new(false),
        })
    }

    pub(super) async fn create(&self, body: &Value) -> Result<Value, Error> {
        let body = body.to_string();
        let request = || {
            let request = self.request(Method::POST, "").body(body.clone());
            request
                .header(header::CONTENT_TYPE, "application/json")
                .timeout(ATTEMPT_MAX)
        };
        self.json(request).await
    }

    pub(super) async fn all(&self) -> Result<Value, Error> {
        self.json(|| self.request(Method::GET, "").timeout(ATTEMPT_MAX))
            .await
    }

    pub(super) async fn job(&self, id: &str) -> Result<Value, Error> {
        let rest = format!("/{}", segment(id));
        self.json(|| self.request(Method::GET, &rest).timeout(ATTEMPT_MAX))
            .await
    }

    pub(super) async fn cancel(&self, id: &str) -> Result<Value, Error> {
        let rest = format!("/{}", segment(id));
        self.json(|| self.request(Method::DELETE, &rest).timeout(ATTEMPT_MAX))
            .await
    }

    pub(super) async fn verify(&self, id: &str) -> Result<Value, Error> {
        let rest = format!("/{}/verify", segment(id));
        self.json(|| self.request(Method::GET, &rest).timeout(VERIFY_MAX))
            .await
    }

    /// A file from this byte on, if it still is the one with this hash, else all of it.
    pub(super) async fn file(
        &self,
        (id, path): (&str, &str),
        sha256: &str,
        from: u64,
    ) -> Result<Response, Error> {
        let parts: Vec<_> = path.split('/').map(segment).collect();
        let rest = format!("/{}/files/{}", segment(id), parts.join("/"));
        let request = || {
            let request = self.request(Method::GET, &rest);
            if from == 0 {
                return request;
            }
            request
                .header(header::RANGE, format!("bytes={from}-"))
                .header(header::IF_RANGE, format!("\"{sha256}\""))
        };
        self.answered(request).await
    }

    fn request(&self, method: Method, rest: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{rest}", self.url))
            .bearer_auth(&self.token)
            .header("x-tenant-id", &self.tenant)
    }

    async fn json(&self, request: impl Fn() -> RequestBuilder) -> Result<Value, Error> {
        Ok(self.answered(request).await?.json().await?)
    }

    /// A good answer, however often it takes.
    async fn answered(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, Error> {
        let end = Instant::now() + PATIENCE;
        let mut wait = FIRST_WAIT;
        loop {
            match self.attempt(request()).await? {
                Attempt::Answered(response) => return Ok(response),
                Attempt::Later(asked, error) => {
                    let now = wait.max(asked.unwrap_or_default());
                    if Instant::now() + now > end {
                        return Err(error);
                    }
                    sleep(now).await;
                    wait = (wait * 2).min(WAIT_MAX);
                }
            }
        }
    }

    async fn attempt(&self, request: RequestBuilder) -> Result<Attempt, Error> {
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if self.is_there.load(Ordering::Relaxed) && !error.is_builder() => {
                return Ok(Attempt::Later(None, error.into()));
            }
            Err(error) => return Err(error.into()),
        };
        self.is_there.store(true, Ordering::Relaxed);
        let status = response.status();
        if status.is_success() {
            return Ok(Attempt::Answered(response));
        }
        let asked = response.headers().get(header::RETRY_AFTER);
        let asked = asked.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
        let problem: Value = response.json().await.unwrap_or_default();
        let refused = refused(status, &problem);
        match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                Ok(Attempt::Later(asked.map(Duration::from_secs), refused))
            }
            _ => Err(refused),
        }
    }

    /// For tests: a server at this address, asked by this token.
    #[cfg(test)]
    pub(super) fn at(url: &str, tenant: &str, token: String) -> Self {
        Self {
            client: reqwest::Client::new(),
            url: format!("{url}{PATH}"),
            tenant: tenant.to_owned(),
            token,
            is_there: AtomicBool::new(false),
        }
    }
}

fn refused(status: StatusCode, problem: &Value) -> Error {
    let slug = problem["type"]
        .as_str()
        .and_then(|uri| uri.rsplit('/').next());
    Error::Refused {
        status: status.as_u16(),
        slug: slug.unwrap_or("unknown").to_owned(),
        detail: problem["detail"].as_str().unwrap_or("no detail").to_owned(),
    }
}

/// A member as text; a dash where there is none.
pub(super) fn text(answer: &Value, name: &str) -> String {
    answer[name].as_str().unwrap_or("-").to_owned()
}

/// A part of a path. No name of ours has a character that a path takes for its own.
fn segment(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// A token request for somebody who exports.
fn exporter(tenant: &str, roles: Vec<String>) -> TokenRequest {
    TokenRequest {
        subject: "exporter".to_owned(),
        tenant: Some(tenant.to_owned()),
        roles,
        ..TokenRequest::default()
    }
}
