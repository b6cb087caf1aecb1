//! `trailhouse witness`: somebody who sees to it that logs only grow, and says so.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use catalog::clock::{SystemClock, SystemRandom};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::say;
use crate::listen::{self, Bounds, Protocol};
use crate::witness::serving::{self, ServedWitness, open_key};

/// What to do.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Cosign checkpoints of logs over HTTP, until SIGTERM or SIGINT (C2SP tlog-witness)
    #[command(
        after_help = "Example:\n  curl -H \"$TOKEN\" $URL/v1/audit/integrity/audit.default/keys > logs.txt\n  trailhouse witness serve --name witness.example/one --logs logs.txt"
    )]
    Serve {
        #[command(flatten)]
        own: Own,
        /// The logs: a file with their verifier keys, a line each, read anew for every request; # begins a remark
        #[arg(long, value_name = "FILE")]
        logs: PathBuf,
        /// Where to listen
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:31395")]
        listen: SocketAddr,
    },
    /// Print the verifier key of the witness, which is made if there is none
    #[command(after_help = "Example:\n  trailhouse witness key --name witness.example/one")]
    Key {
        #[command(flatten)]
        own: Own,
    },
}

#[derive(Debug, clap::Args)]
struct Own {
    /// What the witness is called in its signatures
    #[arg(long)]
    name: String,
    /// Where its key is, and what it has seen
    #[arg(long, value_name = "FOLDER", default_value = "./trailhouse-witness")]
    folder: PathBuf,
}

/// Why there is no witness.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Itself.
    #[error("there is no witness")]
    Witness(#[from] serving::Error),
    /// Its address.
    #[error("cannot listen on {0}")]
    Bind(SocketAddr, #[source] std::io::Error),
    /// Signals.
    #[error("the signals of the system cannot be heard")]
    Signals(#[source] std::io::Error),
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), Error> {
    match &arguments.verb {
        Verb::Key { own } => {
            let (_, public) = open_key(&own.folder, &own.name, &SystemRandom)?;
            say(public);
        }
        Verb::Serve { own, logs, listen } => {
            let clock = Arc::new(SystemClock);
            let place = (own.folder.as_path(), own.name.as_str());
            let witness = ServedWitness::open(place, logs.clone(), clock, &SystemRandom)?;
            serve(Arc::new(witness), *listen).await?;
        }
    }
    Ok(())
}

async fn serve(witness: Arc<ServedWitness>, listen: SocketAddr) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let bind = |error| Error::Bind(listen, error);
    let listener = TcpListener::bind(listen).await.map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    say(format!("witness   {}", witness.public()));
    say(format!("listens   http://{address}"));
    let (stop, stopped) = watch::channel(false);
    let served = (witness.router(), Protocol::Http);
    let serving = listen::serve(listener, None, served, stopped, Bounds::default());
    let stopping = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.send_replace(true);
    };
    tokio::join!(serving, stopping);
    Ok(())
}
