//! What a call says in its path and its query.

use std::str::FromStr;

use axum::{
    extract::{FromRequestParts, Path, Query},
    http::request::Parts,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::super::{Edge, Problem, caller};
use crate::{auth::Identity, protocol::conversation};

/// Rows on a page, unless the caller says otherwise: more than fit on a screen.
const LIMIT_DEFAULT: u32 = 50;

/// The most rows on a page. It bounds what one call costs.
const LIMIT_MAX: u32 = 200;

/// Who calls: the token has been judged, and the user has not called too often.
pub(super) struct Caller(pub(super) Identity);

impl FromRequestParts<Edge> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, edge: &Edge) -> Result<Self, Problem> {
        let token = crate::auth::find_token(&parts.headers, parts.uri.query());
        let identity = caller::authenticate(edge, token).await?;
        if edge.quota.take(identity.user, tokio::time::Instant::now()) {
            Ok(Self(identity))
        } else {
            Err(Problem::too_many_requests())
        }
    }
}

/// Which conversation, from the path.
pub(super) struct Conversation(pub(super) conversation::Conversation);

impl FromRequestParts<Edge> for Conversation {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, edge: &Edge) -> Result<Self, Problem> {
        let Path(name) = Path::<String>::from_request_parts(parts, edge)
            .await
            .map_err(|_| Problem::bad_conversation())?;
        let conversation = name.parse().map_err(|_| Problem::bad_conversation())?;
        Ok(Self(conversation))
    }
}

/// Which conversation, as typed.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "only its shape is used, for the description")]
pub(super) struct ConversationParameter {
    /// `<other user>__<product>`, or `<other user>__general` for messages without a product.
    #[param(
        pattern = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}__([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|general)$"
    )]
    conversation: String,
}

/// The query of a call that lists, as typed.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(
    dead_code,
    reason = "the description is made of it; the call reads the fields of `Listing`"
)]
pub(super) struct PageParameters {
    /// How many rows.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `next` of the page before this one, exactly as it came.
    #[param(pattern = "^([A-Za-z0-9_-]{32}|[A-Za-z0-9_-]{64})$")]
    before: Option<String>,
}

/// The query of a call that lists, understood. `P` is the kind of place that `before` names.
pub(super) struct Listing<P> {
    pub(super) limit: u32,
    pub(super) before: Option<P>,
}

impl<P: FromStr> FromRequestParts<Edge> for Listing<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _edge: &Edge) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        struct Typed {
            limit: Option<String>,
            before: Option<String>,
        }
        let Query(typed) = Query::<Typed>::try_from_uri(&parts.uri).map_err(|_| Problem::bad_query())?;
        let limit = match typed.limit {
            None => LIMIT_DEFAULT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=LIMIT_MAX).contains(limit))
                .ok_or(Problem::bad_limit())?,
        };
        let before = match typed.before {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| Problem::bad_page())?),
        };
        Ok(Self { limit, before })
    }
}
