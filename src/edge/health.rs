//! For whoever runs it: is it alive, is it ready, what are its numbers.

use std::{fmt::Display, time::Duration};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use tokio::time::{Instant, timeout};

use super::Edge;
use crate::{
    hub::FeedState,
    metrics::CONTENT_TYPE,
    postgres::{Lent, PooledError},
};

/// How long the pool may take to answer `/readyz`. Probes commonly give up after a few seconds.
const POOL_DEADLINE: Duration = Duration::from_secs(2);

/// How long the pool's answer is good for.
const PROBE_AGE: Duration = Duration::from_secs(1);

/// When the pool was last asked, and what became of it.
pub type Probe = tokio::sync::Mutex<Option<(Instant, Result<(), String>)>>;

/// `200` while the process lives.
pub(super) async fn live() -> Response {
    plain(StatusCode::OK, "alive")
}

/// `200` only while the feed listens and the pool answers.
pub(super) async fn ready(State(edge): State<Edge>) -> Response {
    if edge.draining.is_cancelled() {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "not ready: shutting down");
    }
    let why = match &*edge.feed.current() {
        FeedState::Listening => None,
        FeedState::Connecting => Some("the feed is connecting to the database".to_owned()),
        FeedState::Waiting(reason) | FeedState::Refused(reason) => Some(format!("the feed: {reason}")),
    };
    match why {
        Some(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format_args!("not ready: {why}")),
        None => match pool_answers(&edge).await {
            Ok(()) => plain(StatusCode::OK, "ready"),
            Err(why) => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                format_args!("not ready: the pool: {why}"),
            ),
        },
    }
}

/// Whether the pool answers. One question at a time is asked, and its answer is good for a second, so that whoever can
/// reach this path cannot use the pool up.
async fn pool_answers(edge: &Edge) -> Result<(), String> {
    let mut last = edge.probe.lock().await;
    if let Some((asked, answer)) = &*last
        && asked.elapsed() < PROBE_AGE
    {
        return answer.clone();
    }
    let asked = async {
        let lent = Lent::from(&edge.pool).await?;
        let answered = timeout(POOL_DEADLINE, lent.client()?.simple_query("select 1")).await;
        lent.settle(answered, POOL_DEADLINE)
    };
    // Waiting for a connection counts, too: a pool that is used up is not ready.
    let answer = match timeout(POOL_DEADLINE, asked).await {
        Ok(answer) => answer.map(|_| ()).map_err(|error: PooledError| error.to_string()),
        Err(_) => Err(PooledError::Deadline(POOL_DEADLINE).to_string()),
    };
    *last = Some((Instant::now(), answer.clone()));
    answer
}

/// All metrics.
pub(super) async fn metrics(State(edge): State<Edge>) -> Response {
    match edge.metrics.render() {
        Ok(page) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response(),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

fn plain(status: StatusCode, text: impl Display) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, format!("{text}\n")).into_response()
}
