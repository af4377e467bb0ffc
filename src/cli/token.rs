//! `herald token`: prints a token for development.
//!
//! Only the token goes to standard output, so that `TOKEN=$(herald token --user …)` works.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::{EXIT_USAGE, fail};
use crate::{
    auth::issue,
    config::token::{TokenFlags, TokenSettings},
};

/// Prints a token, or says on standard error why there is none.
pub(super) fn run(flags: TokenFlags) -> ExitCode {
    let settings = match flags.check() {
        Ok(settings) => settings,
        Err(mistakes) => return fail("token", &mistakes, EXIT_USAGE),
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
            Err(error) => fail("token", &error, 1),
        },
        Err(error) => fail("token", &error, 1),
    }
}
