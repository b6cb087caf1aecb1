//! Links to files of exports: for whoever has one, without a token, for a time.
//!
//! ```text
//! POST /v1/exports/<id>/links   {"path": "part-00000.parquet", "minutes": 60}
//!                               {"url": "/v1/links/<sealed>", "expiresAt": ".."}
//! GET  /v1/links/<sealed>       the file, as `/v1/exports/<id>/files/<path>` gives it
//! ```
//! A link is sealed and names one file of one export. It stands on the authority of who asked for the export: each use is
//! decided anew and is evidence, and when they may not export any more, or see other records, it opens nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use catalog::clock::{Clock, Random, Timestamp};
use catalog::guard::{Export, Permit};
use catalog::ids::{SiloId, TenantId};
use catalog::keys::SecretKey;
use engine::export::{self, BundleFile, ExportId};
use http::{HeaderMap, Method, StatusCode};
use prost::Message;
use serde::Deserialize;
use serde_json::json;

use super::exports::{acting, named, refused};
use super::fetch::Fetch;
use super::headers::kept_by_nobody;
use super::router::{Listener, correlated};
use super::{admit, body};
use crate::limits::{Admitted, Class, Standing};
use crate::problem::{Problem, Slug};
use crate::{carried, observe};

const PURPOSE: &str = "trailhouse http export link";
const VERSION: u32 = 1;
/// Characters of the longest link that is looked at.
const CHARACTERS_MAX: usize = 4_096;
const BODY_BYTES_MAX: usize = 4 * 1024;
const MINUTES_MAX: u64 = 24 * 60;

#[derive(Clone, PartialEq, Message)]
struct Sealed {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    tenant: String,
    #[prost(string, tag = "3")]
    silo: String,
    #[prost(string, tag = "4")]
    export: String,
    #[prost(string, tag = "5")]
    path: String,
    #[prost(int64, tag = "6")]
    expires_at_us: i64,
}

/// What a link says.
#[derive(Debug, PartialEq, Eq)]
struct Link {
    tenant: TenantId,
    export: ExportId,
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    path: String,
    #[serde(default = "an_hour")]
    minutes: u64,
}

fn an_hour() -> u64 {
    60
}

/// Gives out a link.
pub(super) async fn create(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    match created(&listener, &caller, &id, request).await {
        Ok((link, end)) => {
            let told = json!({ "url": format!("/v1/links/{link}"), "expiresAt": end.to_string() });
            kept_by_nobody((StatusCode::CREATED, Json(told)))
        }
        Err(problem) => refused(problem, &caller),
    }
}

/// The file of a link.
pub(super) async fn file(
    State(listener): State<Listener>,
    Path(link): Path<String>,
    (method, headers): (Method, HeaderMap),
) -> Response {
    match found(&listener, &link, (&method, &headers)).await {
        Ok((file, fetch, standing)) => {
            let ingress = listener.service.ingress(&headers);
            let answer = fetch.answer(&file, ingress.correlation()).await;
            admit::told(standing, answer)
        }
        Err(problem) => correlated(problem, &headers).into_response(),
    }
}

async fn created(
    listener: &Listener,
    caller: &Admitted,
    id: &str,
    request: Request,
) -> Result<(String, Timestamp), Problem> {
    let service = &listener.service;
    let permit = acting(listener, caller).await?;
    let (id, asked) = (named(id)?, asked_for(listener, request).await?);
    service.exports.file(&permit, &id, &asked.path).await?;
    let job = service.exports.show(&permit, &id).await?;
    let now = service.clock.now();
    let end = now.plus(Duration::from_secs(asked.minutes * 60));
    // There is nothing behind it any more once the files are removed.
    let end = job.expires_at().map_or(end, |files| files.min(end));
    let link = Link {
        tenant: caller.context.tenant().clone(),
        export: id,
        path: asked.path,
    };
    let root = service.link_key().ok_or_else(no_key)?;
    let broken = || Problem::new(Slug::Internal, "the link could not be made");
    let made = link.seal(&root, &*service.random, &listener.silo, end);
    let made = made.ok_or_else(broken)?;
    note(listener, &permit, &link, end).await?;
    Ok((made, end))
}

async fn note(
    listener: &Listener,
    permit: &Permit<Export>,
    link: &Link,
    end: Timestamp,
) -> Result<(), Problem> {
    let about = vec![
        format!("Export.{}", link.export),
        format!("File.{}", link.path),
        format!("Until.{end}"),
    ];
    let gate = &listener.service.gate;
    gate.note(permit, "Export.Linked", about).await?;
    Ok(())
}

async fn found(
    listener: &Listener,
    link: &str,
    (method, headers): (&Method, &HeaderMap),
) -> Result<(BundleFile, Fetch, Option<Standing>), Problem> {
    let service = &listener.service;
    let root = service.link_key().ok_or_else(no_key)?;
    let link = Link::open(&root, &*service.clock, &listener.silo, link).ok_or_else(none)?;
    observe::identified(&link.tenant);
    let standing = service.rates.admit_nobody(&link.tenant, Class::Query)?;
    let place = (&listener.silo, &link.tenant);
    let exports = &service.exports;
    let permit = exports.linked(place, &link.export, &link.path).await;
    let permit = permit.map_err(opens_nothing)?;
    let file = exports.file(&permit, &link.export, &link.path).await;
    let file = file.map_err(opens_nothing)?;
    let fetch = Fetch::of(&file, method, headers);
    Ok((file, fetch, standing))
}

/// Whoever has a link is told when to try again, and nothing else of who gave it to them.
fn opens_nothing(error: export::Error) -> Problem {
    let problem = Problem::from(error);
    if problem.status().is_server_error() {
        problem
    } else {
        none()
    }
}

/// One answer for garbage, tampering, another silo's link and one whose time is over.
fn none() -> Problem {
    Problem::new(
        Slug::NotFound,
        "there is no such link, or it opens nothing any more",
    )
}

fn no_key() -> Problem {
    let detail = "the key that links are sealed with is not available";
    Problem::new(Slug::KeyUnavailable, detail)
}

async fn asked_for(listener: &Listener, request: Request) -> Result<Asked, Problem> {
    let mut share = listener.room.share();
    let text = body::json(request, BODY_BYTES_MAX, &mut share).await?;
    let invalid = |detail: String| Problem::new(Slug::InvalidQuery, detail);
    let asked: Asked = serde_json::from_slice(&text).map_err(|_| {
        invalid("the body is {\"path\": \"part-00000.parquet\", \"minutes\": 60}".to_owned())
    })?;
    if !(1..=MINUTES_MAX).contains(&asked.minutes) {
        return Err(invalid(format!("minutes are 1 to {MINUTES_MAX}")));
    }
    Ok(asked)
}

impl Link {
    fn seal(
        &self,
        root: &SecretKey,
        random: &dyn Random,
        silo: &SiloId,
        end: Timestamp,
    ) -> Option<String> {
        let sealed = Sealed {
            version: VERSION,
            tenant: self.tenant.to_string(),
            silo: silo.to_string(),
            export: self.export.to_string(),
            path: self.path.clone(),
            expires_at_us: end.as_micros(),
        };
        let sealed = carried::seal(root, PURPOSE, random, &sealed.encode_to_vec())?;
        Some(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// What a link of this silo's says, until its end.
    fn open(root: &SecretKey, clock: &dyn Clock, silo: &SiloId, text: &str) -> Option<Self> {
        if text.len() > CHARACTERS_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let plain = carried::open(root, PURPOSE, &bytes)?;
        let sealed = Sealed::decode(plain.as_slice()).ok()?;
        let is_good = sealed.version == VERSION
            && sealed.silo == silo.as_str()
            && Timestamp::from_micros(sealed.expires_at_us) > clock.now();
        if !is_good {
            return None;
        }
        Some(Self {
            tenant: TenantId::parse(&sealed.tenant).ok()?,
            export: ExportId::parse(&sealed.export)?,
            path: sealed.path,
        })
    }
}

#[cfg(test)]
mod tests {
    use catalog::clock::{ManualClock, SeededRandom};

    use super::*;

    #[test]
    fn a_link_opens_in_its_silo_until_its_end_as_it_was_made() {
        let random = SeededRandom::new(7);
        let root = SecretKey::random(&random);
        let clock = ManualClock::new(Timestamp::from_micros(1_000_000));
        let silo = |name: &str| SiloId::parse(name).unwrap();
        let link = Link {
            tenant: TenantId::parse("acme").unwrap(),
            export: ExportId::parse("exp-01KDVDN0000000000000000001").unwrap(),
            path: "proofs/checkpoint".to_owned(),
        };
        let end = clock.now().plus(Duration::from_secs(60));
        let made = link.seal(&root, &random, &silo("eu"), end).unwrap();
        let open = |name: &str, text: &str| Link::open(&root, &clock, &silo(name), text);
        assert_eq!(open("eu", &made).as_ref(), Some(&link));
        assert_eq!(open("us", &made), None);
        assert_eq!(open("eu", ""), None);
        assert_eq!(open("eu", &made.repeat(100)), None);
        for place in 0..made.len() {
            let mut changed = made.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(open("eu", &changed), None, "{place}");
        }
        let other = SecretKey::random(&random);
        assert_eq!(Link::open(&other, &clock, &silo("eu"), &made), None);
        clock.advance(Duration::from_secs(60) - Duration::from_micros(1));
        assert_eq!(open("eu", &made), Some(link));
        clock.advance(Duration::from_micros(1));
        assert_eq!(open("eu", &made), None);
    }
}
