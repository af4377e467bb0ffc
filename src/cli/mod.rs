//! The commands. Each file runs one; what it was told stands in the file of the same name under `config`.

mod dev;
mod healthcheck;
mod load;
mod migrate;
mod send;
mod serve;
mod signals;
mod tail;
mod token;

use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::config::{
    dev::{ChatterFlags, DevFlags},
    healthcheck::HealthcheckFlags,
    load::LoadFlags,
    migrate::MigrateFlags,
    send::SendFlags,
    serve::ServeFlags,
    tail::TailFlags,
    token::TokenFlags,
};

/// Settings or flags that cannot be used: `EX_USAGE` of BSD's `sysexits.h`.
pub const EXIT_USAGE: u8 = 64;

/// A realtime gateway beside a web application and its Postgres.
#[derive(Debug, Parser)]
#[command(name = "herald", version, about, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Serve(Box<ServeFlags>),
    /// Install, upgrade or remove what Herald needs in the database; safe to repeat, safe on a live table.
    Migrate(MigrateFlags),
    /// Print a token for development, signed with the shared secret.
    Token(TokenFlags),
    /// Follow one user's messages as they come, through restarts of the gateway and losses of the network.
    Tail(Box<TailFlags>),
    /// Send a message to somebody by the HTTP API, once, however often that has to be tried.
    Send(Box<SendFlags>),
    /// Ask a gateway whether it is alive, or ready; for containers that have no other client.
    Healthcheck(HealthcheckFlags),
    /// Put a gateway under load, by default one of its own: latency, throughput, processor time, memory, and whatever is lost or comes twice.
    Load(Box<LoadFlags>),
    /// Run a private Postgres, a demo application with people who talk, and the gateway, all in one.
    Dev(DevFlags),
    /// People of the demo who talk until standard input ends; started by `herald dev`.
    #[command(hide = true)]
    DevChatter(ChatterFlags),
}

/// Reads the command line and runs what it asks for. The answer is the process's exit code.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` arrive here too, and they are no mistake. A closed standard output leaves
            // nobody to tell, so a failure to print is no failure of its own.
            let _printed = error.print();
            return if error.use_stderr() {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match cli.command {
        Command::Serve(flags) => serve::run(*flags),
        Command::Migrate(flags) => migrate::run(flags),
        Command::Token(flags) => token::run(flags),
        Command::Tail(flags) => tail::run(*flags),
        Command::Send(flags) => send::run(*flags),
        Command::Healthcheck(flags) => healthcheck::run(flags),
        Command::Load(flags) => load::run(*flags),
        Command::Dev(flags) => dev::run(flags),
        Command::DevChatter(flags) => dev::run_chatter(flags),
    }
}

/// Says on standard error why a command ends, and answers its exit code.
fn fail(command: &str, problem: &dyn Display, code: u8) -> ExitCode {
    // If standard error is closed, the exit code still tells.
    let _written = writeln!(io::stderr(), "herald {command}: {problem}");
    ExitCode::from(code)
}
