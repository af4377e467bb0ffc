//! Placeholder until the database side is merged.
/// Version.
pub const SCHEMA_VERSION: i32 = 1;
