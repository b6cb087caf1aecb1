//! The command line: one file a noun. Standard output carries answers, standard error everything else.

pub mod audited;
mod bench;
mod bundle;
mod cloudtrail;
pub mod demo;
mod export;
mod generate;
pub mod ingest;
mod key;
mod operator;
mod output;
mod policy;
mod promise;
mod quarantine;
mod reach;
mod receipt;
mod repair;
mod schema;
pub mod serve;
mod sql;
mod table;
mod tenant;
mod token;
mod verify;
mod witness;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config;
use output::say;

/// Audit trails that you can hand to your worst critic.
#[derive(Debug, Parser)]
#[command(name = "trailhouse", version, max_term_width = 110)]
#[command(
    after_help = "Example:\n  trailhouse serve &\n  trailhouse tenant create acme\n  trailhouse sql --tenant acme"
)]
pub struct Cli {
    /// Settings; default: TRAILHOUSE_CONFIG, else ./trailhouse.toml if there is one, else built-in defaults
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the server until SIGTERM or SIGINT
    #[command(after_help = "Example:\n  trailhouse serve --config trailhouse.toml")]
    Serve,
    /// Run the main job on made-up or real records, and show what happens
    #[command(after_help = "Example:\n  trailhouse demo --cloudtrail tests/data/cloudtrail --keep")]
    Demo(demo::Arguments),
    /// Make a token of the development issuer
    #[command(after_help = "Example:\n  trailhouse token --tenant acme --role Reader")]
    Token(token::Arguments),
    /// Make tenants and move them through their life
    #[command(after_help = "Example:\n  trailhouse tenant create acme --silo eu")]
    Tenant(tenant::Arguments),
    /// Apply, test and show policy bundles
    #[command(
        after_help = "Example:\n  trailhouse policy show --tenant acme > acme.yaml\n  trailhouse policy apply acme.yaml --tenant acme"
    )]
    Policy(policy::Arguments),
    /// Show what tables consist of, and put them in order
    #[command(after_help = "Example:\n  trailhouse table stats --tenant acme")]
    Table(table::Arguments),
    /// Put right what a lost disk or a copied folder left behind
    #[command(after_help = "Example:\n  trailhouse repair dedup")]
    Repair(repair::Arguments),
    /// Register the schemas of a tenant's streams, and check what a change would break
    #[command(
        after_help = "Example:\n  trailhouse schema check audit.default order.json --tenant acme\n  trailhouse schema list --tenant acme"
    )]
    Schema(schema::Arguments),
    /// Send records from files
    #[command(
        after_help = "Example:\n  trailhouse ingest --tenant acme --format cloudtrail logs/ more.json.gz"
    )]
    Ingest(ingest::Arguments),
    /// Make load for a running server and measure its answers
    #[command(
        after_help = "Example:\n  trailhouse bench ingest --tenant acme --connections 1,64 --seconds 10 --json bench.json"
    )]
    Bench(bench::Arguments),
    /// Look at records that were kept aside, and decide of them
    #[command(
        after_help = "Example:\n  trailhouse quarantine list --tenant acme\n  trailhouse quarantine release <entry> --tenant acme --reason \"sent twice by mistake\""
    )]
    Quarantine(quarantine::Arguments),
    /// Take records out as files that prove themselves
    #[command(
        after_help = "Example:\n  trailhouse export create --tenant acme --purpose \"case 17\" --wait\n  trailhouse export download <id> acme-2026-01 --tenant acme\n  trailhouse verify bundle acme-2026-01 --jwks acme.jwks"
    )]
    Export(export::Arguments),
    /// Give out the public keys that a tenant checks signatures by
    #[command(after_help = "Example:\n  trailhouse key export --tenant acme > acme.jwks")]
    Key(key::Arguments),
    /// Check what an answer was, without a server
    #[command(
        after_help = "Example:\n  trailhouse receipt verify receipt.json --jwks acme.jwks --data result.arrow"
    )]
    Receipt(receipt::Arguments),
    /// Check proofs of records, logs and answers, without a server
    #[command(after_help = "Example:\n  trailhouse verify proof record.json --jwks acme.jwks")]
    Verify(verify::Arguments),
    /// Be a witness of logs: cosign their checkpoints as long as they only grow
    #[command(
        after_help = "Example:\n  trailhouse witness serve --name witness.example/one --logs logs.txt"
    )]
    Witness(witness::Arguments),
    /// Ask one question, or get a prompt
    #[command(
        after_help = "Example:\n  trailhouse sql --tenant acme --role Reader \"SELECT count(*) FROM audit.records\""
    )]
    Sql(sql::Arguments),
}

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings.
    #[error("the configuration cannot be used")]
    Config(#[from] config::Error),
    /// The server.
    #[error("the server stopped")]
    Serve(#[from] serve::Error),
    /// The demo.
    #[error("the demo stopped")]
    Demo(#[from] demo::Error),
    /// An administrative act.
    #[error("nothing was changed")]
    Operator(#[from] operator::Error),
    /// Several acts, one of which failed.
    #[error("not everything was done")]
    Unfinished(#[source] operator::Error),
    /// A file of the command line.
    #[error("cannot read `{}`", .0.display())]
    File(PathBuf, #[source] std::io::Error),
    /// A file that was asked for.
    #[error("cannot write `{}`", .0.display())]
    Write(PathBuf, #[source] std::io::Error),
    /// Standard output.
    #[error("the answer cannot be written to standard output")]
    Output(#[source] std::io::Error),
    /// Ingest.
    #[error("not everything was sent")]
    Ingest(#[from] ingest::Error),
    /// Some records were not taken.
    #[error("{0} record(s) were refused")]
    Refused(u64),
    /// Tests of a policy.
    #[error("{failed} of {all} tests of the policy failed")]
    PolicyTests {
        /// Those that are not true.
        failed: usize,
        /// All of them; a policy without tests is not tested.
        all: usize,
    },
    /// A measurement.
    #[error("nothing was measured")]
    Bench(#[from] bench::Error),
    /// Quarantine.
    #[error(transparent)]
    Quarantine(#[from] quarantine::Error),
    /// Exports.
    #[error(transparent)]
    Export(#[from] export::Error),
    /// Receipts.
    #[error(transparent)]
    Receipt(#[from] receipt::Error),
    /// What kept a check from being made.
    #[error(transparent)]
    Unchecked(Box<Error>),
    /// Proofs.
    #[error(transparent)]
    Verify(#[from] verify::Error),
    /// A witness.
    #[error(transparent)]
    Witness(#[from] witness::Error),
    /// The way to a server.
    #[error(transparent)]
    Reach(#[from] reach::Error),
    /// SQL.
    #[error(transparent)]
    Sql(#[from] sql::Error),
}

/// What a script sees of a check that could not be made, as opposed to one that went ill.
const UNCHECKED: u8 = 2;

impl Error {
    /// The exit code of a command that ended so.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Verify(error) if !error.is_verdict() => UNCHECKED,
            Self::File(..) | Self::Unchecked(_) => UNCHECKED,
            _ => 1,
        }
    }
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// Whatever the verb says, and when it did everything but could not say so.
    pub async fn run(self) -> Result<(), Error> {
        self.act().await?;
        output::said().map_err(Error::Output)
    }

    async fn act(self) -> Result<(), Error> {
        let config = config::load(self.config.as_deref());
        match self.verb {
            Verb::Serve => Ok(serve::run(config?).await?),
            // The demo brings its own settings: it must not touch anybody's data.
            Verb::Demo(arguments) => Ok(demo::run(&arguments).await?),
            Verb::Token(arguments) => token::run(config?, &arguments),
            Verb::Tenant(arguments) => tenant::run(config?, arguments).await,
            Verb::Policy(arguments) => policy::run(config?, arguments).await,
            Verb::Table(arguments) => table::run(config?, arguments).await,
            Verb::Repair(arguments) => repair::run(config?, arguments).await,
            Verb::Schema(arguments) => schema::run(config?, arguments).await,
            Verb::Ingest(arguments) => ingest::run(config?, &arguments).await,
            Verb::Bench(arguments) => bench::run(config?, &arguments).await,
            Verb::Quarantine(arguments) => quarantine::run(config?, &arguments).await,
            Verb::Export(arguments) => export::run(config?, &arguments).await,
            Verb::Key(arguments) => key::run(config?, arguments).await,
            // Whoever checks an answer need not have any of our settings.
            Verb::Receipt(arguments) => receipt::run(&arguments),
            Verb::Verify(arguments) => {
                let done = Box::pin(verify::run(config, &arguments)).await;
                done.map_err(|error| match error {
                    error @ (Error::Verify(_) | Error::Receipt(_)) => error,
                    other => Error::Unchecked(Box::new(other)),
                })
            }
            Verb::Witness(arguments) => Ok(witness::run(&arguments).await?),
            Verb::Sql(arguments) => sql::run(config?, &arguments).await,
        }
    }
}
