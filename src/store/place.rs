//! How a message's place travels to and from Postgres: as its own eight bytes, so that nothing is rounded and infinite times
//! are as good as any.

use bytes::BytesMut;
use tokio_postgres::{
    Row,
    types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked},
};
use uuid::Uuid;

use super::refusal::Refusal;
use crate::protocol::page::Place;

type AnyError = Box<dyn std::error::Error + Sync + Send>;

/// A `timestamptz` as microseconds since 2000-01-01 UTC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(pub(super) i64);

impl<'a> FromSql<'a> for Moment {
    fn from_sql(_kind: &Type, raw: &'a [u8]) -> Result<Self, AnyError> {
        Ok(Self(i64::from_be_bytes(raw.try_into()?)))
    }

    accepts!(TIMESTAMPTZ);
}

impl ToSql for Moment {
    fn to_sql(&self, _kind: &Type, out: &mut BytesMut) -> Result<IsNull, AnyError> {
        out.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);

    to_sql_checked!();
}

/// Reads a place from two columns.
pub(super) fn read_place(row: &Row, time: &str, id: &str) -> Result<Place, Refusal> {
    let Moment(time) = row.try_get(time).map_err(|_| Refusal::Bookkeeping)?;
    let id: Uuid = row.try_get(id).map_err(|_| Refusal::Bookkeeping)?;
    Ok(Place { time, id })
}
