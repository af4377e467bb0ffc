//! The `herald` program. Everything is in the library; this only hands over the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    herald::cli::run()
}
