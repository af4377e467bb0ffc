//! Stub.
use super::relation::Relation;
#[derive(Clone, Debug)]
pub struct Filter;
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("stub")]
pub struct FilterError;
impl Filter {
    pub fn parse(_: &str, _: &Relation) -> Result<Self, FilterError> { Ok(Self) }
    pub fn admits<'a>(&self, _: impl Fn(&str) -> Option<&'a str>) -> bool { true }
}
