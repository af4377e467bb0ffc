//! The file system as [`ServeDir`](tower_http::services::ServeDir) sees it: nothing but what may be served of one folder.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tower_http::services::fs::{Backend, File, Metadata};

/// The first parts of the gateway's own paths, and of those that it may have: a file there would be seen or not depending on
/// what the gateway is told.
const RESERVED: [&str; 8] = [
    "api", "demo", "healthz", "metrics", "readyz", "realtime", "socket", "v1",
];

/// Nanoseconds of one second.
const NANOSECONDS: u64 = 1_000_000_000;

/// The last second of the year 9999, the last one that `Last-Modified` can say (RFC 9110 §5.6.7), in seconds since 1970.
const LAST_SECOND: u64 = 253_402_300_799;

/// The file system, seen from within one folder: whatever lies elsewhere, or is nobody's business, is not there.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    root: Arc<Path>,
}

impl Folder {
    /// What lies below an absolute path.
    pub(super) const fn new(root: Arc<Path>) -> Self {
        Self { root }
    }

    /// Where the file really lies that a path below the folder names.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where nothing is that may be served.
    async fn locate(&self, path: &Path) -> io::Result<PathBuf> {
        let found = self.find(path).await;
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Whatever is wrong with a path (too long, a loop of links, a folder that may not be entered): nothing can be had there.
    ///
    /// Whoever may write in the folder could put a link there between this look and the opening; that is the one who could as
    /// well put the content there.
    async fn find(&self, path: &Path) -> Option<PathBuf> {
        let named = path.strip_prefix(&self.root).ok()?;
        if !is_public(named) || is_reserved(named) {
            return None;
        }
        let root = tokio::fs::canonicalize(&self.root).await.ok()?;
        let real = tokio::fs::canonicalize(path).await.ok()?;
        let is_inside = real.strip_prefix(&root).is_ok_and(is_public);
        is_inside.then_some(real)
    }
}

impl Backend for Folder {
    type File = PageFile;
    type Metadata = PageMetadata;
    type OpenFuture = Pin<Box<dyn Future<Output = io::Result<PageFile>> + Send>>;
    type MetadataFuture = Pin<Box<dyn Future<Output = io::Result<PageMetadata>> + Send>>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        let folder = self.clone();
        Box::pin(async move {
            let real = folder.locate(&path).await?;
            // To open a pipe would wait for somebody who writes.
            if !tokio::fs::metadata(&real).await?.is_file() {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(PageFile(tokio::fs::File::open(real).await?))
        })
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        let folder = self.clone();
        Box::pin(async move {
            let real = folder.locate(&path).await?;
            let metadata = tokio::fs::metadata(real).await?;
            if metadata.is_file() || metadata.is_dir() {
                Ok(PageMetadata(metadata))
            } else {
                Err(io::ErrorKind::NotFound.into())
            }
        })
    }
}

/// An open file of the page.
#[derive(Debug)]
pub(super) struct PageFile(tokio::fs::File);

impl AsyncRead for PageFile {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncSeek for PageFile {
    fn start_seek(mut self: Pin<&mut Self>, position: io::SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.0).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.0).poll_complete(context)
    }
}

impl File for PageFile {
    type Metadata = PageMetadata;
    type MetadataFuture<'a> = Pin<Box<dyn Future<Output = io::Result<PageMetadata>> + Send + 'a>>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        Box::pin(async move { self.0.metadata().await.map(PageMetadata) })
    }
}

/// What the file system knows of a file, so that another file never looks the same.
#[derive(Debug)]
pub(super) struct PageMetadata(fs::Metadata);

impl Metadata for PageMetadata {
    fn is_dir(&self) -> bool {
        self.0.is_dir()
    }

    /// The second in which the file was written, and within it a fraction that tells it from others.
    ///
    /// `ServeDir` makes the entity tag of this time and the length, and `Last-Modified` of its seconds. That is not enough: builds
    /// that can be reproduced give all their files one time, and two pages that differ in the hash of a script are of one length; a
    /// browser that kept the older page would never hear of the newer. The fraction is therefore made of all that changes when a
    /// file takes another's place, its number and the time of its last change of any kind among them, which nobody can set.
    fn modified(&self) -> io::Result<SystemTime> {
        let metadata = &self.0;
        let seconds = u64::try_from(metadata.mtime()).unwrap_or(0).min(LAST_SECOND);
        let mut fraction = DefaultHasher::new();
        let numbers = [metadata.dev(), metadata.ino()];
        let times = [metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        (numbers, times).hash(&mut fraction);
        Ok(UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(fraction.finish() % NANOSECONDS))
    }

    fn len(&self) -> u64 {
        self.0.len()
    }
}

/// Whether no part of a path below the folder begins with a dot or leads upwards.
fn is_public(path: &Path) -> bool {
    path.components().all(|part| match part {
        Component::Normal(name) => !name.as_encoded_bytes().starts_with(b"."),
        _ => false,
    })
}

/// Whether a path below the folder is the gateway's.
fn is_reserved(path: &Path) -> bool {
    let first = path.components().next();
    first.is_some_and(|first| RESERVED.iter().any(|reserved| first.as_os_str() == *reserved))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_dots_and_the_gateways_paths_are_not_served() {
        for hidden in [".env", "a/.git/config", "../x", "a/../../x", "/etc/passwd"] {
            assert!(!is_public(Path::new(hidden)), "{hidden}");
        }
        for public in ["index.html", "assets/app-1a2b.js", "a..b", "icons/a.b.svg"] {
            assert!(is_public(Path::new(public)), "{public}");
            assert!(!is_reserved(Path::new(public)), "{public}");
        }
        for reserved in ["v1", "v1/socket", "demo/people", "metrics", "realtime/v1/x"] {
            assert!(is_reserved(Path::new(reserved)), "{reserved}");
        }
        assert!(!is_reserved(Path::new("v1.html")));
    }
}
