//! What `herald load` is told.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{
    Mistakes,
    secret::{self, Given},
    setting::{check_count, check_duration},
    token::{JwtFlags, JwtSettings, SECRET_VARIABLE},
};
use crate::{
    client::GatewayUrl,
    load::{
        plan::{DELIVERIES_MAX, MESSAGES_MAX, Path, Plan, Receiver},
        target::Trust,
    },
    postgres::Settings,
};

/// The longest run.
const DURATION_MAX: Duration = Duration::from_secs(3600);

/// The most sessions of a run.
const SESSIONS_MAX: u64 = 1_000_000;

/// The longest content that the application's table takes, in bytes of one letter each.
const CONTENT_BYTES_MAX: u32 = 10_000;

/// The most rows that one statement writes.
const ROWS_MAX: u32 = 10_000;

/// The most connections that write.
const WRITERS_MAX: u32 = 1_000;

/// By which path messages are written, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    /// By INSERT.
    Sql,
    /// By the gateway's HTTP API.
    Http,
}

/// To whom people write, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum To {
    /// Each to the next one.
    Other,
    /// Each to himself or herself.
    Self_,
}

/// `herald load` as typed.
#[derive(Args)]
pub struct LoadFlags {
    /// People who listen, and who write to each other.
    #[arg(long, default_value = "100", value_name = "COUNT")]
    users: String,
    /// Sessions of each of them.
    #[arg(long, default_value = "1", value_name = "COUNT")]
    sessions: String,
    /// The most messages.
    #[arg(long, default_value = "10000", value_name = "COUNT")]
    messages: String,
    /// The longest time that is written: a number with ms, s, m or h.
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    duration: String,
    /// Messages a second, or `max` for as many as are taken.
    #[arg(long, default_value = "200", value_name = "COUNT")]
    rate: String,
    /// How messages are written.
    #[arg(long, value_enum, default_value = "sql")]
    by: By,
    /// To whom people write: each to the next one, which concerns two people, or each to himself or herself.
    #[arg(long, value_enum, default_value = "other")]
    to: To,
    /// Rows that one statement inserts.
    #[arg(long, default_value = "1", value_name = "COUNT")]
    rows: String,
    /// Connections that write.
    #[arg(long, default_value = "2", value_name = "COUNT")]
    writers: String,
    /// The length of a message.
    #[arg(long, default_value = "80", value_name = "COUNT")]
    content_bytes: String,
    /// How long what was written may take to arrive after the last of it was written.
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    patience: String,
    /// A gateway that runs already. Messages are written into its database, `DATABASE_URL`, by people who are in `profiles`, and stay there. By default
    /// a private Postgres and a gateway are started, and removed afterwards.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The database of that gateway, as a URL or as key=value pairs.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
    /// A file with that, in place of it: it holds a password.
    #[arg(long, env = "DATABASE_URL_FILE", value_name = "FILE")]
    database_url_file: Option<std::ffi::OsString>,
    /// The process id of that gateway, if it is on this machine and its processor time and memory are wanted.
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// A program of Node's that does the gateway's work and is put under the same load afterwards, with a database of its own:
    /// `benches/node/server.mjs`, say. May be given up to twice.
    #[arg(long, value_name = "FILE")]
    peer: Vec<PathBuf>,
    /// A file for the outcome as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A file for the outcome as a page with plots.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    jwt: JwtFlags,
}

impl std::fmt::Debug for LoadFlags {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // URLs of databases hold passwords.
        formatter.write_str("LoadFlags")
    }
}

/// What is put under load.
#[derive(Debug)]
pub enum Stage {
    /// A gateway that is started for it, and then these programs.
    Own {
        /// Programs of Node's.
        peers: Vec<PathBuf>,
    },
    /// A gateway that runs already.
    Existing {
        /// Where it is.
        url: GatewayUrl,
        /// Where messages are written.
        database: Box<Settings>,
        /// What it believes people by.
        trust: Trust,
        /// Its process, if it is on this machine.
        process: Option<u32>,
    },
}

/// `herald load`, checked.
#[derive(Debug)]
pub struct LoadSettings {
    /// What is done.
    pub plan: Plan,
    /// To whom.
    pub stage: Stage,
    /// Where the outcome goes as JSON.
    pub json: Option<PathBuf>,
    /// Where the outcome goes as a page.
    pub html: Option<PathBuf>,
}

impl LoadFlags {
    /// Checks everything.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn check(self) -> Result<LoadSettings, Mistakes> {
        let mut mistakes = Mistakes::none();
        let plan = self.check_plan(&mut mistakes);
        let (json, html) = (self.json.clone(), self.html.clone());
        let stage = self.check_stage(&mut mistakes);
        mistakes.into_result()?;
        let (Some(plan), Some(stage)) = (plan, stage) else {
            return Err(Mistakes::none());
        };
        Ok(LoadSettings {
            plan,
            stage,
            json,
            html,
        })
    }

    fn check_plan(&self, mistakes: &mut Mistakes) -> Option<Plan> {
        let people = count("--users", &self.users, u32::MAX, mistakes);
        let sessions = count("--sessions", &self.sessions, u32::MAX, mistakes);
        let messages = count("--messages", &self.messages, MESSAGES_MAX, mistakes);
        let rows = count("--rows", &self.rows, ROWS_MAX, mistakes);
        let writers = count("--writers", &self.writers, WRITERS_MAX, mistakes);
        let content = count(
            "--content-bytes",
            &self.content_bytes,
            CONTENT_BYTES_MAX,
            mistakes,
        );
        let rate = match self.rate.as_str() {
            "max" => Some(None),
            rate => count("--rate", rate, u32::MAX, mistakes).map(Some),
        };
        let duration = span("--duration", &self.duration, mistakes);
        let patience = span("--patience", &self.patience, mistakes);
        if self.by == By::Http && rows.is_some_and(|rows| rows > NonZeroU32::MIN) {
            mistakes.note(
                "--rows",
                "a call sends one message; leave it away, or write --by sql",
            );
        }
        let (people, sessions, messages, rows) = (people?, sessions?, messages?, rows?);
        let all = u64::from(people.get()) * u64::from(sessions.get());
        if all > SESSIONS_MAX {
            mistakes.note(
                "--sessions",
                format_args!("{all} sessions in all are more than {SESSIONS_MAX}"),
            );
            return None;
        }
        let plan = Plan {
            people: people.get(),
            sessions: sessions.get(),
            receiver: match self.to {
                To::Other => Receiver::Other,
                To::Self_ => Receiver::Oneself,
            },
            messages: messages.get(),
            duration: duration?,
            rate: rate?,
            path: match self.by {
                By::Sql => Path::Sql { rows },
                By::Http => Path::Http,
            },
            writers: writers?,
            content_bytes: content?.get() as usize,
            patience: patience?,
        };
        let deliveries = u64::from(plan.audience(0)) * u64::from(plan.messages);
        if deliveries > DELIVERIES_MAX {
            mistakes.note(
                "--messages",
                format_args!(
                    "{deliveries} deliveries are more than {DELIVERIES_MAX}; give fewer messages or sessions"
                ),
            );
        }
        Some(plan)
    }

    fn check_stage(self, mistakes: &mut Mistakes) -> Option<Stage> {
        let Some(url) = self.url.filter(|url| !url.is_empty()) else {
            if self.pid.is_some() {
                mistakes.note("--pid", "is of a gateway that runs already; name it by --url");
            }
            if self.peer.len() > 2 {
                mistakes.note("--peer", "given more than twice");
            }
            if self.by == By::Http && !self.peer.is_empty() {
                mistakes.note("--peer", "knows no HTTP API; write --by sql");
            }
            for peer in self.peer.iter().filter(|peer| !peer.is_file()) {
                mistakes.note("--peer", format_args!("{} is no file", peer.display()));
            }
            return Some(Stage::Own { peers: self.peer });
        };
        if !self.peer.is_empty() {
            mistakes.note("--peer", "has a database of its own; leave --url away");
        }
        let url = mistakes.check("--url", url.parse::<GatewayUrl>());
        let database = match secret::read(
            "DATABASE_URL",
            self.database_url,
            self.database_url_file,
            mistakes,
        ) {
            Given::Secret(url) => mistakes.check("DATABASE_URL", Settings::parse(&url)),
            Given::Wrong => None,
            Given::Nothing => {
                mistakes.note("DATABASE_URL", "not set; give the database of the gateway");
                None
            }
        };
        if !self.jwt.has_secret() {
            mistakes.note(
                SECRET_VARIABLE,
                "not set; set it to the secret that the gateway has",
            );
        }
        let JwtSettings {
            secrets,
            audience,
            issuer,
        } = self.jwt.check(mistakes);
        Some(Stage::Existing {
            url: url?,
            database: Box::new(database?),
            trust: Trust {
                secret: secrets?.first().clone(),
                audience,
                issuer,
            },
            process: self.pid,
        })
    }
}

fn count(setting: &str, value: &str, most: u32, mistakes: &mut Mistakes) -> Option<NonZeroU32> {
    let count = NonZeroU32::new(check_count(setting, value, "", mistakes)?)?;
    if count.get() > most {
        mistakes.note(setting, format_args!("{count} is more than {most}"));
        return None;
    }
    Some(count)
}

fn span(setting: &str, value: &str, mistakes: &mut Mistakes) -> Option<Duration> {
    let span = check_duration(setting, value, "", mistakes)?;
    if span > DURATION_MAX {
        mistakes.note(setting, format_args!("`{value}` is more than an hour"));
        return None;
    }
    Some(span)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        load: LoadFlags,
    }

    fn check(arguments: &[&str]) -> Result<LoadSettings, Mistakes> {
        // What the environment of the tests may hold is set to nothing first.
        let unset = ["--database-url=", "--jwt-secret="];
        let unset = unset
            .iter()
            .filter(|flag| !arguments.iter().any(|given| given.starts_with(**flag)));
        Typed::parse_from(["herald"].iter().chain(unset).chain(arguments))
            .load
            .check()
    }

    #[test]
    fn by_itself_it_is_a_short_load_on_a_stage_of_its_own() {
        let settings = check(&[]).unwrap();
        assert!(matches!(settings.stage, Stage::Own { peers } if peers.is_empty()));
        assert_eq!((settings.plan.people, settings.plan.messages), (100, 10_000));
        let flat_out = check(&["--rate=max", "--to=self", "--rows=50"]).unwrap().plan;
        assert_eq!((flat_out.rate, flat_out.receiver), (None, Receiver::Oneself));
    }

    #[test]
    fn every_mistake_is_told_at_once_and_no_bound_can_be_passed() {
        let told = check(&[
            "--users=0",
            "--messages=5000001",
            "--duration=2h",
            "--rate=fast",
            "--by=http",
            "--rows=2",
            "--peer=/nowhere.mjs",
            "--pid=7",
        ])
        .unwrap_err()
        .to_string();
        for part in [
            "--users:",
            "--messages: 5000001 is more than",
            "--duration: `2h` is more than an hour",
            "--rate:",
            "--rows: a call sends one message",
            "--peer: knows no HTTP API",
            "--peer: /nowhere.mjs is no file",
            "--pid: is of a gateway that runs already",
        ] {
            assert!(told.contains(part), "{part} is missing in {told}");
        }
        let told = check(&["--users=2000", "--sessions=1000"])
            .unwrap_err()
            .to_string();
        assert!(told.contains("2000000 sessions in all"), "{told}");
        let told = check(&["--sessions=1000", "--messages=1000000"])
            .unwrap_err()
            .to_string();
        assert!(told.contains("2000000000 deliveries are more than"), "{told}");
    }

    #[test]
    fn a_gateway_that_runs_already_needs_its_database_and_its_secret() {
        let told = check(&["--url=here"]).unwrap_err().to_string();
        for part in ["--url:", "DATABASE_URL: not set", "HERALD_JWT_SECRET: not set"] {
            assert!(told.contains(part), "{part} is missing in {told}");
        }
        let secret = format!("--jwt-secret={}", "s".repeat(32));
        let settings = check(&[
            "--url=http://127.0.0.1:4000",
            "--database-url=postgres://owner@localhost/app",
            "--pid=7",
            &secret,
        ])
        .unwrap();
        assert!(matches!(settings.stage, Stage::Existing { process: Some(7), .. }));
    }
}
