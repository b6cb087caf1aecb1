//! The binary `trailhouse`: reads the command line, runs the verb, says what went wrong.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use flight_server::cli::Cli;
use flight_server::service::install_tls_provider;

#[tokio::main]
async fn main() -> ExitCode {
    install_tls_provider();
    let outcome = Box::pin(Cli::parse().run()).await;
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "standard error is where a command line says what went wrong"
)]
fn complain(error: &dyn Error) {
    eprint!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprint!(": {error}");
        cause = error.source();
    }
    eprintln!();
}
