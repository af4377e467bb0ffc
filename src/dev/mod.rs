//! What a developer needs beside the gateway: a private Postgres, and a demo application with people who talk.
//!
//! Nothing here is used by `herald serve`.

mod binaries;
mod guardian;
mod place;

pub mod chatter;
pub mod cluster;
pub mod demo;
pub mod people;

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use tokio_postgres::{Client, NoTls};

/// Connects to a private Postgres, does some work, and ends the connection.
///
/// # Errors
/// Postgres could not be reached. What went wrong with the work is in its answer.
///
/// # Cancel safety
/// As the work: the connection is closed when this is dropped.
pub async fn with_client<T>(
    url: &str,
    work: impl AsyncFnOnce(&mut Client) -> T,
) -> Result<T, tokio_postgres::Error> {
    let (mut client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // The connection ends when the client has been dropped. If it breaks, the work hears of it by its own statements.
    let work = async move { work(&mut client).await };
    let (answer, _closed) = tokio::join!(work, connection);
    Ok(answer)
}

/// What Postgres or the way to it had to say. The error's own text is only its kind, "db error" say.
pub(crate) fn in_full(error: &tokio_postgres::Error) -> String {
    use std::error::Error;

    match (error.as_db_error(), error.source()) {
        (Some(answer), _) => answer.to_string(),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// A secret of 256 random bits, as 64 hexadecimal digits.
pub(crate) fn secret() -> String {
    format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}

/// The secret kept in a file that only its owner may read; a new one if there is no file.
///
/// # Errors
/// The file could not be read or written, or it is empty.
pub fn kept_secret(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(kept) if kept.trim().is_empty() => {
            Err(io::Error::other("it is empty: remove it, and a new one is made"))
        }
        Ok(kept) => Ok(kept.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret = secret();
            write_private(path, &secret).map(|()| secret)
        }
        Err(error) => Err(error),
    }
}

/// Writes a file that only its owner may read. What stood there before is replaced as a whole.
fn write_private(path: &Path, content: &str) -> io::Result<()> {
    let unfinished = path.with_extension("writing");
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.write_all(content.as_bytes())?;
    std::fs::rename(&unfinished, path)
}
