//! The shared secrets in use, and their renewal out of a file.
//!
//! A secret is replaced without refusing anybody in three steps: the file gets the new one beside the old one, the application signs with
//! the new one, and when the last token of the old one has ended, the old one leaves the file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use jsonwebtoken::DecodingKey;
use tokio_util::sync::CancellationToken;

use super::{Secret, SecretTooShort};
use crate::{
    secret_file::{self, SecretFileError},
    tasks::Tasks,
};

/// The most secrets at once. A token that fits none is checked against all.
const SECRETS_MAX: usize = 8;

/// Why a file's secrets cannot be used. What they are is not said.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretsError {
    /// The file cannot be used at all.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// One of the lines is no secret.
    #[error("line {line} of {path}: {error}", path = path.display())]
    TooShort {
        /// The line, from 1.
        line: usize,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: SecretTooShort,
    },
    /// There are too many lines.
    #[error("{path} has more than {SECRETS_MAX} secrets; remove those whose tokens have ended", path = .0.display())]
    TooMany(PathBuf),
}

/// The shared secrets of HS256, and where new ones come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedSecrets {
    /// Never empty.
    secrets: Vec<Secret>,
    file: Option<PathBuf>,
}

impl From<Secret> for SharedSecrets {
    /// One secret for good.
    fn from(secret: Secret) -> Self {
        Self {
            secrets: vec![secret],
            file: None,
        }
    }
}

impl SharedSecrets {
    /// Reads a file with a secret in each line. Empty lines are none. It blocks for as long as the file takes.
    ///
    /// # Errors
    /// [`SecretsError`].
    pub fn open(path: &Path) -> Result<Self, SecretsError> {
        let text = secret_file::read(path)?;
        let mut secrets = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() {
                continue;
            }
            let secret = Secret::new(line).map_err(|error| SecretsError::TooShort {
                line: index + 1,
                path: path.to_owned(),
                error,
            })?;
            secrets.push(secret);
        }
        if secrets.len() > SECRETS_MAX {
            return Err(SecretsError::TooMany(path.to_owned()));
        }
        if secrets.is_empty() {
            return Err(SecretFileError::Empty(path.to_owned()).into());
        }
        Ok(Self {
            secrets,
            file: Some(path.to_owned()),
        })
    }

    /// The one that signs.
    pub fn first(&self) -> &Secret {
        // There is no way to make one without a secret.
        &self.secrets[0]
    }

    fn keys(&self) -> Vec<DecodingKey> {
        self.secrets
            .iter()
            .map(|secret| DecodingKey::from_secret(secret.as_bytes()))
            .collect()
    }
}

/// The keys in use. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct SharedKeys(Arc<ArcSwap<Vec<DecodingKey>>>);

impl SharedKeys {
    /// Takes the secrets into use, and starts the task that reads their file again, if they have one.
    pub(super) fn start(secrets: SharedSecrets, interval: Duration, tasks: &Tasks) -> Self {
        let keys = Self(Arc::new(ArcSwap::from_pointee(secrets.keys())));
        if secrets.file.is_some() {
            let (keys, stopping) = (keys.clone(), tasks.stopping());
            tasks.spawn_restarting("secret renewal", move || {
                let renewal = Renewal {
                    serving: secrets.clone(),
                    keys: keys.clone(),
                    told: None,
                };
                renewal.run(interval, stopping.clone())
            });
        }
        keys
    }

    /// Those that may have signed a token.
    pub(super) fn load(&self) -> Arc<Vec<DecodingKey>> {
        self.0.load_full()
    }
}

/// The task that reads the file again and again.
struct Renewal {
    serving: SharedSecrets,
    keys: SharedKeys,
    /// What was said last of a file that cannot be used, so that it is said once.
    told: Option<SecretsError>,
}

impl Renewal {
    async fn run(mut self, interval: Duration, stopping: CancellationToken) {
        let pause = || stopping.run_until_cancelled(tokio::time::sleep(interval));
        while pause().await.is_some() {
            let Some(path) = self.serving.file.clone() else {
                return;
            };
            // A file system that hangs holds up one thread and no token.
            let read = tokio::task::spawn_blocking(move || SharedSecrets::open(&path));
            if let Some(Ok(read)) = stopping.run_until_cancelled(read).await {
                self.take(read);
            }
        }
    }

    fn take(&mut self, read: Result<SharedSecrets, SecretsError>) {
        match read {
            Ok(secrets) => {
                self.told = None;
                if secrets != self.serving {
                    self.keys.0.store(Arc::new(secrets.keys()));
                    tracing::info!(
                        accepted = secrets.secrets.len(),
                        "the shared secrets were replaced; sessions go on until their tokens end"
                    );
                    self.serving = secrets;
                }
            }
            Err(error) if self.told.as_ref() == Some(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "the shared secrets cannot be renewed; those in use stay");
                self.told = Some(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "an old secret that has 32 bytes or more";
    const NEW: &str = "a new secret that has 32 bytes or more";

    fn opened(content: &str) -> Result<Vec<Secret>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets");
        std::fs::write(&path, content).unwrap();
        SharedSecrets::open(&path)
            .map(|secrets| secrets.secrets)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn each_line_is_a_secret_and_the_first_one_signs() {
        let [old, new] = [OLD, NEW].map(|secret| Secret::new(secret).unwrap());
        for content in [format!("{NEW}\n{OLD}\n"), format!("{NEW}\r\n\r\n{OLD}")] {
            assert_eq!(opened(&content), Ok(vec![new.clone(), old.clone()]));
        }
        assert_eq!(SharedSecrets::from(old.clone()).first(), &old);
    }

    #[test]
    fn what_is_wrong_is_told_by_its_line_and_without_the_secret() {
        let told = opened(&format!("{OLD}\nshort-one\n")).unwrap_err();
        assert!(told.contains("line 2") && told.contains("9 bytes"), "{told}");
        assert!(!told.contains("short-one") && !told.contains(OLD), "{told}");
        assert!(opened("\n\n").unwrap_err().contains("is empty"));
        let many = [OLD; SECRETS_MAX + 1].join("\n");
        assert!(opened(&many).unwrap_err().contains("more than 8"));
    }
}
