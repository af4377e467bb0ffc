//! Where a gateway is: from what a person types to the URLs of what it answers at.
//!
//! The token is never part of it, since URLs end up in the logs of whatever lies between.

use std::{fmt, str::FromStr};

use http::Uri;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// The path of the socket, below the gateway's own.
const SOCKET_PATH: &str = "/v1/socket";

/// A gateway's address: `http://127.0.0.1:4000`, or `https://example.org/herald` behind a reverse proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayUrl {
    is_secure: bool,
    authority: String,
    /// Empty, or a path that begins with a slash and does not end with one.
    path: String,
}

/// A text is not the address of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GatewayUrlError {
    /// It is no URL, or one of another kind.
    #[error(
        "is not a gateway's address; write something like http://127.0.0.1:4000 or https://example.org/herald"
    )]
    Malformed,
    /// It holds a user's name or a password.
    #[error("holds a user name or password; Herald knows people by tokens, see HERALD_TOKEN")]
    Credentials,
    /// It holds a query, where a token could hide.
    #[error("holds a query; give the address only, and the token by HERALD_TOKEN")]
    Query,
}

impl FromStr for GatewayUrl {
    type Err = GatewayUrlError;

    fn from_str(text: &str) -> Result<Self, GatewayUrlError> {
        let uri: Uri = text.parse().map_err(|_| GatewayUrlError::Malformed)?;
        let is_secure = match uri.scheme_str() {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => return Err(GatewayUrlError::Malformed),
        };
        let authority = uri.authority().ok_or(GatewayUrlError::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(GatewayUrlError::Credentials);
        }
        if authority.host().is_empty() {
            return Err(GatewayUrlError::Malformed);
        }
        if uri.query().is_some() {
            return Err(GatewayUrlError::Query);
        }
        Ok(Self {
            is_secure,
            authority: authority.to_string(),
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        write!(formatter, "{scheme}://{}{}", self.authority, self.path)
    }
}

impl GatewayUrl {
    /// Whether it is reached by TLS.
    pub const fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// The URL of what the gateway answers at this path, which begins with a slash.
    pub fn below(&self, path: &str) -> String {
        format!("{self}{path}")
    }

    /// The URL of the socket, which continues from this cursor if there is one.
    pub fn socket(&self, cursor: Option<&str>) -> String {
        let scheme = if self.is_secure { "wss" } else { "ws" };
        let mut url = format!("{scheme}://{}{}{SOCKET_PATH}", self.authority, self.path);
        if let Some(cursor) = cursor {
            // A cursor is opaque here, so nothing is assumed about its letters.
            url.push_str("?cursor=");
            url.extend(utf8_percent_encode(cursor, NON_ALPHANUMERIC));
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(address: &str, cursor: Option<&str>) -> String {
        address.parse::<GatewayUrl>().unwrap().socket(cursor)
    }

    #[test]
    fn the_socket_is_below_the_gateways_own_path() {
        assert_eq!(
            socket("http://127.0.0.1:4000", None),
            "ws://127.0.0.1:4000/v1/socket"
        );
        assert_eq!(socket("ws://[::1]:4000/", None), "ws://[::1]:4000/v1/socket");
        assert_eq!(
            socket("https://example.org/herald/", None),
            "wss://example.org/herald/v1/socket"
        );
    }

    #[test]
    fn what_is_answered_over_http_is_below_the_gateways_own_path_too() {
        for (address, events) in [
            ("ws://[::1]:4000/", "http://[::1]:4000/v1/events"),
            (
                "https://example.org/herald",
                "https://example.org/herald/v1/events",
            ),
        ] {
            assert_eq!(address.parse::<GatewayUrl>().unwrap().below("/v1/events"), events);
        }
    }

    #[test]
    fn a_cursor_cannot_break_out_of_its_place() {
        assert_eq!(
            socket("http://h", Some("e.1-2&access_token=x#y")),
            "ws://h/v1/socket?cursor=e%2E1%2D2%26access%5Ftoken%3Dx%23y"
        );
    }

    #[test]
    fn what_is_no_address_says_what_would_be_one() {
        for (wrong, error) in [
            ("", GatewayUrlError::Malformed),
            ("127.0.0.1:4000", GatewayUrlError::Malformed),
            ("ftp://h", GatewayUrlError::Malformed),
            ("http:///path", GatewayUrlError::Malformed),
            ("http://a:b@h", GatewayUrlError::Credentials),
            ("http://h?access_token=x", GatewayUrlError::Query),
        ] {
            assert_eq!(wrong.parse::<GatewayUrl>(), Err(error), "{wrong}");
        }
    }
}
