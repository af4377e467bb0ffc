//! Which pages may open a session. A browser sends a page's origin with every WebSocket handshake (RFC 6455 §10.2),
//! and does not apply CORS to it, so that this check is the only one. Clients that are no browser send none.

use axum::http::{HeaderMap, HeaderValue, header};

/// The origins whose pages may connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// Pages of the host that the request is addressed to.
    #[default]
    SameHost,
    /// Pages of the host that the request is addressed to, which came by TLS: for a gateway that speaks TLS itself, and so knows
    /// that a page of its host which did not come by TLS may be anybody's.
    SameHostByTls,
    /// Pages of these origins, each as a browser writes it: `https://app.example`.
    Listed(Vec<String>),
    /// Every page.
    Any,
}

impl AllowedOrigins {
    /// Reads the setting: `*`, or origins separated by commas.
    ///
    /// # Errors
    /// A sentence that says what an origin looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut origins = Vec::new();
        for origin in text.split(',').map(str::trim).filter(|origin| !origin.is_empty()) {
            if origin == "*" {
                return Ok(Self::Any);
            }
            let host = origin.split_once("://").map(|(_, host)| host);
            if host.is_none_or(|host| host.is_empty() || host.contains('/')) {
                return Err(format!(
                    "`{origin}` is not an origin; write https://app.example, without a path, or *"
                ));
            }
            origins.push(origin.to_ascii_lowercase());
        }
        Ok(if origins.is_empty() {
            Self::SameHost
        } else {
            Self::Listed(origins)
        })
    }

    /// The same, at a gateway that speaks TLS itself.
    #[must_use]
    pub fn by_tls(self) -> Self {
        match self {
            Self::SameHost => Self::SameHostByTls,
            told @ (Self::SameHostByTls | Self::Listed(_) | Self::Any) => told,
        }
    }

    /// Whether a request with these headers may open a session.
    pub fn allow(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return true;
        };
        let Ok(origin) = origin.to_str().map(str::to_ascii_lowercase) else {
            return false;
        };
        match self {
            Self::Any => true,
            Self::Listed(origins) => origins.contains(&origin),
            Self::SameHost => {
                let page = origin.split_once("://").map(|(_, host)| host);
                is_host_of(headers, page)
            }
            Self::SameHostByTls => is_host_of(headers, origin.strip_prefix("https://")),
        }
    }
}

/// Whether the request is addressed to the page's host, which is written in lower case.
fn is_host_of(headers: &HeaderMap, page: Option<&str>) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host: &HeaderValue| host.to_str().ok());
    host.is_some_and(|host| page == Some(host.to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(origin: Option<&'static str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("chat.example:4000"));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        }
        headers
    }

    #[test]
    fn the_same_host_is_allowed_by_default_and_others_are_not() {
        let allowed = AllowedOrigins::parse("").unwrap();
        assert!(allowed.allow(&headers(None)));
        assert!(allowed.allow(&headers(Some("https://Chat.example:4000"))));
        for stranger in [
            "https://chat.example",
            "https://evil.example",
            "null",
            "https://chat.example:4000.evil.example",
        ] {
            assert!(!allowed.allow(&headers(Some(stranger))), "{stranger}");
        }
    }

    #[test]
    fn a_gateway_that_speaks_tls_itself_allows_pages_of_its_host_that_came_by_tls() {
        let allowed = AllowedOrigins::parse("").unwrap().by_tls();
        assert!(allowed.allow(&headers(Some("https://Chat.example:4000"))));
        assert!(allowed.allow(&headers(None)));
        for stranger in ["http://chat.example:4000", "https://evil.example", "null"] {
            assert!(!allowed.allow(&headers(Some(stranger))), "{stranger}");
        }
        let listed = AllowedOrigins::parse("http://app.example").unwrap();
        assert_eq!(listed.clone().by_tls(), listed);
    }

    #[test]
    fn listed_origins_are_allowed_and_only_they() {
        let allowed = AllowedOrigins::parse("https://app.example, https://admin.example").unwrap();
        assert!(allowed.allow(&headers(Some("https://admin.example"))));
        assert!(!allowed.allow(&headers(Some("http://app.example"))));
        assert!(!allowed.allow(&headers(Some("https://chat.example:4000"))));
    }

    #[test]
    fn a_star_allows_every_page_and_a_path_is_no_origin() {
        assert_eq!(
            AllowedOrigins::parse("https://a.example,*"),
            Ok(AllowedOrigins::Any)
        );
        for wrong in ["app.example", "https://app.example/chat", "https://"] {
            assert!(
                AllowedOrigins::parse(wrong)
                    .unwrap_err()
                    .contains("https://app.example"),
                "{wrong}"
            );
        }
    }
}
