//! `herald send`: sends one message by the HTTP API, once, however often that has to be tried.
//!
//! Standard output gets the message's id, or with `--json` the stored row; everything else goes to standard error.

use std::{
    fmt,
    io::{self, Read, Write},
    process::ExitCode,
};

use uuid::Uuid;

use super::{EXIT_USAGE, fail};
use crate::{
    client::{CallError, Draft, GatewayClient, SendError, Sent, send_patiently},
    config::send::{SendFlags, SendSettings, Text},
};

/// The most that is read from standard input. A message has at most 10,000 characters of four bytes; whatever is longer,
/// but not endless, is left to the gateway to refuse in its own words.
const INPUT_BYTES_MAX: u64 = 64 * 1024;

/// Why nothing was sent, or not for certain.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Client(#[from] CallError),
    #[error("{error}{}", Afterwards { id: *id, error })]
    Send { id: Uuid, error: SendError },
    #[error("standard input cannot be read: {0}")]
    Input(io::Error),
    #[error(
        "standard input has more than {} KiB; a message has at most 10,000 characters",
        INPUT_BYTES_MAX / 1024
    )]
    InputTooLong,
    #[error("standard input is not UTF-8 text: {0}")]
    NotText(std::str::Utf8Error),
    #[error("the process cannot be set up: {0}")]
    Process(io::Error),
}

/// What to do if nobody knows whether the message was stored.
struct Afterwards<'a> {
    id: Uuid,
    error: &'a SendError,
}

impl fmt::Display for Afterwards<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.error.may_be_stored {
            write!(
                formatter,
                "\nThe message may have been stored all the same. Sent again with --id {}, it is stored once.",
                self.id
            )
        } else {
            Ok(())
        }
    }
}

/// Sends, and answers 0 once the gateway has the message.
pub(super) fn run(flags: SendFlags) -> ExitCode {
    let settings = match flags.check() {
        Ok(settings) => settings,
        Err(mistakes) => return fail("send", &mistakes, EXIT_USAGE),
    };
    let json = settings.json;
    match send(settings) {
        Ok(sent) => {
            // Where standard output is closed, the exit code tells.
            let _told = if json {
                writeln!(io::stdout(), "{}", sent.row)
            } else {
                writeln!(io::stdout(), "{}", sent.id)
            };
            ExitCode::SUCCESS
        }
        Err(error) => fail("send", &error, 1),
    }
}

fn send(settings: SendSettings) -> Result<Sent, RunError> {
    let SendSettings {
        url,
        credentials,
        conversation,
        id,
        text,
        patience,
        json: _,
    } = settings;
    let content = match text {
        Text::Typed(text) => text,
        Text::StandardInput => read(io::stdin().lock())?,
    };
    let client = GatewayClient::new(url, credentials)?;
    let draft = Draft { id, content };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Process)?;
    let sent = runtime.block_on(send_patiently(
        &client,
        conversation,
        &draft,
        patience,
        |waiting| {
            // Where nobody reads standard error, there is nobody to tell.
            let _told = writeln!(
                io::stderr(),
                "herald send: {}; trying again in {:.1} s",
                waiting.why,
                waiting.delay.as_secs_f64()
            );
        },
    ));
    // Looking up a name may be under way still.
    runtime.shutdown_background();
    sent.map_err(|error| RunError::Send { id, error })
}

/// Reads the text of a message, without the line end that `echo` and editors put behind it.
fn read(input: impl Read) -> Result<String, RunError> {
    let mut bytes = Vec::new();
    // One byte more than is allowed is enough to know that it is too long.
    input
        .take(INPUT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(RunError::Input)?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(RunError::InputTooLong);
    }
    let text = std::str::from_utf8(&bytes).map_err(RunError::NotText)?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_input_is_text_without_its_last_line_end_and_not_endless() {
        assert_eq!(read(&b"two\nlines\r\n"[..]).unwrap(), "two\nlines");
        assert_eq!(read(&b""[..]).unwrap(), "");
        assert!(matches!(read(&b"\xff"[..]), Err(RunError::NotText(_))));
        assert!(matches!(read(io::repeat(b'x')), Err(RunError::InputTooLong)));
    }
}
