//! `trailhouse verify`: proofs, checked without a server.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use catalog::guard::TenantAdmin;
use catalog::ids::TenantId;
use catalog::keys::{PublicKeys, SigningKeyId, Unproven, strangers};
use engine::export::Unreadable;
use engine::proof::{self, About, Audit, AuditedFiles, ConsistencyProof, NotResumed, RecordProof};
use engine::seal::note::Note;
use engine::seal::{SignedCheckpoint, Unpromised, Unsigned, WitnessKey};

use super::operator::{self, Operator};
use super::receipt::read;
use super::{audited, bundle, ingest, promise, receipt, say};
use crate::config::{self, Config};

/// What to do.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Check that a record is in a log, unchanged
    #[command(after_help = "Example:\n  trailhouse verify proof record.json --jwks acme.jwks")]
    Proof {
        /// The proof, as JSON
        proof: PathBuf,
        #[command(flatten)]
        keys: Keys,
        #[command(flatten)]
        witnesses: Witnesses,
    },
    /// Check a checkpoint, and that its log has only grown since an older one
    #[command(
        after_help = "Example:\n  trailhouse verify checkpoint new.txt --against old.txt --consistency proof.json --jwks acme.jwks"
    )]
    Checkpoint {
        /// The checkpoint, a signed note
        checkpoint: PathBuf,
        /// An older checkpoint, kept from then
        #[arg(long, value_name = "FILE", requires = "consistency")]
        against: Option<PathBuf>,
        /// The proof that leads from the older one to this, as JSON
        #[arg(long, value_name = "FILE", requires = "against")]
        consistency: Option<PathBuf>,
        #[command(flatten)]
        keys: Keys,
        #[command(flatten)]
        witnesses: Witnesses,
    },
    /// Check that a newer set of a tenant's public keys can take the place of one that was kept
    #[command(after_help = "Example:\n  trailhouse verify keys new.jwks --against acme.jwks")]
    Keys {
        /// The newer set
        jwks: PathBuf,
        /// The one that was kept
        #[arg(long, value_name = "FILE")]
        against: PathBuf,
    },
    /// Check everything that is stored of a tenant: every file, every entry of the Delta logs, every leaf, tile and
    /// checkpoint. Reads storage and keys as the settings name them; no server is asked
    #[command(
        after_help = "Example:\n  trailhouse verify table --tenant acme --jwks acme.jwks --report report.json\n\nExit code 0: all is well. 1: something is not, and is named. 2: it could not be checked."
    )]
    Table {
        /// The tenant
        #[arg(long)]
        tenant: String,
        /// The tenant's public keys as they were kept; default: those that the key service has now
        #[arg(long, value_name = "FILE")]
        jwks: Option<PathBuf>,
        /// A checkpoint that was kept: the log must begin with what it signs. May be repeated
        #[arg(long, value_name = "FILE")]
        against: Vec<PathBuf>,
        /// Where to write a report, signed by the tenant
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
        /// Where to keep what was read of each data file until the audit is at its end: one that is interrupted goes on
        /// from there. What is changed after it was read is then found only if the store lists it as changed. Keep it
        /// where nobody else writes
        #[arg(long, value_name = "FILE")]
        resume: Option<PathBuf>,
        #[command(flatten)]
        witnesses: Witnesses,
    },
    /// Check what the sender of a record was promised, and that the log has kept it
    #[command(
        after_help = "Example:\n  trailhouse verify promise receipt.json --process-key process.json --jwks acme.jwks --proof record.json"
    )]
    Promise(promise::Check),
    /// Check a receipt against the tenant's public keys, and a result against the receipt
    #[command(
        after_help = "Example:\n  trailhouse verify receipt receipt.json --jwks acme.jwks --data result.arrow"
    )]
    Receipt(receipt::Check),
    /// Check an export in a folder: the signature, every file, every row, and that no record is missing
    #[command(
        after_help = "Example:\n  trailhouse verify bundle acme-2026-01 --jwks acme.jwks\n\nExit code 0: all is well. 1: something is not, and is named. 2: it could not be checked."
    )]
    Bundle(bundle::Check),
}

#[derive(Debug, clap::Args)]
pub(super) struct Keys {
    /// The tenant's public keys: a JSON Web Key Set, or one key of it
    #[arg(long, alias = "key", value_name = "FILE")]
    jwks: PathBuf,
}

impl Keys {
    pub(super) fn read(&self) -> Result<PublicKeys, super::Error> {
        key_set(&self.jwks)
    }
}

/// Who must have seen the checkpoint.
#[derive(Debug, clap::Args)]
struct Witnesses {
    /// The verifier key of a witness that may have cosigned the checkpoint. May be repeated
    #[arg(long, value_name = "KEY")]
    witness: Vec<String>,
    /// How many of them must have; default: all of them
    #[arg(long, value_name = "K", requires = "witness")]
    quorum: Option<usize>,
}

/// So many of these.
struct Quorum {
    keys: Vec<WitnessKey>,
    count: usize,
}

impl Witnesses {
    fn quorum(&self) -> Result<Quorum, Error> {
        let keys = self.witness.iter();
        let keys = keys.map(|key| WitnessKey::parse(key).map_err(|_| Error::Witness(key.clone())));
        let keys: Vec<_> = keys.collect::<Result<_, _>>()?;
        // A witness of two names is one.
        let different: BTreeSet<_> = keys.iter().map(WitnessKey::key).collect();
        let count = self.quorum.unwrap_or(different.len());
        if self.quorum == Some(0) || count > different.len() {
            return Err(Error::Quorum(different.len()));
        }
        Ok(Quorum { keys, count })
    }
}

impl Quorum {
    /// Whether all leaves there are have been seen by so many.
    fn check_all(&self, audit: &Audit) -> Result<(), Error> {
        let missing = Error::Unwitnessed {
            found: 0,
            of: self.keys.len(),
            quorum: self.count,
        };
        if self.count > 0 && audit.logs.is_empty() {
            return Err(missing);
        }
        for log in audit
            .logs
            .iter()
            .filter(|log| self.count > 0 && log.leaves > 0)
        {
            let note = log
                .checkpoint
                .as_ref()
                .map(|note| Note::parse(note.as_bytes()));
            let Some(Ok(note)) = note else {
                return Err(missing);
            };
            self.check(&note)?;
            if log.signed < log.leaves {
                return Err(Error::Beyond(log.leaves - log.signed));
            }
        }
        Ok(())
    }

    fn check(&self, note: &Note) -> Result<(), Error> {
        let found = note.cosigners(&self.keys);
        if found < self.count {
            return Err(Error::Unwitnessed {
                found,
                of: self.keys.len(),
                quorum: self.count,
            });
        }
        if self.count > 0 {
            let of = self.keys.len();
            say(format!(
                "witnessed {found} of {of} witnesses cosigned the checkpoint"
            ));
        }
        Ok(())
    }
}

/// What speaks against a proof.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The keys.
    #[error("the key file holds no key of a tenant")]
    Keys(#[source] Unproven),
    /// A record's proof.
    #[error("not verified: {0}")]
    Proof(#[from] proof::Unproven),
    /// A promise.
    #[error("not verified: {0}")]
    Promise(#[from] Unpromised),
    /// A process key's statement that is none.
    #[error("not verified: {0}")]
    Statement(#[source] Unproven),
    /// A proof that says nothing of a promise.
    #[error("not verified: the proof is of another record than the promise")]
    OtherRecord,
    /// A promise that was not kept.
    #[error(
        "not verified: the log has another record, or another value of it, where this one was promised"
    )]
    Broken,
    /// A checkpoint.
    #[error("not verified: {0}")]
    Checkpoint(#[from] Unsigned),
    /// An older checkpoint.
    #[error("not verified: the older checkpoint: {0}")]
    Older(#[source] Unsigned),
    /// A consistency proof that is none.
    #[error("not verified: it is no consistency proof")]
    Consistency(#[source] serde_json::Error),
    /// A witness.
    #[error("`{0}` is no verifier key of a witness")]
    Witness(String),
    /// How many witnesses.
    #[error("a quorum is between 1 and the number of witnesses, which is {0}")]
    Quorum(usize),
    /// Too few witnesses.
    #[error("not verified: {found} of {of} witnesses cosigned the checkpoint, not {quorum}")]
    Unwitnessed {
        /// So many did.
        found: usize,
        /// So many could have.
        of: usize,
        /// So many are demanded.
        quorum: usize,
    },
    /// Leaves that no witness was shown.
    #[error("not verified: {0} leaves came after the checkpoint that witnesses cosigned")]
    Beyond(u64),
    /// A key that may be anybody's.
    #[error("not verified: no key that was kept introduces {0}")]
    Stranger(SigningKeyId),
    /// A table that was changed.
    #[error("not verified: {0} finding(s)")]
    Findings(usize),
    /// Objects of which nothing can be said.
    #[error("not checked: {0} object(s) could not be read")]
    Unread(usize),
    /// An audit that cannot be gone on with.
    #[error("{0}")]
    Resumed(#[source] NotResumed),
    /// A table that cannot be read.
    #[error("it could not be checked")]
    Unchecked(#[source] proof::Error),
    /// A folder that is no export.
    #[error("it could not be checked")]
    Bundle(#[source] Unreadable),
    /// A log that was changed.
    #[error(
        "not verified: the log is not the older one and then more; a record was removed, changed or moved, or the proof \
         is about other checkpoints"
    )]
    Rewritten,
}

impl Error {
    /// Whether something was checked and is not what it should be.
    pub(super) fn is_verdict(&self) -> bool {
        let unchecked = matches!(
            self,
            Self::Keys(_)
                | Self::Unchecked(_)
                | Self::Unread(_)
                | Self::Bundle(_)
                | Self::Resumed(_)
                | Self::Witness(_)
                | Self::Quorum(_)
        );
        !unchecked
    }
}

pub(super) async fn run(
    config: Result<Config, config::Error>,
    arguments: &Arguments,
) -> Result<(), super::Error> {
    match &arguments.verb {
        Verb::Table {
            tenant,
            jwks,
            against,
            report,
            resume,
            witnesses,
        } => {
            let quorum = witnesses.quorum()?;
            let operator = Operator::open(config?).await?;
            let trusted = (jwks.as_deref(), against.as_slice());
            let kept = (report.as_deref(), resume.as_deref());
            let done = table(&operator, tenant, (trusted, &quorum), kept).await;
            operator.close().await;
            done?;
        }
        Verb::Proof {
            proof,
            keys,
            witnesses,
        } => {
            let quorum = witnesses.quorum()?;
            let proof = RecordProof::from_json(&read(proof)?).map_err(Error::Proof)?;
            let keys = keys.read()?;
            let proven = proof.verify(&keys).map_err(Error::Proof)?;
            quorum.check(proven.checkpoint.note())?;
            tell_record(&proven);
        }
        Verb::Checkpoint {
            checkpoint,
            against,
            consistency,
            keys,
            witnesses,
        } => {
            let older = against.as_deref().zip(consistency.as_deref());
            let quorum = witnesses.quorum()?;
            verify_checkpoint(checkpoint, older, (&keys.read()?, &quorum))?;
        }
        Verb::Keys { jwks, against } => {
            let (new, old) = (key_set(jwks)?, key_set(against)?);
            let strangers = strangers(&old, &new);
            if let Some(stranger) = strangers.first() {
                return Err(Error::Stranger(stranger.clone()).into());
            }
            let count = new.iter().count();
            say(format!(
                "verified: all {count} key(s) were kept, or are introduced by one that was"
            ));
        }
        Verb::Promise(check) => promise::verify(check)?,
        Verb::Receipt(check) => receipt::verify(check)?,
        Verb::Bundle(check) => bundle::verify(check)?,
    }
    Ok(())
}

/// Checks a checkpoint, and that its log begins with the older one that was kept, by the proof beside that.
fn verify_checkpoint(
    checkpoint: &Path,
    older: Option<(&Path, &Path)>,
    (keys, quorum): (&PublicKeys, &Quorum),
) -> Result<(), super::Error> {
    let new = SignedCheckpoint::verify(&read(checkpoint)?, keys);
    let new = new.map_err(Error::Checkpoint)?;
    quorum.check(new.note())?;
    if let Some((old, proof)) = older {
        let old = SignedCheckpoint::verify(&read(old)?, keys).map_err(Error::Older)?;
        let proof = ConsistencyProof::from_json(&read(proof)?);
        let proof = proof.map_err(Error::Consistency)?;
        if !proof.holds(old.checkpoint(), new.checkpoint()) {
            return Err(Error::Rewritten.into());
        }
        let since = old.checkpoint().size;
        say(format!(
            "verified: all {since} records of then are where they were"
        ));
    }
    tell_checkpoint(&new);
    Ok(())
}

fn key_set(path: &Path) -> Result<PublicKeys, super::Error> {
    Ok(PublicKeys::from_json(&read(path)?).map_err(Error::Keys)?)
}

async fn table(
    operator: &Operator,
    tenant: &str,
    ((jwks, against), quorum): ((Option<&Path>, &[PathBuf]), &Quorum),
    (report, resume): (Option<&Path>, Option<&Path>),
) -> Result<(), super::Error> {
    let tenant = TenantId::parse(tenant).map_err(operator::Error::from)?;
    let permit = operator.permit::<TenantAdmin>(&tenant).await?;
    let service = &operator.service;
    let found = service.registry.get(&tenant).await;
    let record = found.map_err(operator::Error::from)?;
    let record = record.ok_or(operator::Error::from(catalog::tenant::Error::Unknown))?;
    let keys = match jwks {
        Some(jwks) => key_set(jwks)?,
        None => {
            let keys = service.keys.public_keys(&record.id, &record.silo).await;
            keys.map_err(operator::Error::Keys)?
        }
    };
    let bar = ingest::bar(0);
    let progress = |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let mut kept = Vec::new();
    for path in against {
        let checkpoint = SignedCheckpoint::verify(&read(path)?, &keys);
        kept.push(checkpoint.map_err(Error::Older)?);
    }
    let silos = &service.config.silos;
    let silo = silos.iter().find(|silo| silo.id == record.silo);
    let root = silo
        .map(|silo| silo.root.url().to_string())
        .unwrap_or_default();
    let files = resume.map(|path| AuditedFiles::open(path, (&record.id, &record.silo), &root));
    let files = files.transpose().map_err(Error::Resumed)?;
    // Whatever becomes of this audit, an older one's report is not what it says.
    if let Some(path) = report {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(super::Error::Write(path.to_owned(), error));
            }
            _ => {}
        }
    }
    let about = About {
        silo: &record.silo,
        keys: &keys,
        kept: &kept,
        files: files.as_ref(),
    };
    let audit = service.logs.audit(&permit, about, progress).await;
    let audit = audit.map_err(Error::Unchecked)?;
    bar.finish_and_clear();
    audited::tell(&audit, kept.len());
    if let Some(files) = files.filter(|_| audit.unread.is_empty()) {
        files
            .remove()
            .map_err(NotResumed::from)
            .map_err(Error::Resumed)?;
    }
    let reported = match report {
        Some(path) => audited::write_report(path, service, &record, &audit).await,
        None => Ok(()),
    };
    if !audit.findings.is_empty() {
        reported.unwrap_or_else(|error| say(format!("there is no report: {error}")));
        return Err(Error::Findings(audit.findings.len()).into());
    }
    if !audit.unread.is_empty() {
        return Err(Error::Unread(audit.unread.len()).into());
    }
    reported?;
    Ok(quorum.check_all(&audit)?)
}

fn tell_record(proven: &proof::Proven<'_>) {
    let leaf = proven.leaf;
    let (id, index) = (leaf.record_id, proven.leaf_index);
    say(format!("verified: record {id} is leaf {index} of its log"));
    say(format!("tenant    {}", leaf.tenant));
    say(format!("stream    {}", leaf.stream));
    for value in &proven.shown {
        // Values are somebody's: none of them may look like a line of ours.
        say(format!("value     {:?} = {:?}", value.name, value.value));
    }
    let withheld = leaf.withheld();
    say(format!(
        "withheld  {withheld} value(s): of those there are commitments only"
    ));
    tell_checkpoint(&proven.checkpoint);
}

fn tell_checkpoint(signed: &SignedCheckpoint) {
    let checkpoint = signed.checkpoint();
    let (size, version) = (checkpoint.size, checkpoint.table_version);
    say(format!("log       {}", checkpoint.origin));
    say(format!(
        "leaves    {size}, at version {version} of the table"
    ));
    say(format!("signed    {}", signed.key()));
}
