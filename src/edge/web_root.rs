//! Serves a built page from a folder: its files as they lie there, with what browsers have to know about caching and security.
//!
//! Invariants:
//! - No answer comes from outside the folder, by whatever path or link, or from a file whose name begins with a dot.
//! - Paths that are the gateway's stay the gateway's, whatever the folder holds.
//! - An answer names no path of the file system and lists no folder.
//!
//! It deliberately answers `index.html` for no path but `/`: the page keeps where it is in its query.

use std::{
    io,
    path::{Component, Path, PathBuf},
    pin::Pin,
    sync::Arc,
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use tower_http::services::fs::{Backend, ServeDir, TokioBackend, TokioFile};

use super::Problem;

/// The page itself.
const INDEX: &str = "index.html";

/// Where Vite puts files whose names have a hash of their content, so that a name never means another content.
const HASHED: &str = "/assets/";

/// For hashed files: a year, which is as good as for ever, without asking again when the page is reloaded (RFC 8246).
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// For all others: they may be kept, and are asked for each time whether they are still the same, which costs a `304`.
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("no-cache");

/// The first parts of the gateway's own paths, and of those that it may have: a file there would be seen or not depending on
/// what the gateway is told.
const RESERVED: [&str; 8] = [
    "api", "demo", "healthz", "metrics", "readyz", "realtime", "socket", "v1",
];

/// What a page may do (Content Security Policy Level 3): run and show what lies in the folder, show pictures of people from
/// anywhere, and talk to this gateway. Sockets need no word of their own: `'self'` matches `ws:` and `wss:` of the page's
/// host and port (CSP3 §6.7.2.8), in Chromium and Firefox for many years and in Safari since 15.4. `ws:` and `wss:` would open
/// every host instead, and a policy that names the gateway's own would have to believe the request's `Host`.
const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' https: data:; font-src 'self'; \
     connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
);

/// What a page of messages never needs, so that no script that found its way into it gets it either.
const PERMISSIONS_POLICY: HeaderValue = HeaderValue::from_static(
    "accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), hid=(), magnetometer=(), microphone=(), \
     midi=(), payment=(), publickey-credentials-get=(), serial=(), usb=()",
);

/// What every answer from the folder has. The address of a page names its conversation, which is told to nobody
/// (`Referrer-Policy`), and windows of other origins get no hold of it (`Cross-Origin-Opener-Policy`).
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (HeaderName::from_static("permissions-policy"), PERMISSIONS_POLICY),
];

/// Why a folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum WebRootError {
    /// The path leads nowhere.
    #[error("{} does not exist; {WHAT_TO_DO}", .0.display())]
    Missing(PathBuf),
    /// The path leads to something else.
    #[error("{} is no folder; {WHAT_TO_DO}", .0.display())]
    NoFolder(PathBuf),
    /// There is no page in it, or a link to one somewhere else.
    #[error("{} has no {INDEX} of its own; {WHAT_TO_DO}", .0.display())]
    NoIndex(PathBuf),
    /// The gateway may not read it, say.
    #[error("{} cannot be read: {error}; let the gateway's user read it and all that is in it", path.display())]
    Unreadable {
        /// What was to be read.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// How somebody comes by a folder that can be served.
const WHAT_TO_DO: &str = "build the page (`npm ci` and `npm run build` in the folder `web` of Herald's sources) and give the folder with \
                          its index.html, `web/app/dist`, or leave the setting away";

/// A folder with a built page.
#[derive(Clone, Debug)]
pub struct WebRoot {
    files: ServeDir<NoFallback, Confined>,
}

/// What [`ServeDir`] does about paths at which it has nothing: it says so.
type NoFallback = tower_http::services::fs::DefaultServeDirFallback;

impl WebRoot {
    /// Takes a folder that holds a page. It is read at each request, so that a page that is built anew is seen at once, also
    /// where the folder is a link that leads to another one then.
    ///
    /// # Errors
    /// [`WebRootError`], ready to be shown to whoever named the folder.
    pub fn open(folder: &Path) -> Result<Self, WebRootError> {
        let unreadable = |path: &Path, error| WebRootError::Unreadable {
            path: path.to_path_buf(),
            error,
        };
        let root = std::path::absolute(folder).map_err(|error| unreadable(folder, error))?;
        let real = match root.canonicalize() {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(WebRootError::Missing(root)),
            Err(error) => return Err(unreadable(&root, error)),
        };
        if !real.is_dir() {
            return Err(WebRootError::NoFolder(root));
        }
        match real.join(INDEX).canonicalize() {
            Ok(index) if index.starts_with(&real) && index.is_file() => {
                std::fs::File::open(&index).map_err(|error| unreadable(&index, error))?;
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(unreadable(&root, error));
            }
            _ => return Err(WebRootError::NoIndex(root)),
        }
        let root = Arc::from(root);
        let confined = Confined {
            root: Arc::clone(&root),
        };
        let files = ServeDir::with_backend(&*root, confined)
            .append_index_html_on_directories(false)
            .precompressed_br()
            .precompressed_gzip();
        Ok(Self { files })
    }

    /// The file at the request's path, if there is one.
    ///
    /// # Errors
    /// `404` where there is none; `405` if it was not to be read; `500` if it could not be.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn answer(&self, mut request: Request) -> Result<Response, Problem> {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let is_hashed = request.uri().path().starts_with(HASHED);
        if request.uri().path() == "/" {
            *request.uri_mut() = Uri::from_static("/index.html");
        }
        // The files are small. A part of one could be put beside parts of an older one, since `ServeDir` knows no `If-Range`.
        request.headers_mut().remove(header::RANGE);
        if !is_read {
            // Whether there is anything at all decides between 405 and 404.
            *request.method_mut() = Method::HEAD;
        }
        let mut response = match self.files.clone().try_call(request).await {
            Ok(response) if response.status() == StatusCode::NOT_FOUND => return Err(Problem::not_found()),
            Ok(response) => response.map(Body::new).into_response(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Problem::not_found()),
            Err(error) => {
                tracing::warn!(%error, "a file of the page could not be read");
                return Err(Problem::internal());
            }
        };
        if !is_read {
            return Err(Problem::method_not_allowed().with(header::ALLOW, "GET, HEAD"));
        }
        let may_be_kept = response.status().is_success() || response.status() == StatusCode::NOT_MODIFIED;
        let headers = response.headers_mut();
        headers.extend(HEADERS);
        let caching = if is_hashed && may_be_kept {
            FOR_EVER
        } else {
            ASK_AGAIN
        };
        headers.insert(header::CACHE_CONTROL, caching);
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("none"));
        // A 304 has it as well (RFC 9110 §15.4.5).
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if let Some(named) = headers.get(header::CONTENT_TYPE).and_then(in_utf_8) {
            headers.insert(header::CONTENT_TYPE, named);
        }
        Ok(response)
    }
}

/// The same type of text with its encoding: what is built is UTF-8, and without a word browsers guess.
fn in_utf_8(media_type: &HeaderValue) -> Option<HeaderValue> {
    let text = media_type.to_str().ok()?;
    let is_unnamed = text.starts_with("text/") && !text.contains("charset");
    is_unnamed
        .then(|| HeaderValue::from_str(&format!("{text}; charset=utf-8")).ok())
        .flatten()
}

/// The file system, seen from within one folder: whatever lies elsewhere, or is nobody's business, is not there.
#[derive(Clone, Debug)]
struct Confined {
    root: Arc<Path>,
}

impl Confined {
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

impl Backend for Confined {
    type File = TokioFile;
    type Metadata = std::fs::Metadata;
    type OpenFuture = Pin<Box<dyn Future<Output = io::Result<TokioFile>> + Send>>;
    type MetadataFuture = Pin<Box<dyn Future<Output = io::Result<std::fs::Metadata>> + Send>>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        let confined = self.clone();
        Box::pin(async move {
            let real = confined.locate(&path).await?;
            // To open a pipe would wait for somebody who writes.
            if !tokio::fs::metadata(&real).await?.is_file() {
                return Err(io::ErrorKind::NotFound.into());
            }
            TokioBackend.open(real).await
        })
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        let confined = self.clone();
        Box::pin(async move {
            let real = confined.locate(&path).await?;
            let metadata = tokio::fs::metadata(real).await?;
            if metadata.is_file() || metadata.is_dir() {
                Ok(metadata)
            } else {
                Err(io::ErrorKind::NotFound.into())
            }
        })
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

    #[test]
    fn a_folder_that_cannot_be_served_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let told = |path: &Path| WebRoot::open(path).unwrap_err().to_string();
        let missing = told(&folder.path().join("nowhere"));
        assert!(
            missing.contains("nowhere does not exist") && missing.contains("npm run build"),
            "{missing}"
        );
        assert!(
            told(folder.path()).contains("has no index.html"),
            "{}",
            told(folder.path())
        );
        let elsewhere = tempfile::NamedTempFile::new().unwrap();
        assert!(
            told(elsewhere.path()).contains("is no folder"),
            "{}",
            told(elsewhere.path())
        );
        let index = folder.path().join(INDEX);
        std::os::unix::fs::symlink(elsewhere.path(), &index).unwrap();
        assert!(
            told(folder.path()).contains("has no index.html"),
            "{}",
            told(folder.path())
        );
        std::fs::remove_file(&index).unwrap();
        std::fs::create_dir(&index).unwrap();
        assert!(
            told(folder.path()).contains("has no index.html"),
            "{}",
            told(folder.path())
        );
        std::fs::remove_dir(&index).unwrap();
        std::fs::write(&index, "<!doctype html>").unwrap();
        assert!(WebRoot::open(folder.path()).is_ok());
    }

    #[test]
    fn texts_say_that_they_are_utf_8() {
        let named = |text| in_utf_8(&HeaderValue::from_static(text));
        assert_eq!(named("text/html").unwrap(), "text/html; charset=utf-8");
        assert_eq!(named("text/css; charset=latin1"), None);
        assert_eq!(named("image/png"), None);
    }
}
