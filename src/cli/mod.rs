//! The command line: one file a command.

mod check;
mod completions;
mod demo;
mod explain;
mod healthcheck;
mod openapi;
mod serve;
mod sim;
mod token;

use std::{fmt::Display, path::Path, process::ExitCode};

use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;

use crate::{
    config::{
        self, Config,
        document::Document,
        mistake::{Mistake, Mistakes},
    },
    identity::IssuerError,
    process,
    reload::Ask,
    server::Stop,
    tls::PairError,
};

/// A gateway between internal apps and the Admintotal ERP.
#[derive(Debug, Parser)]
#[command(name = "llavero", version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    Serve(serve::Arguments),
    /// Run everything in one process: a simulated ERP, the gateway, tokens and curl lines to try
    Demo(demo::Arguments),
    Sim(sim::Arguments),
    /// Read the whole configuration and name every mistake
    Check(check::Arguments),
    /// Sign a token for development
    Token(token::Arguments),
    /// Print the OpenAPI document
    Openapi(openapi::Arguments),
    /// Ask the admin port whether the gateway is alive
    Healthcheck(healthcheck::Arguments),
    /// Print completions for a shell
    Completions(completions::Arguments),
}

/// What ends a command early, in words for whoever typed it.
struct Failed(String);

impl Failed {
    fn new(what: impl Display) -> Self {
        Self(what.to_string())
    }
}

/// Runs the command of this process's arguments.
#[must_use]
pub fn run() -> ExitCode {
    let is_private = process::keep_memory_private();
    process::take_small_pages();
    let done = match Arguments::parse().command {
        Command::Serve(arguments) => serve::run(&arguments, is_private),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Sim(arguments) => sim::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Token(arguments) => token::run(&arguments),
        Command::Openapi(arguments) => openapi::run(&arguments),
        Command::Healthcheck(arguments) => healthcheck::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed(what)) => {
            eprintln!("{what}");
            ExitCode::FAILURE
        }
    }
}

/// The environment variable of that name.
fn env(name: &str) -> Option<String> {
    config::process_env()
        .into_iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

/// The configuration of a file and this process's environment.
fn load(path: &Path) -> Result<Config, Failed> {
    config::load(path, config::process_env()).map_err(|mistakes| correct(&mistakes))
}

fn correct(mistakes: &Mistakes) -> Failed {
    Failed(format!("{mistakes}\nCorrect these and try again."))
}

/// Issuers' keys that can't be used, with file and line of the settings that name them.
fn issuer_mistakes(path: &Path, errors: &[IssuerError]) -> Vec<Mistake> {
    let document = Document::read(path).ok();
    let told = |error: &IssuerError| match &document {
        Some(document) => error.mistake(document),
        None => Mistake::of_file(path, error.to_string()),
    };
    errors.iter().map(told).collect()
}

/// A certificate or its key that can't be used, with file and line of the setting that names it.
fn pair_mistake(path: &Path, error: &PairError) -> Mistake {
    match Document::read(path) {
        Ok(document) => document.mistake(error.setting, error.to_string()),
        Err(_) => Mistake::of_file(path, error.to_string()),
    }
}

/// `1 tenant`, `2 tenants`.
fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Writes a result to stdout. Who reads it may stop reading.
fn print(text: &str) -> Result<(), Failed> {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failed(format!("can't write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

fn runtime() -> Result<Runtime, Failed> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failed(format!("the runtime can't start: {error}")))
}

/// Begins the drain at the first SIGTERM or SIGINT, and cuts it short at the second.
/// SIGHUP asks for a reload.
fn stop_signals(reload: Option<Ask>) -> Result<Stop, Failed> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen =
        |kind| signal(kind).map_err(|error| Failed(format!("can't listen for signals: {error}")));
    let (mut terminate, mut interrupt) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
    );
    let mut hangup = listen(SignalKind::hangup())?;
    let stop = Stop::default();
    let Stop { drain, at_once } = stop.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "it waits for signals, as long as the process lives"
    )]
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {
                    tracing::info!("SIGHUP: reloading");
                    if let Some(reload) = &reload {
                        reload.reload();
                    }
                    continue;
                }
            }
            if drain.is_cancelled() {
                at_once.cancel();
            }
            drain.cancel();
        }
    });
    Ok(stop)
}
