//! `trailhouse schema`: register, check, list, show and deprecate the schemas of a tenant's streams.

use std::path::{Path, PathBuf};

use catalog::guard::{SchemaRead, SchemaWrite};
use catalog::ids::{StreamName, TenantId};
use catalog::schema::{
    self, Comparison, Deprecation, Registered, Registration, Required, SchemaVersion,
    StreamSchemas, Upcaster,
};

use crate::config::Config;

use super::operator::{self, Operator, Why};
use super::{Error, say};

/// What to do with which schema.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Register a version of a stream's schema
    #[command(
        after_help = "Example:\n  trailhouse schema register audit.default 2.0 order.json --upcaster order-2.json --tenant acme"
    )]
    Register {
        /// The stream
        stream: String,
        /// major.minor, newer than every one there is
        version: String,
        /// The schema: JSON Schema, draft 2020-12, of the record as it is sent
        file: PathBuf,
        /// How records of the version before are read as records of this one; a new major version needs it
        #[arg(long, value_name = "FILE")]
        upcaster: Option<PathBuf>,
        /// What versions must be able to from now on: backward, forward or full; default: as it is, backward at first
        #[arg(long, value_name = "WORD")]
        require: Option<String>,
        /// The tenant
        #[arg(long)]
        tenant: String,
    },
    /// Say whether a schema could be registered, or how two versions compare; changes nothing
    #[command(
        after_help = "Examples:\n  trailhouse schema check audit.default order.json --tenant acme\n  trailhouse schema check audit.default --from 1.0 --to 2.0 --tenant acme"
    )]
    Check(CheckArguments),
    /// List what is registered
    #[command(after_help = "Example:\n  trailhouse schema list --tenant acme")]
    List {
        /// Only this stream
        stream: Option<String>,
        /// The tenant
        #[arg(long)]
        tenant: String,
    },
    /// Print a schema as it was written
    #[command(after_help = "Example:\n  trailhouse schema show audit.default --tenant acme")]
    Show {
        /// The stream
        stream: String,
        /// The version; default: the latest
        #[arg(long = "version", value_name = "VERSION")]
        number: Option<String>,
        /// The tenant
        #[arg(long)]
        tenant: String,
    },
    /// Announce the end of a version; its senders are told with every answer
    #[command(
        after_help = "Example:\n  trailhouse schema deprecate audit.default 1.0 --days 120 --tenant acme"
    )]
    Deprecate {
        /// The stream
        stream: String,
        /// The version
        version: String,
        /// Days until its end, 90 at least
        #[arg(long, default_value_t = 90)]
        days: u32,
        /// The tenant
        #[arg(long)]
        tenant: String,
    },
}

/// What to compare with what.
#[derive(Debug, clap::Args)]
struct CheckArguments {
    /// The stream
    stream: String,
    /// The schema
    #[arg(required_unless_present = "from", conflicts_with_all = ["from", "to"])]
    file: Option<PathBuf>,
    /// The version it would get; default: the next minor one
    #[arg(long = "version", value_name = "VERSION")]
    number: Option<String>,
    /// The upcaster it would come with
    #[arg(long, value_name = "FILE")]
    upcaster: Option<PathBuf>,
    /// An older version that is registered
    #[arg(long, requires = "to", value_name = "VERSION")]
    from: Option<String>,
    /// A newer version that is registered
    #[arg(long, requires = "from", value_name = "VERSION")]
    to: Option<String>,
    /// The tenant
    #[arg(long)]
    tenant: String,
}

pub(super) async fn run(config: Config, arguments: Arguments) -> Result<(), Error> {
    let lines = match arguments.verb {
        Verb::Register {
            stream,
            version,
            file,
            upcaster,
            require,
            tenant,
        } => {
            let registration = Registration {
                stream: name(&stream)?,
                version: number(&version)?,
                schema: read(&file)?,
                upcaster: upcaster.as_deref().map(read_upcaster).transpose()?,
                required: require.as_deref().map(word).transpose()?,
            };
            let operator = Operator::open(config).await?;
            register(&operator, &tenant, &registration).await?
        }
        Verb::Check(arguments) => check(config, arguments).await?,
        Verb::List { stream, tenant } => {
            let operator = Operator::open(config).await?;
            list(&operator, &tenant, stream.as_deref()).await?
        }
        Verb::Show {
            stream,
            number: version,
            tenant,
        } => {
            let version = version.as_deref().map(number).transpose()?;
            let operator = Operator::open(config).await?;
            let text = show(&operator, &tenant, &stream, version).await?;
            vec![text.trim_end().to_owned()]
        }
        Verb::Deprecate {
            stream,
            version,
            days,
            tenant,
        } => {
            let version = number(&version)?;
            let operator = Operator::open(config).await?;
            let end = deprecate(&operator, &tenant, &stream, version, days).await?;
            vec![format!("{stream} {version} ends on {}", end.sunset.date())]
        }
    };
    lines.into_iter().for_each(say);
    Ok(())
}

async fn register(
    operator: &Operator,
    tenant: &str,
    registration: &Registration,
) -> Result<Vec<String>, operator::Error> {
    let permit = operator
        .permit::<SchemaWrite>(&TenantId::parse(tenant)?)
        .await?;
    let service = &operator.service;
    let found = refused(service.schemas.register(&permit, registration).await)?;
    let name = format!("{} {}", registration.stream, registration.version);
    operator
        .note(
            &permit,
            "Schema.Registered",
            (format!("Schema.{name}"), &Why::default()),
        )
        .await?;
    let mut lines = vec![format!("{name} is registered")];
    lines.extend(told(&found));
    Ok(lines)
}

async fn check(config: Config, arguments: CheckArguments) -> Result<Vec<String>, Error> {
    let stream = name(&arguments.stream)?;
    let found = match (arguments.file, arguments.from, arguments.to) {
        (Some(file), ..) => {
            let schema = read(&file)?;
            let upcaster = arguments.upcaster.as_deref().map(read_upcaster);
            let upcaster = upcaster.transpose()?;
            let version = arguments.number.as_deref().map(number).transpose()?;
            let operator = Operator::open(config).await?;
            let version = match version {
                Some(version) => version,
                None => next(&operator, &arguments.tenant, &stream).await?,
            };
            let registration = Registration {
                stream,
                version,
                schema,
                upcaster,
                required: None,
            };
            admitted(&operator, &arguments.tenant, &registration).await?
        }
        (None, from, to) => {
            let pair = [from, to].map(|version| number(version.as_deref().unwrap_or_default()));
            let [from, to] = pair;
            let operator = Operator::open(config).await?;
            compare(&operator, &arguments.tenant, &stream, [from?, to?]).await?
        }
    };
    Ok(told(&found))
}

/// The version that a schema gets if nobody says which.
async fn next(
    operator: &Operator,
    tenant: &str,
    stream: &StreamName,
) -> Result<SchemaVersion, operator::Error> {
    let permit = operator
        .permit::<SchemaRead>(&TenantId::parse(tenant)?)
        .await?;
    let all = operator.service.schemas.list(&permit).await?;
    let latest = all.streams.get(stream).and_then(StreamSchemas::latest);
    Ok(
        latest.map_or(SchemaVersion::DEFAULT, |latest| SchemaVersion {
            minor: latest.version.minor.saturating_add(1),
            ..latest.version
        }),
    )
}

async fn admitted(
    operator: &Operator,
    tenant: &str,
    registration: &Registration,
) -> Result<Comparison, operator::Error> {
    let permit = operator
        .permit::<SchemaRead>(&TenantId::parse(tenant)?)
        .await?;
    refused(operator.service.schemas.check(&permit, registration).await)
}

async fn compare(
    operator: &Operator,
    tenant: &str,
    stream: &StreamName,
    pair: [SchemaVersion; 2],
) -> Result<Comparison, operator::Error> {
    let permit = operator
        .permit::<SchemaRead>(&TenantId::parse(tenant)?)
        .await?;
    let schemas = &operator.service.schemas;
    refused(schemas.compare(&permit, stream, pair).await)
}

async fn list(
    operator: &Operator,
    tenant: &str,
    only: Option<&str>,
) -> Result<Vec<String>, operator::Error> {
    let permit = operator
        .permit::<SchemaRead>(&TenantId::parse(tenant)?)
        .await?;
    let only = only.map(StreamName::parse).transpose()?;
    let all = operator.service.schemas.list(&permit).await?;
    let mut lines = Vec::new();
    for (stream, schemas) in &all.streams {
        if only.as_ref().is_none_or(|only| only == stream) {
            let versions = schemas.versions.iter();
            lines.extend(versions.map(|known| line(stream, schemas.required, known)));
        }
    }
    Ok(lines)
}

async fn show(
    operator: &Operator,
    tenant: &str,
    stream: &str,
    version: Option<SchemaVersion>,
) -> Result<String, operator::Error> {
    let permit = operator
        .permit::<SchemaRead>(&TenantId::parse(tenant)?)
        .await?;
    let stream = StreamName::parse(stream)?;
    let (_, text) = operator
        .service
        .schemas
        .get(&permit, &stream, version)
        .await?;
    Ok(text)
}

async fn deprecate(
    operator: &Operator,
    tenant: &str,
    stream: &str,
    version: SchemaVersion,
    days: u32,
) -> Result<Deprecation, operator::Error> {
    let permit = operator
        .permit::<SchemaWrite>(&TenantId::parse(tenant)?)
        .await?;
    let stream = StreamName::parse(stream)?;
    let schemas = &operator.service.schemas;
    let end = refused(schemas.deprecate(&permit, &stream, version, days).await)?;
    operator
        .note(
            &permit,
            "Schema.Deprecated",
            (format!("Schema.{stream} {version}"), &Why::default()),
        )
        .await?;
    Ok(end)
}

/// What there is to be said against a schema is the answer to whoever brings it.
fn refused<T>(outcome: Result<T, schema::Error>) -> Result<T, operator::Error> {
    outcome.map_err(|error| match error {
        schema::Error::Invalid(reasons) | schema::Error::Incompatible(reasons) => {
            operator::Error::SchemaRefused(reasons)
        }
        other => operator::Error::Schema(other),
    })
}

fn told(found: &Comparison) -> Vec<String> {
    let mut lines = vec![format!("compatibility: {}", found.compatibility.as_str())];
    for (title, reasons) in [
        ("old records, new schema", &found.backward),
        ("new records, old schema", &found.forward),
    ] {
        lines.extend(reasons.iter().map(|reason| format!("  {title}: {reason}")));
    }
    lines
}

fn line(stream: &StreamName, required: Required, known: &Registered) -> String {
    let mut line = format!(
        "{:<24} {:<8} {:<9} {}",
        stream.to_string(),
        known.version.to_string(),
        required.as_str(),
        known.registered_at.date()
    );
    if let Some(upcaster) = &known.upcaster {
        line.push_str(&format!("  from {}", upcaster.from));
    }
    if let Some(end) = &known.deprecated {
        line.push_str(&format!("  ends {}", end.sunset.date()));
    }
    line
}

fn name(text: &str) -> Result<StreamName, operator::Error> {
    Ok(StreamName::parse(text)?)
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(file).map_err(|source| Error::File(file.to_owned(), source))
}

fn read_upcaster(file: &Path) -> Result<Upcaster, Error> {
    serde_json::from_slice(&read(file)?)
        .map_err(|source| Error::Operator(operator::Error::Upcaster(source)))
}

fn number(text: &str) -> Result<SchemaVersion, Error> {
    let unknown = operator::Error::Word {
        what: "version",
        known: "major.minor, such as 1.0".to_owned(),
    };
    Ok(SchemaVersion::parse(text).ok_or(unknown)?)
}

fn word(text: &str) -> Result<Required, Error> {
    let known = Required::ALL.into_iter().find(|word| word.as_str() == text);
    let unknown = || operator::Error::Word {
        what: "requirement",
        known: Required::ALL.map(Required::as_str).join(", "),
    };
    Ok(known.ok_or_else(unknown)?)
}
