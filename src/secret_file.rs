//! A file that holds a secret, as Docker's and Kubernetes's secrets and systemd's credentials are.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// The most bytes of a file with a secret. A connection string with all its parameters has a few hundred.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why a file cannot be used. What is in it is not said.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretFileError {
    /// The system does not give it.
    #[error("{path} cannot be read: {reason}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// It is something else than a secret.
    #[error("{path} is larger than {FILE_BYTES_MAX} bytes; it should hold the secret alone", path = .0.display())]
    TooLarge(PathBuf),
    /// It is no text.
    #[error("{path} is not UTF-8; it should hold text alone", path = .0.display())]
    NotText(PathBuf),
    /// There is nothing in it.
    #[error("{path} is empty; write the secret into it", path = .0.display())]
    Empty(PathBuf),
}

/// Reads a file without the end of its last line. It blocks for as long as the file takes.
///
/// # Errors
/// [`SecretFileError`].
pub fn read(path: &Path) -> Result<String, SecretFileError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| SecretFileError::Unreadable {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
        return Err(SecretFileError::TooLarge(path.to_owned()));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| SecretFileError::NotText(path.to_owned()))?;
    if text.ends_with('\n') {
        text.truncate(text.len() - 1);
        if text.ends_with('\r') {
            text.truncate(text.len() - 1);
        }
    }
    if text.is_empty() {
        return Err(SecretFileError::Empty(path.to_owned()));
    }
    Ok(text)
}
