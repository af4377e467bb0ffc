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
/// `415` unless it is JSON by its `Content-Type`; `413` above 256 KiB; `408` if it comes too slowly; `400` if it is not what
/// is expected.
///
/// # Cancel safety
/// Not safe: what was read is lost.
pub(super) async fn read<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Problem> {
    if !is_json(headers) {
        return Err(Problem::unsupported_media_type());
    }
    let bytes = match tokio::time::timeout(BODY_DEADLINE, Limited::new(body, BODY_BYTES_MAX).collect()).await
    {
        Err(_elapsed) => return Err(Problem::body_too_slow()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(Problem::body_too_large()),
        Ok(Err(_broken)) => return Err(Problem::bad_body()),
        Ok(Ok(collected)) => collected.to_bytes(),
    };
    understand(&bytes)
}

fn understand<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Problem> {
    // An array of the fields in their order would be understood, too, and is no object.
    let is_object = bytes.trim_ascii_start().starts_with(b"{");
    let understood = serde_json::from_slice(bytes).ok().filter(|_| is_object);
    understood.ok_or(Problem::bad_body())
}

/// Whether the body calls itself JSON (RFC 8259 §11; RFC 6839 §3.1 for the suffix).
fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(value)) = headers.get(header::CONTENT_TYPE).map(|value| value.to_str()) else {
        return false;
    };
    let essence = value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json")
}
