//! `herald token`: prints a token for development.
//!
//! Only the token goes to standard output, so that `TOKEN=$(herald token --user …)` works.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::EXIT_USAGE;
use crate::{
    auth::issue,
    config::token::{TokenFlags, TokenSettings},
};

/// Prints a token, or says on standard error why there is none.
pub(super) fn run(flags: TokenFlags) -> ExitCode {
    let settings = match flags.check() {
        Ok(settings) => settings,
        Err(mistakes) => return fail(&mistakes, EXIT_USAGE),
    };
    let TokenSettings {
        user,
        lifetime,
        secret,
        audience,
        issuer,
    } = settings;
    match issue(&secret, user, audience.as_deref(), issuer.as_deref(), lifetime) {
        Ok(token) => match writeln!(io::stdout(), "{}", token.expose()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, 1),
        },
        Err(error) => fail(&error, 1),
    }
}

fn fail(problem: &dyn std::fmt::Display, code: u8) -> ExitCode {
    // If standard error is closed there is nobody to tell; the exit code still does.
    let _told = writeln!(io::stderr(), "herald token: {problem}");
    ExitCode::from(code)
}
