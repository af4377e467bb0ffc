//! What a developer needs beside the gateway: a private Postgres, and a demo application with people who talk.
//!
//! Nothing here is used by `herald serve`.

mod binaries;
mod guardian;
mod place;

pub mod cluster;

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// A secret of 256 random bits, as 64 hexadecimal digits.
fn secret() -> String {
    format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
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
