//! The body of a call: JSON, within bounds of size and time.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, header},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::super::Problem;

/// The most bytes of a body. A message has 10,000 characters at most, of which JSON may write each with twelve bytes; the rest is
/// for fields that this version does not know.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// Reads and understands a body.
///
/// # Errors
/// `415` unless it is JSON by its `Content-Type`; `413` above 256 KiB; `408` if it comes too slowly; `otherwise`, which tells
/// what is expected, if it is something else.
///
/// # Cancel safety
/// Not safe: what was read is lost.
pub async fn read<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
    otherwise: Problem,
) -> Result<T, Problem> {
    if !is_json(headers) {
        return Err(Problem::unsupported_media_type());
    }
    let understood = collect(body).await?.and_then(|bytes| understand(&bytes));
    understood.ok_or(otherwise)
}

/// The bytes of a body; none if the connection broke before its end.
///
/// # Errors
/// `413` above 256 KiB; `408` if it comes too slowly.
///
/// # Cancel safety
/// Not safe: what was read is lost.
pub(in super::super) async fn collect(body: Body) -> Result<Option<Bytes>, Problem> {
    match tokio::time::timeout(BODY_DEADLINE, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Err(_elapsed) => Err(Problem::body_too_slow()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::body_too_large()),
        Ok(Err(_broken)) => Ok(None),
        Ok(Ok(collected)) => Ok(Some(collected.to_bytes())),
    }
}

fn understand<T: DeserializeOwned>(bytes: &Bytes) -> Option<T> {
    // An array of the fields in their order would be understood, too, and is no object.
    let is_object = bytes.trim_ascii_start().starts_with(b"{");
    serde_json::from_slice(bytes).ok().filter(|_| is_object)
}

/// What the body calls itself, without parameters and in lower case; nothing if it does not say.
pub(in super::super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?;
    // A value that is not text is a type that nobody knows.
    let essence = value.to_str().unwrap_or("?").split(';').next()?;
    Some(essence.trim().to_ascii_lowercase())
}

/// Whether the body calls itself JSON (RFC 8259 §11; RFC 6839 §3.1 for the suffix).
fn is_json(headers: &HeaderMap) -> bool {
    let essence = media_type(headers).unwrap_or_default();
    essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json")
}
