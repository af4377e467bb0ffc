//! Tests against a real Postgres of their own, as one binary so that it links once.

// A test that cannot be set up has failed, and a panic says so best.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod migrate;
mod support;
