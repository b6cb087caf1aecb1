//! Being a witness: for logs that it is told of, it keeps the newest checkpoint that it has cosigned, and cosigns one only
//! if the log has only grown since.
//!
//! ```text
//! <folder>/witness.key          its Ed25519 key
//! <folder>/seen/<SHA-256 of an origin>   the checkpoint of that log that it cosigned last
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use catalog::clock::{Clock, Random};
use catalog::keys::{KeyError, OwnKey};
use engine::seal::WitnessKey;
use engine::seal::cosignature::message;
use engine::seal::note::{MalformedNote, NOTE_BYTES_MAX, Note, VerifierKey};
use engine::seal::witness::{AddCheckpoint, Head, Unwitnessed};
use engine::table::{self, FsyncStore};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStoreExt, PutPayload};
use sha2::{Digest as _, Sha256};

/// What a request has at most, in bytes.
const REQUEST_BYTES_MAX: usize = NOTE_BYTES_MAX + (8 << 10);
/// What the list of logs has at most, in bytes.
const LOGS_BYTES_MAX: u64 = 16 << 20;

/// Why it cannot be a witness.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its key.
    #[error("the key of the witness cannot be used")]
    Key(#[from] KeyError),
    /// Its name.
    #[error("a witness cannot be called `{0}`: no spaces, and no plus sign")]
    Name(String, #[source] MalformedNote),
    /// Its folder.
    #[error("the folder of the witness cannot be used")]
    Folder(#[source] table::Error),
    /// The list of logs.
    #[error("the list of logs cannot be read")]
    Logs(#[source] std::io::Error),
    /// The list of logs.
    #[error("line {0} of the list of logs is no verifier key")]
    Log(usize),
}

/// A witness.
pub(crate) struct ServedWitness {
    key: OwnKey,
    public: WitnessKey,
    /// The verifier keys of the logs, a line each; read anew for every request.
    logs: PathBuf,
    seen: FsyncStore,
    clock: Arc<dyn Clock>,
    /// Held from the look at what was cosigned last until what is cosigned now is stored.
    turn: tokio::sync::Mutex<()>,
}

impl ServedWitness {
    /// The witness of this folder and name, for the logs of that list.
    pub(crate) fn open(
        (folder, name): (&Path, &str),
        logs: PathBuf,
        clock: Arc<dyn Clock>,
        random: &dyn Random,
    ) -> Result<Self, Error> {
        let (key, public) = open_key(folder, name, random)?;
        let seen = FsyncStore::open(&folder.join("seen")).map_err(Error::Folder)?;
        let witness = Self {
            key,
            public,
            logs,
            seen,
            clock,
            turn: tokio::sync::Mutex::default(),
        };
        witness.read_logs()?;
        Ok(witness)
    }

    /// Its verifier key.
    pub(crate) fn public(&self) -> &WitnessKey {
        &self.public
    }

    /// What is served.
    pub(crate) fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/add-checkpoint", post(add_checkpoint))
            .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
            .with_state(self)
    }

    fn read_logs(&self) -> Result<Vec<VerifierKey>, Error> {
        let size = std::fs::metadata(&self.logs).map_err(Error::Logs)?.len();
        if size > LOGS_BYTES_MAX {
            return Err(Error::Logs(std::io::ErrorKind::FileTooLarge.into()));
        }
        let text = std::fs::read_to_string(&self.logs).map_err(Error::Logs)?;
        let lines = text.lines().map(str::trim).zip(1..);
        let keys = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
        keys.map(|(line, number)| VerifierKey::parse(line).map_err(|_| Error::Log(number)))
            .collect()
    }

    async fn add(&self, body: &[u8]) -> Result<String, Refused> {
        let request = AddCheckpoint::parse(body)?;
        let keys = self.read_logs().map_err(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "the list of logs cannot be used");
            Refused::Unable
        })?;
        check_signed(&request, &keys)?;
        let _turn = self.turn.lock().await;
        let place = place(&request.head.origin);
        let last = self.last(&place).await?;
        request.follows(last.as_ref())?;
        let text = request.note.to_string();
        #[expect(
            clippy::disallowed_methods,
            reason = "a witness keeps what it cosigns, and it is none of the product's storage"
        )]
        let put = self.seen.put(&place, PutPayload::from(text)).await;
        put.map_err(unable)?;
        let time = u64::try_from(self.clock.now().as_seconds()).unwrap_or(0);
        let signature = self.key.sign(&message(time, &request.note));
        let alone = Note::new(request.note.text().to_owned());
        let cosigned = alone.cosigned(&self.public, time, signature).to_string();
        let (_, line) = cosigned.rsplit_once("\n\n").unwrap_or_default();
        Ok(line.to_owned())
    }

    async fn last(&self, place: &ObjectPath) -> Result<Option<Head>, Refused> {
        let note = match self.seen.get(place).await {
            Ok(found) => found.bytes().await.map_err(unable)?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(unable(error)),
        };
        let head = Note::parse(&note).ok().and_then(|note| Head::of(&note));
        // Begun anew it could be shown another log.
        head.map(Some).ok_or(Refused::Unable)
    }
}

/// The key of the witness in a folder, which is made where there is none.
pub(crate) fn open_key(
    folder: &Path,
    name: &str,
    random: &dyn Random,
) -> Result<(OwnKey, WitnessKey), Error> {
    let key = OwnKey::open(folder, random)?;
    let public = WitnessKey::new(name, key.public());
    let public = public.map_err(|error| Error::Name(name.to_owned(), error))?;
    Ok((key, public))
}

/// Whether one of the keys of its log signed the checkpoint.
fn check_signed(request: &AddCheckpoint, keys: &[VerifierKey]) -> Result<(), Refused> {
    let mut known = false;
    for key in keys.iter().filter(|key| key.name() == request.head.origin) {
        known = true;
        if request.note.is_signed_by(key) {
            return Ok(());
        }
    }
    let status = if known {
        StatusCode::FORBIDDEN
    } else {
        StatusCode::NOT_FOUND
    };
    Err(Refused::Status(status))
}

fn place(origin: &str) -> ObjectPath {
    let digest = Sha256::digest(origin);
    let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    ObjectPath::from(name)
}

/// Why it does not cosign.
enum Refused {
    Witness(Unwitnessed),
    Status(StatusCode),
    /// It cannot now.
    Unable,
}

impl From<Unwitnessed> for Refused {
    fn from(why: Unwitnessed) -> Self {
        Self::Witness(why)
    }
}

fn unable(error: object_store::Error) -> Refused {
    let error = &error as &dyn std::error::Error;
    tracing::error!(error, "the folder of the witness cannot be used");
    Refused::Unable
}

async fn add_checkpoint(State(witness): State<Arc<ServedWitness>>, body: Bytes) -> Response {
    // Whoever hangs up must not let go of the turn while what was cosigned is still being stored.
    let added = tokio::spawn(async move { witness.add(&body).await });
    match added.await.unwrap_or(Err(Refused::Unable)) {
        Ok(line) => line.into_response(),
        Err(Refused::Witness(Unwitnessed::Other(size))) => (
            StatusCode::CONFLICT,
            [(header::CONTENT_TYPE, "text/x.tlog.size")],
            format!("{size}\n"),
        )
            .into_response(),
        Err(Refused::Witness(Unwitnessed::Form)) => StatusCode::BAD_REQUEST.into_response(),
        Err(Refused::Witness(Unwitnessed::Inconsistent)) => {
            StatusCode::UNPROCESSABLE_ENTITY.into_response()
        }
        Err(Refused::Status(status)) => status.into_response(),
        Err(Refused::Unable) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
