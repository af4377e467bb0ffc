//! The users of the benchmarks, numbered, and their tokens.

use std::time::Duration;

use herald::{
    auth::{Secret, issue},
    types::UserId,
};
use tokio_postgres::Client;
use uuid::Uuid;

/// The secret that the benchmarks and their gateway share.
pub(crate) const SECRET: &str = "a secret of the benchmark, which is long enough";

/// Products that messages are about, and their identifiers' numbers.
const PRODUCTS: i64 = 50;

/// An identifier with this number. [`NUMBERED`] makes the same one in SQL.
pub(crate) const fn numbered(number: u32) -> Uuid {
    Uuid::from_u128(0x0000_0000_0000_4000_8000_0000_0000_0000 + number as u128)
}

/// The number of an identifier.
pub(crate) fn number_of(identifier: Uuid) -> usize {
    usize::try_from(identifier.as_u128() & 0xffff_ffff).unwrap()
}

/// The identifier of a number `n`, in SQL.
pub(crate) const NUMBERED: &str = "('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid";

/// The user with this number.
pub(crate) const fn user(number: u32) -> UserId {
    UserId(numbered(number))
}

/// A product that the message with this number is about: every second one is about none.
pub(crate) fn product(number: u32) -> Option<Uuid> {
    let product = number % u32::try_from(2 * PRODUCTS).unwrap();
    (i64::from(product) < PRODUCTS).then(|| numbered(product))
}

/// A token for a user that outlives every benchmark.
pub(crate) fn token(user: UserId) -> String {
    let secret = Secret::new(SECRET).unwrap();
    let token = issue(&secret, user, None, None, Duration::from_secs(3600)).unwrap();
    token.expose().to_owned()
}

/// Writes the profiles of the users 0 to `count` (not included) and the products.
pub(crate) async fn settle(client: &Client, count: u32) {
    client.batch_execute(&settling(count)).await.unwrap();
}

/// The statements by which [`settle`] does that.
pub(crate) fn settling(count: u32) -> String {
    format!(
        "insert into profiles (id, username, avatar_url) \
           select {NUMBERED}, 'person number ' || n, 'https://images.example/people/' || n || '.png' \
           from generate_series(0, {count} - 1) as n; \
         insert into products (id, seller_id, title, price) \
           select {NUMBERED}, {NUMBERED}, 'A thing with the number ' || n, n + 0.99 \
           from generate_series(0, least({PRODUCTS}, {count}) - 1) as n; \
         analyze profiles; analyze products;"
    )
}
