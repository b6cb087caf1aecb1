//! `trailhouse demo`: the main job, for real: two tenants in two silos, records over HTTP, questions over Flight SQL.
//!
//! It runs in a folder of its own with keys of its own, on free ports of the loopback interface.

mod disk;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use catalog::clock::{Clock, SeededRandom, SystemClock};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::generate::Generator;
use super::ingest::source::Format;
use super::ingest::{self, Summary, Target};
use super::operator::{self, Operator, Why};
use super::reach::{self, Reach};
use super::serve::{self, Addresses, Server};
use super::sql::{self, Session};
use super::{say, tenant, token};
use crate::config::{self, Config};
use crate::service::{self, Service};

const TOKEN_LIFETIME: Duration = Duration::from_secs(12 * 3_600);
const SEED: u64 = 20_260_101;
/// Tenant and silo.
const TENANTS: [(&str, &str); 2] = [("acme", "eu"), ("globex", "us")];
const QUESTION: &str = "SELECT created_at, action, actor_id, resource_id, context FROM audit.records \
                        ORDER BY created_at DESC LIMIT 4";
const GROUPED: &str = "SELECT action, count(*) AS n FROM audit.records GROUP BY action ORDER BY n DESC, action LIMIT 5";
const COUNT: &str = "SELECT count(*) FROM audit.records";
/// How long acknowledged records may take to be seen, and how often is asked.
const VISIBLE_WAIT_MAX: Duration = Duration::from_secs(60);
const VISIBLE_ASK: Duration = Duration::from_millis(100);
const FOREIGN: &str = "SELECT count(*) FROM globex.audit.records";
const PYTHON: &str = r#"import adbc_driver_flightsql.dbapi as adbc
connection = adbc.connect("URI", {"adbc.flight.sql.authorization_header": "Bearer TOKEN"}, autocommit=True)
print(connection.execute("SELECT action, count(*) AS n FROM audit.records GROUP BY action ORDER BY n DESC LIMIT 3").fetch_arrow_table().to_pylist())"#;

/// How to run it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Leave the server up until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Take real CloudTrail files instead of made-up records
    #[arg(long, value_name = "DIR")]
    cloudtrail: Option<PathBuf>,
    /// Made-up records for each tenant
    #[arg(long, default_value_t = 5_000)]
    records: usize,
    /// A Python with adbc-driver-flightsql and pyarrow; without it the three lines are only shown
    #[arg(long)]
    python: Option<PathBuf>,
    /// Folder for data and keys; must not exist yet. Default: a new one in the system's temporary folder
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// Why the demo stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder.
    #[error("the folder `{}` cannot be used", .0.display())]
    Folder(PathBuf, #[source] std::io::Error),
    /// The settings.
    #[error("the demo's settings are wrong")]
    Config(#[from] config::Error),
    /// The way to the server.
    #[error(transparent)]
    Reach(#[from] reach::Error),
    /// The server.
    #[error("the server cannot be run")]
    Service(#[from] service::Error),
    /// Its listeners.
    #[error("the server cannot be run")]
    Serve(#[from] serve::Error),
    /// Onboarding.
    #[error("the tenants cannot be made")]
    Operator(#[from] operator::Error),
    /// Records.
    #[error("the records cannot be sent")]
    Ingest(#[from] ingest::Error),
    /// Questions.
    #[error("the question has no answer")]
    Sql(#[from] sql::Error),
    /// What must be refused was not.
    #[error("a question about another tenant was answered")]
    NotRefused,
    /// Records that were acknowledged cannot be read.
    #[error("acknowledged records are not to be seen")]
    NotVisible,
    /// The server ended.
    #[error("the server ended early")]
    Ended,
}

/// Runs it.
///
/// # Errors
/// When a step does not do what it shows.
pub async fn run(arguments: &Arguments) -> Result<(), Error> {
    let folder = new_folder(arguments.folder.as_deref())?;
    let service = Service::build(settings(&folder)?).await?;
    let server = Server::bind(Arc::clone(&service)).await?;
    let addresses = server
        .addresses()
        .map_err(|source| Error::Folder(folder.clone(), source))?;
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.run(async move {
        let _ = stopped.await;
    }));
    let demo = Demo {
        service,
        addresses,
        folder,
    };
    let shown = demo.show(arguments).await;
    if shown.is_ok() && arguments.keep {
        demo.keep().await;
    }
    drop(stop);
    serving.await.map_err(|_| Error::Ended)??;
    shown?;
    if !arguments.keep && arguments.folder.is_none() {
        let removed = std::fs::remove_dir_all(&demo.folder);
        removed.map_err(|source| Error::Folder(demo.folder.clone(), source))?;
    }
    Ok(())
}

fn new_folder(named: Option<&Path>) -> Result<PathBuf, Error> {
    let folder = named.map_or_else(
        || std::env::temp_dir().join(format!("trailhouse-demo-{}", std::process::id())),
        Path::to_path_buf,
    );
    std::fs::create_dir(&folder).map_err(|source| Error::Folder(folder.clone(), source))?;
    folder
        .canonicalize()
        .map_err(|source| Error::Folder(folder, source))
}

fn settings(folder: &Path) -> Result<Config, Error> {
    let at = |name: &str| folder.join(name).display().to_string();
    let mut settings = format!(
        "[control]\nroot = {:?}\n[keys]\nfolder = {:?}\n[wal]\nfolder = {:?}\n\
         [queries]\nspill_folder = {:?}\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"text\"\n",
        at("control"),
        at("keys"),
        at("wal"),
        at("spill")
    );
    for (_, silo) in TENANTS {
        let root = at(silo);
        settings.push_str(&format!(
            "[silos.{silo}]\nroot = {root:?}\nflight = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n"
        ));
    }
    Ok(config::from_text(&settings, std::iter::empty())?)
}

/// A running server and where it is.
struct Demo {
    service: Arc<Service>,
    addresses: Vec<Addresses>,
    folder: PathBuf,
}

fn title(text: &str) {
    say(format!("\n== {text}"));
}

impl Demo {
    async fn show(&self, arguments: &Arguments) -> Result<(), Error> {
        title("Two tenants in two silos");
        let operator = self.operator().await?;
        for (id, silo) in TENANTS {
            let record = tenant::create(&operator, id, (Some(silo), &[]), &Why::default()).await?;
            say(format!(
                "{id}: {} in silo {silo}, policy tenant:{id}@1, keys of its own",
                record.state
            ));
        }
        title("Records in, over HTTP");
        for (id, silo) in TENANTS {
            let summary = self.ingest(arguments, id, silo).await?;
            say(format!(
                "{id}: {} accepted, {} refused",
                summary.accepted, summary.refused
            ));
            self.visible(id, summary.accepted).await?;
        }
        title("One question, two roles");
        say(QUESTION);
        for role in ["Reader", "Investigator"] {
            say(format!("\nas {role}:"));
            say(sql::table(&self.ask("acme", role, QUESTION).await?)?);
        }
        title(
            "Masked values group and count like clear ones; the numbers are the same for both roles",
        );
        say(sql::table(&self.ask("acme", "Reader", GROUPED).await?)?);
        title("acme asks for globex");
        self.refused().await?;
        title("EXPLAIN names the rules that were injected");
        say(sql::table(
            &self
                .ask("acme", "Reader", &format!("EXPLAIN {GROUPED}"))
                .await?,
        )?);
        title("What lies on disk");
        say(self.disk().await?);
        title("Three lines of Python");
        self.python(arguments.python.as_deref())?;
        Ok(())
    }

    fn mint(
        &self,
        request: &crate::auth::developer::TokenRequest,
    ) -> Result<String, operator::Error> {
        token::mint(&self.service.config, request, TOKEN_LIFETIME)
    }

    async fn operator(&self) -> Result<Operator, operator::Error> {
        Operator::sign_in(Arc::clone(&self.service), &self.mint(&operator::request())?).await
    }

    fn address(&self, silo: &str) -> Option<&Addresses> {
        self.addresses
            .iter()
            .find(|address| address.silo.as_str() == silo)
    }

    fn flight(&self, tenant: &str) -> String {
        let silo = TENANTS
            .iter()
            .find(|(id, _)| *id == tenant)
            .map_or("", |(_, silo)| silo);
        self.address(silo)
            .map(|address| address.flight.to_string())
            .unwrap_or_default()
    }

    async fn ingest(&self, arguments: &Arguments, id: &str, silo: &str) -> Result<Summary, Error> {
        let token = self.mint(&ingest::writer(id))?;
        let url = self
            .address(silo)
            .map(|address| format!("http://{}", address.http))
            .unwrap_or_default();
        let target = Target {
            url: &url,
            tenant: id,
            token: &token,
            stream: None,
        };
        if let Some(folder) = &arguments.cloudtrail {
            return Ok(
                ingest::files(&target, std::slice::from_ref(folder), Format::Cloudtrail).await?,
            );
        }
        let random = Arc::new(SeededRandom::new(SEED));
        let generator = Generator::new(id, SystemClock.now(), random);
        Ok(ingest::records(&target, generator.take(arguments.records)).await?)
    }

    async fn session(&self, tenant: &str, role: &str) -> Result<Session, Error> {
        let token = self.mint(&sql::reader(tenant, role)?)?;
        let uri = format!("http://{}", self.flight(tenant));
        let endpoint = Reach::default().flight(&uri)?;
        Ok(Session::connect((&uri, endpoint), &token, None).await?)
    }

    async fn ask(
        &self,
        tenant: &str,
        role: &str,
        sql: &str,
    ) -> Result<Vec<arrow::array::RecordBatch>, Error> {
        Ok(self.session(tenant, role).await?.query(sql).await?)
    }

    /// Waits until what was acknowledged can be read: it is in the log first, and a moment later in its table.
    async fn visible(&self, id: &str, records: u64) -> Result<(), Error> {
        use arrow::array::AsArray;
        use arrow::datatypes::Int64Type;
        let end = Instant::now() + VISIBLE_WAIT_MAX;
        loop {
            let counted = self.ask(id, "Investigator", COUNT).await?;
            let count = counted
                .first()
                .and_then(|batch| batch.column(0).as_primitive_opt::<Int64Type>())
                .and_then(|counts| counts.iter().next().flatten());
            if count.is_some_and(|count| u64::try_from(count).is_ok_and(|count| count >= records)) {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(Error::NotVisible);
            }
            tokio::time::sleep(VISIBLE_ASK).await;
        }
    }

    async fn refused(&self) -> Result<(), Error> {
        say(FOREIGN);
        match self
            .session("acme", "Investigator")
            .await?
            .query(FOREIGN)
            .await
        {
            Ok(_) => Err(Error::NotRefused),
            Err(sql::Error::Refused { problem, message }) => {
                say(problem.unwrap_or(message));
                Ok(())
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Searches every byte for values of records; the actors are asked for as somebody who may see them.
    async fn disk(&self) -> Result<String, Error> {
        use arrow::array::AsArray;
        let mut values = Vec::new();
        for (id, _) in TENANTS {
            let sql = "SELECT DISTINCT actor_id FROM audit.records UNION SELECT DISTINCT action FROM audit.records";
            for batch in self.ask(id, "Investigator", sql).await? {
                let column = batch.column(0).as_string_opt::<i32>();
                values.extend(column.into_iter().flatten().flatten().map(str::to_owned));
            }
        }
        say(format!(
            "searched for {} values of records, in every byte of every file",
            values.len()
        ));
        let roots: Vec<_> = ["control", "wal", "eu", "us"]
            .iter()
            .map(|name| (*name, self.folder.join(name)))
            .collect();
        let roots: Vec<_> = roots
            .iter()
            .map(|(name, root)| (*name, root.as_path()))
            .collect();
        disk::report(&roots, &values).map_err(|source| Error::Folder(self.folder.clone(), source))
    }

    fn python(&self, python: Option<&Path>) -> Result<(), Error> {
        let token = self.mint(&sql::reader("acme", "Reader")?)?;
        let program = PYTHON.replace("URI", &format!("grpc://{}", self.flight("acme")));
        say(program.replace("TOKEN", "…"));
        let Some(python) = python else { return Ok(()) };
        let program = program.replace("TOKEN", &token);
        let output = std::process::Command::new(python)
            .arg("-c")
            .arg(program)
            .output();
        let output = output.map_err(|source| Error::Folder(python.to_path_buf(), source))?;
        say(format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
        .trim_end());
        if output.status.success() {
            Ok(())
        } else {
            Err(Error::Ended)
        }
    }

    async fn keep(&self) {
        title("The server stays up; Ctrl-C stops it");
        say(format!("data and keys: {}", self.folder.display()));
        for (id, _) in TENANTS {
            let Ok(token) = sql::reader(id, "Investigator").and_then(|request| self.mint(&request))
            else {
                continue;
            };
            say(format!("{id}: grpc://{}  token {token}", self.flight(id)));
        }
        let _ = tokio::signal::ctrl_c().await;
    }
}
