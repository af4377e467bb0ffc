//! Where a request carries its token; see the section "Who is calling" of `PROTOCOL.md`.
//!
//! Pure: it reads headers and a query string. It deliberately does not judge the token.

use http::{
    HeaderMap,
    header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL},
};
use percent_encoding::percent_decode_str;

use super::{AuthError, Token};

/// The WebSocket subprotocol of Herald's own frames.
const NATIVE_PROTOCOL: &str = "herald.v1";
/// What precedes the token in the list of WebSocket subprotocols. Browsers can set no header but this list.
const PROTOCOL_PREFIX: &str = "bearer.";
/// The query parameter that carries a token (RFC 6750 §2.3). Queries are never written to a log.
const QUERY_PARAMETER: &str = "access_token";
/// The header, and the query parameter, that carry the key of Supabase's clients.
const API_KEY: &str = "apikey";

/// The request's token, from the first of these that is present: `Authorization: Bearer`, the WebSocket subprotocol
/// `bearer.<token>`, the query parameter `access_token`.
///
/// An `Authorization` of another scheme, as a proxy's basic authentication leaves it, is no token and is passed over.
///
/// # Errors
/// [`AuthError::MissingToken`] if there is none; [`AuthError::Malformed`] if the first place that is present holds
/// something that cannot be a token, or two different ones.
pub fn find_token(headers: &HeaderMap, query: Option<&str>) -> Result<Token, AuthError> {
    from_authorization(headers)
        .or_else(|| from_protocols(headers))
        .or_else(|| from_query(query.unwrap_or_default(), QUERY_PARAMETER))
        .unwrap_or(Err(AuthError::MissingToken))
}

/// The token of a request as Supabase's clients make it, from the first of these that is present: `Authorization: Bearer`, the
/// header `apikey`, the query parameter `apikey`. A client that knows a person's token sends it in the first, and the
/// application's own key in the others.
///
/// # Errors
/// As [`find_token`].
pub fn find_api_token(headers: &HeaderMap, query: Option<&str>) -> Result<Token, AuthError> {
    let of_header = || {
        let values = headers.get_all(API_KEY).iter();
        only(values.map(|value| value.to_str().unwrap_or_default()))
    };
    from_authorization(headers)
        .or_else(of_header)
        .or_else(|| from_query(query.unwrap_or_default(), API_KEY))
        .unwrap_or(Err(AuthError::MissingToken))
}

/// Whether the client offers `herald.v1`, so that the answer to the upgrade has to choose it.
pub fn offers_native_protocol(headers: &HeaderMap) -> bool {
    protocols(headers).any(|protocol| protocol == NATIVE_PROTOCOL)
}

fn from_authorization(headers: &HeaderMap) -> Option<Result<Token, AuthError>> {
    only(headers.get_all(AUTHORIZATION).iter().filter_map(|value| {
        // Compared as bytes, because a value that is not ASCII may still begin like a bearer token.
        let (scheme, token) = value.as_bytes().split_at_checked("bearer".len())?;
        let separated = token.first().is_none_or(|next| *next == b' ');
        (scheme.eq_ignore_ascii_case(b"bearer") && separated)
            .then(|| std::str::from_utf8(token).unwrap_or_default())
    }))
}

fn from_protocols(headers: &HeaderMap) -> Option<Result<Token, AuthError>> {
    only(protocols(headers).filter_map(|protocol| protocol.strip_prefix(PROTOCOL_PREFIX)))
}

fn from_query(query: &str, parameter: &str) -> Option<Result<Token, AuthError>> {
    let values: Vec<String> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(name, _)| *name == parameter)
        .map(|(_, value)| {
            percent_decode_str(value)
                .decode_utf8()
                .unwrap_or_default()
                .into_owned()
        })
        .collect();
    only(values.iter().map(String::as_str))
}

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(str::trim)
}

/// One token, however often it is repeated. Two different ones in one place are refused rather than chosen from: who
/// reads the other one, a proxy say, would see another caller.
fn only<'a>(mut candidates: impl Iterator<Item = &'a str>) -> Option<Result<Token, AuthError>> {
    let first = candidates.next()?.trim();
    let differs = candidates.any(|other| other.trim() != first);
    Some(if first.is_empty() || differs {
        Err(AuthError::Malformed)
    } else {
        Ok(Token::new(first))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(http::HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn found(headers: &HeaderMap, query: Option<&str>) -> Result<String, AuthError> {
        find_token(headers, query).map(|token| token.expose().to_owned())
    }

    #[test]
    fn the_first_place_that_is_present_wins() {
        let all = headers(&[
            (AUTHORIZATION, "Bearer one"),
            (SEC_WEBSOCKET_PROTOCOL, "herald.v1, bearer.two"),
        ]);
        assert_eq!(found(&all, Some("access_token=three")).unwrap(), "one");
        let without = headers(&[(SEC_WEBSOCKET_PROTOCOL, "herald.v1, bearer.two")]);
        assert_eq!(found(&without, Some("access_token=three")).unwrap(), "two");
        assert_eq!(
            found(&HeaderMap::new(), Some("cursor=x&access_token=three")).unwrap(),
            "three"
        );
        assert_eq!(
            found(&HeaderMap::new(), Some("cursor=x")),
            Err(AuthError::MissingToken)
        );
        assert_eq!(found(&HeaderMap::new(), None), Err(AuthError::MissingToken));
    }

    #[test]
    fn the_scheme_may_be_written_in_any_case_and_another_scheme_is_passed_over() {
        assert_eq!(
            found(&headers(&[(AUTHORIZATION, "bEaReR  a.b.c ")]), None).unwrap(),
            "a.b.c"
        );
        let basic = headers(&[(AUTHORIZATION, "Basic dXNlcjpwYXNz")]);
        assert_eq!(found(&basic, Some("access_token=t")).unwrap(), "t");
        assert_eq!(
            found(&headers(&[(AUTHORIZATION, "Bearerish t")]), None),
            Err(AuthError::MissingToken)
        );
    }

    #[test]
    fn an_empty_token_is_malformed_and_does_not_lead_to_the_next_place() {
        for line in ["Bearer", "Bearer ", "bearer \t", "Bearer \u{fffd}".trim_end()] {
            let present = headers(&[(AUTHORIZATION, line)]);
            let answer = found(&present, Some("access_token=t"));
            assert!(
                matches!(&answer, Err(AuthError::Malformed)) || answer.unwrap() == "\u{fffd}",
                "{line}"
            );
        }
        assert_eq!(
            found(&HeaderMap::new(), Some("access_token=")),
            Err(AuthError::Malformed)
        );
        assert_eq!(
            found(&HeaderMap::new(), Some("access_token=%ff")),
            Err(AuthError::Malformed)
        );
    }

    #[test]
    fn two_different_tokens_in_one_place_are_refused_and_a_repeated_one_is_not() {
        let two = headers(&[(AUTHORIZATION, "Bearer a"), (AUTHORIZATION, "Bearer b")]);
        assert_eq!(found(&two, None), Err(AuthError::Malformed));
        let same = headers(&[(AUTHORIZATION, "Bearer a"), (AUTHORIZATION, "Bearer a")]);
        assert_eq!(found(&same, None).unwrap(), "a");
        assert_eq!(
            found(&HeaderMap::new(), Some("access_token=a&access_token=b")),
            Err(AuthError::Malformed)
        );
        let protocols = headers(&[(SEC_WEBSOCKET_PROTOCOL, "bearer.a, bearer.b")]);
        assert_eq!(found(&protocols, None), Err(AuthError::Malformed));
    }

    #[test]
    fn a_token_in_the_query_is_percent_decoded() {
        assert_eq!(
            found(&HeaderMap::new(), Some("access_token=a%2Eb%2ec")).unwrap(),
            "a.b.c"
        );
    }

    #[test]
    fn a_key_is_looked_for_where_supabases_clients_put_it() {
        let found = |headers: &HeaderMap, query| {
            find_api_token(headers, query).map(|token| token.expose().to_owned())
        };
        let key = http::HeaderName::from_static(API_KEY);
        let both = headers(&[(key.clone(), "two"), (AUTHORIZATION, "Bearer one")]);
        assert_eq!(found(&both, Some("apikey=three")).unwrap(), "one");
        let without = headers(&[(key.clone(), "two")]);
        assert_eq!(found(&without, Some("apikey=three")).unwrap(), "two");
        let none = HeaderMap::new();
        assert_eq!(found(&none, Some("vsn=2.0.0&apikey=three")).unwrap(), "three");
        assert_eq!(found(&none, Some("access_token=t")), Err(AuthError::MissingToken));
        assert_eq!(found(&headers(&[(key, "")]), None), Err(AuthError::Malformed));
    }

    #[test]
    fn the_native_protocol_is_seen_wherever_it_stands_in_the_list() {
        for (lines, offered) in [
            (vec!["herald.v1, bearer.t"], true),
            (vec!["bearer.t,herald.v1"], true),
            (vec!["bearer.t", "herald.v1"], true),
            (vec!["bearer.t"], false),
            (vec!["herald.v10"], false),
            (vec![], false),
        ] {
            let lines: Vec<_> = lines
                .into_iter()
                .map(|line| (SEC_WEBSOCKET_PROTOCOL, line))
                .collect();
            assert_eq!(offers_native_protocol(&headers(&lines)), offered, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_and_no_query_makes_it_panic(
            authorization in proptest::collection::vec(any::<u8>(), 0..64), protocol in ".*", query in ".*",
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in [(AUTHORIZATION, authorization), (SEC_WEBSOCKET_PROTOCOL, protocol.into_bytes())] {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    headers.append(name, value);
                }
            }
            let _token = find_token(&headers, Some(&query));
            let _offered = offers_native_protocol(&headers);
        }
    }
}
