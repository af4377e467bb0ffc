//! Serves a built page from a folder: its files as they lie there, with what browsers have to know about caching and security.
//!
//! Invariants:
//! - No answer comes from outside the folder, by whatever path or link, or from a file whose name begins with a dot.
//! - Paths that are the gateway's stay the gateway's, whatever the folder holds.
//! - An answer names no path of the file system and lists no folder.
//!
//! It deliberately answers no path that names no file with the page, but for `/`: the page keeps where it is in its query.

mod folder;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use tower_http::services::fs::{DefaultServeDirFallback, ServeDir};

use self::folder::Folder;
use super::Problem;

/// The page itself.
const INDEX: &str = "index.html";

/// Where Vite puts files whose names have a hash of their content, so that a name never means another content.
const HASHED: &str = "/assets/";

/// For hashed files: a year, which is as good as for ever, without asking again when the page is reloaded (RFC 8246).
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// For all others: they may be kept, and are asked for each time whether they are still the same, which costs a `304`.
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("no-cache");

/// What a page may do (Content Security Policy Level 3): run and show what lies in the folder, show pictures of people from
/// anywhere, and talk to this gateway. Sockets need no word of their own: `'self'` matches `ws:` and `wss:` of the page's
/// host and port ("Does url match expression in origin"), in Chromium and Firefox for many years and in Safari since 15.4. `ws:`
/// and `wss:` would open every host instead, and a policy that names the gateway's own would have to believe the request's `Host`.
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
    files: ServeDir<DefaultServeDirFallback, Folder>,
}

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
                fs::File::open(&index).map_err(|error| unreadable(&index, error))?;
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(unreadable(&root, error));
            }
            _ => return Err(WebRootError::NoIndex(root)),
        }
        let root = Arc::from(root);
        let files = ServeDir::with_backend(&*root, Folder::new(Arc::clone(&root)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_served_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let check = |path: &Path, expected: &str| {
            let told = WebRoot::open(path).unwrap_err().to_string();
            assert!(
                told.contains(expected) && told.contains("npm run build"),
                "{told}"
            );
        };
        check(&folder.path().join("nowhere"), "nowhere does not exist");
        check(folder.path(), "has no index.html");
        let elsewhere = tempfile::NamedTempFile::new().unwrap();
        check(elsewhere.path(), "is no folder");
        let index = folder.path().join(INDEX);
        std::os::unix::fs::symlink(elsewhere.path(), &index).unwrap();
        check(folder.path(), "has no index.html of its own");
        fs::remove_file(&index).unwrap();
        fs::create_dir(&index).unwrap();
        check(folder.path(), "has no index.html");
        fs::remove_dir(&index).unwrap();
        fs::write(&index, "<!doctype html>").unwrap();
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
