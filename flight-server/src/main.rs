//! The binary `trailhouse`: reads the command line, runs the verb, says what went wrong.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use clap::Parser;
use flight_server::cli::Cli;
use flight_server::observe;
use flight_server::service::install_tls_provider;

/// A record is some hundred small allocations that one thread makes and another frees; the system's allocator spends
/// half of an ingest's time on that. It asks for no huge pages: they took a fifth to a half more memory, and no less time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Plans are trees, and trees are walked and dropped by recursion: a worker's stack must hold the deepest plan that the
/// limits admit, many times over. It is address space, not memory, until it is used.
const STACK_BYTES: usize = 64 << 20;

/// How long the last lines may take: whoever should read them may have stopped to.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    install_tls_provider();
    let command = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK_BYTES)
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(command.run())),
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    observe::settle(LAST_WORDS_MAX);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Says what went wrong, if standard error can be written.
fn complain(error: &dyn Error) {
    let mut line = format!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(&format!(": {error}"));
        cause = error.source();
    }
    line.push('\n');
    let (said, done) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = std::io::stderr().write_all(line.as_bytes());
        let _ = said.send(());
    });
    let _ = done.recv_timeout(LAST_WORDS_MAX);
}
