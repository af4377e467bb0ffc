//! Finds the programs of a Postgres server on this machine.
//!
//! Asked are, in this order: `PATH`, `pg_config`, Debian's and Red Hat's folders for each major version, and Homebrew's. The
//! first wins, except that an existing data folder needs the very major version that made it.
//! It installs nothing; that is the business of `script/server`.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::cluster::ClusterError;

/// The oldest major version whose features Herald's SQL needs: `security_invoker` on views came with 15.
pub(super) const OLDEST_MAJOR: u32 = 15;

/// Prints each folder that may hold the server's programs. A shell does it, because the search goes along `PATH`.
const CANDIDATES: &str = r#"
command -v postgres
config=$(pg_config --bindir 2>/dev/null) && echo "$config/postgres"
for program in /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres \
    /opt/homebrew/opt/postgresql*/bin/postgres /usr/local/opt/postgresql*/bin/postgres \
    /home/linuxbrew/.linuxbrew/opt/postgresql*/bin/postgres \
    /Applications/Postgres.app/Contents/Versions/*/bin/postgres /usr/local/pgsql/bin/postgres
do
    if [ -x "$program" ]; then echo "$program"; fi
done
exit 0
"#;

/// A folder with `postgres`, `initdb` and `pg_ctl` of one major version.
#[derive(Clone, Debug)]
pub(super) struct Binaries {
    folder: PathBuf,
    major: u32,
}

impl Binaries {
    /// Finds the server's programs; `major` if an existing data folder asks for that very version.
    ///
    /// # Errors
    /// [`ClusterError::NoServer`] with what was found instead and what to install.
    pub(super) async fn find(major: Option<u32>) -> Result<Self, ClusterError> {
        let found = Self::all().await?;
        let usable =
            |binaries: &&Self| major.map_or(binaries.major >= OLDEST_MAJOR, |major| binaries.major == major);
        match found.iter().find(usable) {
            Some(binaries) => Ok(binaries.clone()),
            None => Err(match major {
                Some(major) => ClusterError::OtherMajor {
                    major,
                    found: listed(&found),
                },
                None => ClusterError::NoServer {
                    found: listed(&found),
                },
            }),
        }
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    async fn all() -> Result<Vec<Self>, ClusterError> {
        let mut search = Command::new("/bin/sh");
        search.arg("-c").arg(CANDIDATES);
        let output = search
            .output()
            .await
            .map_err(|error| ClusterError::program("/bin/sh", error))?;
        let mut found: Vec<Self> = Vec::new();
        let mut at_fixed_places = Vec::new();
        for (position, line) in String::from_utf8_lossy(&output.stdout).lines().enumerate() {
            let Some(binaries) = Self::at(Path::new(line)).await else {
                continue;
            };
            // The first two lines are what the user's own settings point to; what lies at fixed places is taken newest first.
            if position < 2 {
                found.push(binaries);
            } else {
                at_fixed_places.push(binaries);
            }
        }
        at_fixed_places.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
        found.extend(at_fixed_places);
        Ok(found)
    }

    /// The programs beside this `postgres`, if all are there. Links are followed, since Debian and Homebrew link
    /// single programs into folders that lack the others.
    async fn at(postgres: &Path) -> Option<Self> {
        let folder = postgres.canonicalize().ok()?.parent()?.to_path_buf();
        if !["postgres", "initdb", "pg_ctl"]
            .iter()
            .all(|name| folder.join(name).is_file())
        {
            return None;
        }
        let output = Command::new(folder.join("postgres"))
            .arg("--version")
            .output()
            .await
            .ok()?;
        let major = major(&String::from_utf8_lossy(&output.stdout))?;
        Some(Self { folder, major })
    }
}

/// Reads the major version from `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, also from `17beta1`.
fn major(version: &str) -> Option<u32> {
    let number = version.split("(PostgreSQL) ").nth(1)?;
    let digits = number
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(number.len());
    number[..digits].parse().ok()
}

fn listed(found: &[Binaries]) -> String {
    if found.is_empty() {
        return "none".to_owned();
    }
    let each: Vec<String> = found
        .iter()
        .map(|binaries| format!("{} in {}", binaries.major, binaries.folder.display()))
        .collect();
    each.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_releases_and_from_betas() {
        assert_eq!(
            major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(major("postgres (PostgreSQL) 17beta1\n"), Some(17));
        assert_eq!(major("postgres: command not found"), None);
    }
}
