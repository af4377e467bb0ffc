//! `herald tail`: follows one user's messages and prints them as they come.
//!
//! Events go to standard output, and nothing else but the mark of a gap; everything about the connection goes to standard
//! error. When the reader of standard output is gone, the command ends quietly.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use tokio::{
    io::{AsyncWriteExt, Stdout},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{EXIT_USAGE, fail, signals::Signals};
use crate::{
    config::tail::{TailFlags, TailSettings},
    tail::{
        Audience, Event, Notice, Tail, TailError,
        line::{Colours, gap_json, gap_line, line},
    },
};

/// How long the last line may take to be written when the command ends; its reader may be stuck.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Tail(#[from] TailError),
    #[error("the process cannot be set up: {0}")]
    Process(io::Error),
}

/// Follows until a signal ends it.
pub(super) fn run(flags: TailFlags) -> ExitCode {
    let settings = match flags.check() {
        Ok(settings) => settings,
        Err(mistakes) => return fail("tail", &mistakes, EXIT_USAGE),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail("tail", &RunError::Process(error), 1),
    };
    let ended = runtime.block_on(follow(settings));
    // A write that nobody reads may be under way for ever.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(RunError::Tail(TailError::Output(error))) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => fail("tail", &error, 1),
    }
}

async fn follow(settings: TailSettings) -> Result<(), RunError> {
    let mut signals = Signals::receive().map_err(RunError::Process)?;
    let stopping = CancellationToken::new();
    let mut printer = Printer::new(&settings);
    let mut tail = Tail::new(settings.client);
    let ended = {
        let mut running = Box::pin(tail.run(&mut printer, &stopping));
        tokio::select! {
            ended = &mut running => ended,
            () = signals.next() => {
                stopping.cancel();
                tokio::select! {
                    ended = running => ended,
                    // The second signal does not wait for the goodbye.
                    () = signals.next() => Ok(()),
                }
            }
        }
    };
    printer.finish(tail.cursor()).await;
    Ok(ended?)
}

/// Prints events and notices.
struct Printer {
    out: Stdout,
    json: bool,
    colours: Colours,
}

impl Printer {
    fn new(settings: &TailSettings) -> Self {
        let coloured = settings.wants_colours && io::stdout().is_terminal();
        Self {
            out: tokio::io::stdout(),
            json: settings.json,
            colours: if coloured { Colours::On } else { Colours::Off },
        }
    }

    async fn print(&mut self, lines: &str) -> io::Result<()> {
        self.out.write_all(lines.as_bytes()).await?;
        self.out.flush().await
    }

    async fn finish(&mut self, cursor: Option<&str>) {
        // Whatever could not be written in time has no reader.
        let _written = timeout(FLUSH_DEADLINE, self.out.flush()).await;
        if let Some(cursor) = cursor {
            say(&format_args!("to continue from here: --cursor {cursor}"));
        }
    }
}

impl Audience for Printer {
    async fn show(&mut self, viewer: Uuid, events: &[&Event]) -> io::Result<()> {
        let mut lines = String::new();
        for event in events {
            if self.json {
                lines.push_str(event.json());
            } else {
                lines.push_str(&line(event, viewer, self.colours));
            }
            lines.push('\n');
        }
        self.print(&lines).await
    }

    async fn show_gap(&mut self, reason: &str) -> io::Result<()> {
        let mut text = if self.json {
            gap_json(reason)
        } else {
            gap_line(reason, self.colours)
        };
        text.push('\n');
        self.print(&text).await
    }

    fn note(&mut self, notice: &Notice) {
        say(notice);
    }
}

/// Notes something on standard error. Where nobody reads it any more, there is nobody to tell.
fn say(note: &dyn std::fmt::Display) {
    let _told = writeln!(io::stderr(), "herald tail: {note}");
}
