//! Loads the demo application into a database: its tables, its people with what they sell, and what they said so far.
//!
//! The history is the same in every demo but for its times, which count back from the moment of loading. Loading again
//! changes nothing: ids are fixed, and what exists is left as it is.

use tokio_postgres::Client;
use uuid::Uuid;

use super::people::{PEOPLE, PRODUCTS, Person, Product, Speaker, TALKS, Talk};

/// The name of the demo's database in the private Postgres.
pub const DATABASE: &str = "herald_demo";

/// How many talks lie in the past. With about four lines each it makes a few hundred messages.
const PAST_TALKS: usize = 90;
/// How long ago the first one began: four weeks, in seconds.
const PAST_BEGAN_SECONDS_AGO: i64 = 28 * 24 * 3_600;
/// How long ago the last one began: an hour, so that the history ends before the chatter begins.
const PAST_ENDED_SECONDS_AGO: i64 = 3_600;
/// The application's tables.
pub const SCHEMA: &str = include_str!("../../sql/demo/schema.sql");

/// The last talks end with a line that its receiver has not read.
const UNREAD_TALKS: usize = 12;
/// Two programs that load at once must not both make the tables. The number means nothing beyond being the same for both.
const LOADING: i64 = 0x6865_7261_6c64_0001;

/// Loads the demo, or finds it loaded, in one transaction. Answers how many messages are new.
///
/// # Errors
/// What Postgres answered, for instance if the database has other tables of these names.
///
/// # Cancel safety
/// Safe: dropped on the way, nothing has changed.
pub async fn load(client: &mut Client) -> Result<u64, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction
        .execute("select pg_advisory_xact_lock($1)", &[&LOADING])
        .await?;
    let present = transaction
        .query_one("select to_regclass('public.messages') is not null", &[])
        .await?;
    if !present.get::<_, bool>(0) {
        transaction.batch_execute(SCHEMA).await?;
    }
    let (ids, names, avatars): (Vec<_>, Vec<_>, Vec<_>) = unzip(
        PEOPLE
            .iter()
            .map(|person| (person.id(), person.username, person.avatar_url())),
    );
    transaction
        .execute(
            include_str!("../../sql/demo/people.sql"),
            &[&ids, &names, &avatars],
        )
        .await?;
    let ids: Vec<Uuid> = PRODUCTS.iter().map(|product| product.id()).collect();
    let (sellers, titles, cents): (Vec<_>, Vec<_>, Vec<_>) = unzip(
        PRODUCTS
            .iter()
            .map(|product| (product.seller().id(), product.title, product.cents)),
    );
    transaction
        .execute(
            include_str!("../../sql/demo/products.sql"),
            &[&ids, &sellers, &titles, &cents],
        )
        .await?;
    let past = past();
    let column = |id: fn(&Past) -> Uuid| past.iter().map(id).collect::<Vec<Uuid>>();
    let products: Vec<Option<Uuid>> = past.iter().map(|message| message.product).collect();
    let contents: Vec<&str> = past.iter().map(|message| message.content).collect();
    let (seconds_ago, read): (Vec<i64>, Vec<bool>) = past
        .iter()
        .map(|message| (message.seconds_ago, message.is_read))
        .unzip();
    let (ids, senders, receivers) = (
        column(|message| message.id),
        column(|message| message.sender),
        column(|message| message.receiver),
    );
    let history = include_str!("../../sql/demo/history.sql");
    let new = transaction
        .execute(
            history,
            &[
                &ids,
                &senders,
                &receivers,
                &products,
                &contents,
                &seconds_ago,
                &read,
            ],
        )
        .await?;
    transaction.commit().await?;
    Ok(new)
}

fn unzip<A, B, C>(rows: impl Iterator<Item = (A, B, C)>) -> (Vec<A>, Vec<B>, Vec<C>) {
    rows.fold((Vec::new(), Vec::new(), Vec::new()), |mut columns, row| {
        columns.0.push(row.0);
        columns.1.push(row.1);
        columns.2.push(row.2);
        columns
    })
}

/// A message of the history.
#[derive(Debug, PartialEq)]
struct Past {
    id: Uuid,
    sender: Uuid,
    receiver: Uuid,
    product: Option<Uuid>,
    content: &'static str,
    seconds_ago: i64,
    is_read: bool,
}

/// The whole history, oldest first within each talk.
fn past() -> Vec<Past> {
    let span = PAST_BEGAN_SECONDS_AGO - PAST_ENDED_SECONDS_AGO;
    let mut past = vec![note_to_oneself()];
    for number in 0..PAST_TALKS {
        let scene = Scene::of(number);
        let began = PAST_BEGAN_SECONDS_AGO - span * cast(number) / cast(PAST_TALKS - 1);
        let last = scene.talk.lines.len() - 1;
        for (line, (speaker, content)) in scene.talk.lines.iter().enumerate() {
            let (sender, receiver) = scene.sender_and_receiver(*speaker);
            past.push(Past {
                id: message_id(past.len()),
                sender: sender.id(),
                receiver: receiver.id(),
                product: scene.product.map(Product::id),
                content,
                // People take between one and two minutes to answer, not always the same.
                seconds_ago: began - cast(line) * 60 - cast((number * 7 + line * 13) % 60),
                is_read: number + UNREAD_TALKS < PAST_TALKS || line < last,
            });
        }
    }
    past
}

fn note_to_oneself() -> Past {
    let alice = PEOPLE[0].id();
    let content = "Note to myself: measure the wall before the bookshelf goes.";
    let seconds_ago = PAST_BEGAN_SECONDS_AGO / 2;
    Past {
        id: message_id(0),
        sender: alice,
        receiver: alice,
        product: None,
        content,
        seconds_ago,
        is_read: true,
    }
}

const fn message_id(number: usize) -> Uuid {
    Uuid::from_u128(0xcccc_cccc_0000_4000_8000_0000_0000_0000 + number as u128)
}

fn cast(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A talk with its people, and the product if it is about one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene {
    pub(super) talk: Talk,
    pub(super) product: Option<Product>,
    first: Person,
    second: Person,
}

impl Scene {
    /// One of endlessly many scenes; the same number always gives the same.
    pub(super) fn of(number: usize) -> Self {
        let talk = TALKS[number % TALKS.len()];
        // Steps that share no factor with the lengths visit every product and every pair of people.
        let product = PRODUCTS[(number * 7 + number / TALKS.len()) % PRODUCTS.len()];
        let second = if talk.about_product {
            product.seller()
        } else {
            PEOPLE[(number * 5) % PEOPLE.len()]
        };
        let others: Vec<Person> = PEOPLE
            .iter()
            .copied()
            .filter(|person| person.id() != second.id())
            .collect();
        let first = others[(number * 3 + number / PRODUCTS.len()) % others.len()];
        Self {
            talk,
            product: talk.about_product.then_some(product),
            first,
            second,
        }
    }

    /// Who sends a line of this speaker, and who receives it.
    pub(super) const fn sender_and_receiver(&self, speaker: Speaker) -> (Person, Person) {
        match speaker {
            Speaker::First => (self.first, self.second),
            Speaker::Second => (self.second, self.first),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_history_is_believable_and_the_same_each_time() {
        let history = past();
        assert_eq!(history, past());
        assert!((200..600).contains(&history.len()), "{}", history.len());
        assert_eq!(
            history
                .iter()
                .map(|message| message.id)
                .collect::<HashSet<_>>()
                .len(),
            history.len()
        );
        assert_eq!(
            history
                .iter()
                .filter(|message| message.sender == message.receiver)
                .count(),
            1
        );
        assert_eq!(
            history.iter().filter(|message| !message.is_read).count(),
            UNREAD_TALKS
        );
        assert!(
            history.iter().all(|message| message.seconds_ago > 0),
            "a message from the future"
        );
        let with_product = history.iter().filter(|message| message.product.is_some()).count();
        assert!(
            with_product > history.len() / 4 && with_product < history.len() * 3 / 4,
            "{with_product}"
        );
    }

    #[test]
    fn everybody_talks_and_everything_is_asked_about() {
        let history = past();
        for person in PEOPLE {
            assert!(
                history.iter().any(|message| message.sender == person.id()),
                "{} is silent",
                person.username
            );
            assert!(
                history.iter().any(|message| message.receiver == person.id()),
                "nobody writes to {}",
                person.username
            );
        }
        for product in PRODUCTS {
            assert!(
                history
                    .iter()
                    .any(|message| message.product == Some(product.id())),
                "{}",
                product.title
            );
        }
    }

    #[test]
    fn nobody_talks_to_himself_in_a_scene_and_sellers_answer_for_their_products() {
        for number in 0..10_000 {
            let scene = Scene::of(number);
            assert_ne!(scene.first.id(), scene.second.id());
            assert!(
                scene
                    .product
                    .is_none_or(|product| product.seller().id() == scene.second.id())
            );
        }
    }
}
