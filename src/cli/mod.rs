//! The commands. Each file runs one; what it was told stands in the file of the same name under `config`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::dev::{ChatterFlags, DevFlags};

pub mod dev;

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
    /// Run a private Postgres, a demo application with people who talk, and the gateway, all in one
    Dev(DevFlags),
    /// People of the demo who talk until standard input ends; started by `herald dev`
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
        Command::Dev(flags) => dev::run(flags),
        Command::DevChatter(flags) => dev::run_chatter(&flags),
    }
}
