//! What a failure of Postgres means for whoever thinks of trying again.
//!
//! Fatal is what stays wrong until a person changes something: credentials, rights, names, certificates. Everything else
//! is retryable, also what is unknown: a gateway that tries in vain does less harm than one that gives up on a hiccup.
//! Reasons are for the operator. They repeat the server's message only for kinds of errors whose messages name objects
//! of the database; errors about data may quote a message's content and are told by their code alone.

use std::{error::Error as _, fmt::Write as _, io};

use deadpool_postgres::PoolError;
use rustls::AlertDescription;
use tokio_postgres::{Error, error::SqlState};

use super::{ConnectError, Settings};

/// Whether trying again can help, and what to tell the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may pass: try again after a while.
    Retryable(String),
    /// It stays until a person changes something.
    Fatal(String),
}

impl Failure {
    /// Judges a failed query or a lost connection.
    pub fn of(error: &Error, settings: &Settings) -> Self {
        let reason = reason(error, settings);
        if is_fatal(error) {
            Self::Fatal(reason)
        } else {
            Self::Retryable(reason)
        }
    }

    /// Judges a connection that could not be opened.
    pub fn of_connect(error: &ConnectError, settings: &Settings) -> Self {
        match error {
            ConnectError::Deadline { .. } => Self::Retryable(error.to_string()),
            ConnectError::Refused { source, .. } => Self::of(source, settings),
        }
    }

    /// Judges a pool that could not hand out a connection.
    pub fn of_pool(error: &PoolError, settings: &Settings) -> Self {
        match error {
            PoolError::Backend(error) => Self::of(error, settings),
            PoolError::Timeout(_) => Self::Retryable(format!(
                "no connection to {} became free in time",
                settings.describe()
            )),
            other => Self::Retryable(format!("no connection to {}: {other}", settings.describe())),
        }
    }

    /// A sentence for the operator. It holds no password and no message content.
    pub fn reason(&self) -> &str {
        match self {
            Self::Retryable(reason) | Self::Fatal(reason) => reason,
        }
    }

    /// Whether trying again is useless.
    pub const fn is_fatal(&self) -> bool {
        matches!(self, Self::Fatal(_))
    }
}

/// Whether a statement failed by what is in a row, and not by the state of the server or the connection: SQLSTATE classes
/// 21 and 22 (data), 38, 39 and P0 (functions and what they raise).
pub fn is_of_data(error: &Error) -> bool {
    let class = error.code().and_then(|code| code.code().get(..2));
    class.is_some_and(|class| ["21", "22", "38", "39", "P0"].contains(&class))
}

/// A driver's error with its causes, in one line and without data of the application.
pub(super) fn chain(error: &Error) -> String {
    if let Some(told) = error.as_db_error() {
        return if names_objects(told.code()) {
            format!("{} ({})", told.message(), told.code().code())
        } else {
            format!("the server answered {}", told.code().code())
        };
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        // Writing to a String cannot fail.
        let _written = write!(text, ": {inner}");
        cause = inner.source();
    }
    text
}

fn reason(error: &Error, settings: &Settings) -> String {
    let (variable, address) = (settings.variable(), settings.describe());
    let user = settings.user().unwrap_or("of this process");
    let Some(code) = error.code() else {
        return without_code(error, settings);
    };
    if *code == SqlState::INVALID_PASSWORD {
        return format!("the password for user {user} was refused by {address} (28P01): check {variable}");
    }
    let told = chain(error);
    match code.code() {
        "28000" => format!(
            "{address} does not let user {user} in: {told}: check {variable} and the server's pg_hba.conf"
        ),
        "3D000" => format!("{address}: {told}: check the database in {variable}"),
        "42501" => {
            format!(
                "user {user} lacks a right in {address}: {told}: run `herald migrate`, with HERALD_GATEWAY_ROLE if {user} is that role, or grant it"
            )
        }
        "42P01" | "3F000" | "42883" | "42703" => {
            format!("{address}: {told}: run `herald migrate` on this database")
        }
        "53300" => format!("{address} has no free connection: {told}: raise max_connections, or use fewer"),
        _ => format!("{address}: {told}"),
    }
}

fn without_code(error: &Error, settings: &Settings) -> String {
    let (variable, address, told) = (settings.variable(), settings.describe(), chain(error));
    match tls_refusal(error) {
        Some(TlsRefusal::NotOffered) => format!(
            "{address} does not offer TLS, and sslmode={} demands it: turn ssl on in the server, or change {variable}",
            settings.ssl_mode()
        ),
        Some(TlsRefusal::Certificate) => {
            format!(
                "the certificate of {address} was refused: {told}: check sslmode, sslrootcert and the host in {variable}"
            )
        }
        Some(TlsRefusal::Protocol) => format!("TLS with {address} failed: {told}: check its TLS settings"),
        None if is_authentication(error) => {
            format!("{address}: {told}: check the password and channel_binding in {variable}")
        }
        None => format!("{address}: {told}"),
    }
}

fn is_fatal(error: &Error) -> bool {
    match error.code() {
        Some(code) => FATAL.contains(code),
        None => tls_refusal(error).is_some() || is_authentication(error),
    }
}

/// The answers that stay the same until a person changes something.
const FATAL: [SqlState; 8] = [
    SqlState::INVALID_PASSWORD,
    SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
    SqlState::INVALID_CATALOG_NAME,
    SqlState::INSUFFICIENT_PRIVILEGE,
    SqlState::UNDEFINED_TABLE,
    SqlState::INVALID_SCHEMA_NAME,
    SqlState::UNDEFINED_FUNCTION,
    SqlState::UNDEFINED_COLUMN,
];

/// The classes of SQLSTATE whose messages name objects, roles or the server's state, but never data.
fn names_objects(code: &SqlState) -> bool {
    const CLASSES: [&str; 10] = ["08", "28", "3D", "3F", "40", "42", "53", "55", "57", "58"];
    CLASSES.iter().any(|class| code.code().starts_with(class))
}

enum TlsRefusal {
    NotOffered,
    Certificate,
    Protocol,
}

/// Tells a refusal of TLS from a connection that broke while TLS was being agreed, which may go better next time.
fn tls_refusal(error: &Error) -> Option<TlsRefusal> {
    let source = error.source()?;
    // The driver keeps the kind of its errors to itself; its texts are all there is to go by, and
    // `tests/it/postgres_tls.rs` meets each of them for real.
    if source.to_string() == "server does not support TLS" {
        return Some(TlsRefusal::NotOffered);
    }
    let inner = source.downcast_ref::<io::Error>()?.get_ref()?;
    match inner.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            Some(TlsRefusal::Certificate)
        }
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::AlertReceived(
            AlertDescription::HandshakeFailure
            | AlertDescription::ProtocolVersion
            | AlertDescription::InsufficientSecurity
            | AlertDescription::CertificateRequired
            | AlertDescription::NoApplicationProtocol,
        ) => Some(TlsRefusal::Protocol),
        // What is left is a peer out of order, a proxy on its way down say.
        _ => None,
    }
}

/// Whether the two sides could not agree on how to authenticate: no password given, or no channel binding.
fn is_authentication(error: &Error) -> bool {
    ["authentication error", "invalid configuration"].contains(&error.to_string().as_str())
}
