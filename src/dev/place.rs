//! Where a private Postgres keeps its data, and as whom it runs.
//!
//! Postgres refuses to run as root, so root lends it to the system user `postgres`, or to `nobody`. That user must be able to
//! reach the data; below a folder such as `/root` it cannot, and then the data lives in a folder of its own below
//! [`ELSEWHERE`], named after the folder that was asked for. Folders in places where everybody may write are made with
//! mode 0700, never taken over from somebody else.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, lchown},
    path::{Path, PathBuf},
};

use tokio::process::Command;

use super::cluster::ClusterError;

/// Short, since the path of a socket may have only 108 bytes (104 on macOS).
const TEMPORARY: &str = "/tmp";
/// Survives a reboot, unlike [`TEMPORARY`], and every user may reach it.
const ELSEWHERE: &str = "/var/tmp";
/// Only the owner, as Postgres demands of its data folder.
const PRIVATE: u32 = 0o700;

/// The user that runs Postgres when Herald itself runs as root.
#[derive(Clone, Debug)]
pub(super) struct ServerUser {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl ServerUser {
    /// `None` for an ordinary user, who runs Postgres as himself or herself.
    pub(super) async fn find() -> Result<Option<Self>, ClusterError> {
        if number(&["-u"]).await != Some(0) {
            return Ok(None);
        }
        for name in ["postgres", "nobody"] {
            if let (Some(uid), Some(gid)) = (number(&["-u", name]).await, number(&["-g", name]).await) {
                return Ok(Some(Self { uid, gid }));
            }
        }
        Err(ClusterError::NoServerUser)
    }

    /// Runs a command as this user.
    pub(super) fn assume(user: Option<&Self>, command: &mut Command) {
        if let Some(user) = user {
            command.uid(user.uid).gid(user.gid);
        }
    }

    async fn can_enter(&self, folder: &Path) -> bool {
        let mut test = Command::new("/bin/sh");
        test.args(["-c", "cd \"$1\" 2>/dev/null", "sh"]).arg(folder);
        Self::assume(Some(self), &mut test);
        // Without a folder of its own the shell would start in one that this user may not enter, and complain.
        test.current_dir("/");
        test.status().await.is_ok_and(|status| status.success())
    }
}

/// What `id` answers, with these arguments, when it is a number.
async fn number(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(arguments).output().await.ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}

/// The folder with everything that belongs to the user who runs Postgres.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) server_user: Option<ServerUser>,
    /// Mode 0700 and owned by the server user.
    pub(super) base: PathBuf,
    /// The data is not below the folder that was asked for.
    pub(super) elsewhere: bool,
}

impl Place {
    /// A new folder that nothing else uses.
    pub(super) async fn temporary() -> Result<Self, ClusterError> {
        let server_user = ServerUser::find().await?;
        let base = unused_name();
        new_private_folder(&base, server_user.as_ref())?;
        Ok(Self {
            server_user,
            base,
            elsewhere: false,
        })
    }

    /// The place that belongs to this folder, which exists: below it if the server user can get there.
    pub(super) async fn below(folder: &Path) -> Result<Self, ClusterError> {
        let server_user = ServerUser::find().await?;
        let folder = folder
            .canonicalize()
            .map_err(|error| ClusterError::folder(folder, error))?;
        let elsewhere = match &server_user {
            Some(user) => !user.can_enter(&folder).await,
            None => false,
        };
        let base = if elsewhere {
            Path::new(ELSEWHERE).join(format!("herald-{:016x}", fingerprint(&folder)))
        } else {
            folder.join("postgres")
        };
        private_folder(&base, server_user.as_ref())?;
        Ok(Self {
            server_user,
            base,
            elsewhere,
        })
    }

    pub(super) fn data(&self) -> PathBuf {
        self.base.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.base.join("postgres.log")
    }

    /// A new folder for the sockets, with a path short enough for them.
    pub(super) fn sockets(&self) -> Result<PathBuf, ClusterError> {
        let sockets = unused_name();
        new_private_folder(&sockets, self.server_user.as_ref())?;
        Ok(sockets)
    }

    /// Gives a path to the server user.
    pub(super) fn hand_over(&self, path: &Path) -> io::Result<()> {
        self.server_user
            .as_ref()
            .map_or(Ok(()), |user| lchown(path, Some(user.uid), Some(user.gid)))
    }
}

fn new_private_folder(path: &Path, user: Option<&ServerUser>) -> Result<(), ClusterError> {
    let made = DirBuilder::new().mode(PRIVATE).create(path);
    let given = made.and_then(|()| user.map_or(Ok(()), |user| lchown(path, Some(user.uid), Some(user.gid))));
    given.map_err(|error| ClusterError::folder(path, error))
}

/// Makes a folder with mode 0700 for the server user, or finds it to be just that.
fn private_folder(path: &Path, user: Option<&ServerUser>) -> Result<(), ClusterError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return new_private_folder(path, user),
        Err(error) => return Err(ClusterError::folder(path, error)),
    };
    let private = found.is_dir() && found.mode() & 0o777 == PRIVATE;
    if private && user.is_none_or(|user| user.uid == found.uid()) {
        Ok(())
    } else {
        Err(ClusterError::NotOurs {
            folder: path.to_path_buf(),
        })
    }
}

/// A name below [`TEMPORARY`] that nobody can foresee.
fn unused_name() -> PathBuf {
    Path::new(TEMPORARY).join(format!("herald-{:08x}", rand::random::<u32>()))
}

/// The same number for the same path in every process and every release: FNV-1a, 64 bit.
fn fingerprint(path: &Path) -> u64 {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
}
