//! The two public functions, and the query behind the first, against real Postgres with row-level security on.

use std::collections::{BTreeMap, BTreeSet};

use herald::migrate::{self, Outcome};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio_postgres::{Client, error::SqlState};
use uuid::Uuid;

use crate::support::{
    APPLICATION,
    database::{Database, people},
    gateway::migrate,
};

/// The text that the gateway runs for the list of conversations.
const PREVIEWS: &str = include_str!("../../sql/previews.sql");

/// As much as the property test writes; every amount has to do.
const MESSAGES: usize = 150;

/// A place in time: microseconds since 1970 and the message's id, which orders equal times as Postgres does.
type Place = (i64, Uuid);

/// Who the other person is, and what it is about.
type Conversation = (Uuid, Option<Uuid>);

/// A message as the test knows it.
#[derive(Clone, Debug)]
struct Message {
    place: Place,
    sender: Uuid,
    receiver: Uuid,
    product: Option<Uuid>,
    content: String,
    is_read: bool,
}

impl Message {
    fn conversation_of(&self, me: Uuid) -> Option<Conversation> {
        if self.sender == me {
            Some((self.receiver, self.product))
        } else {
            (self.receiver == me).then_some((self.sender, self.product))
        }
    }
}

/// One row of the list of conversations.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Preview {
    conversation: Conversation,
    name: String,
    username: String,
    avatar: Option<String>,
    title: Option<String>,
    last_message: String,
    last_time: i64,
    unread: i32,
}

/// A small world: some people, who may write to themselves, and some products.
struct World {
    client: Client,
    people: [Uuid; 5],
    products: Vec<Uuid>,
    messages: Vec<Message>,
    random: StdRng,
}

impl World {
    async fn new(database: &Database, seed: u64) -> Self {
        migrate(&database.url()).await;
        let client = database.connect().await;
        let people = people(&client).await;
        client
            .execute("update profiles set avatar_url = 'face of ' || username", &[])
            .await
            .unwrap();
        let products: Vec<Uuid> = (0..3).map(|_| Uuid::new_v4()).collect();
        for (number, product) in products.iter().enumerate() {
            client
                .execute(
                    "insert into products (id, title, price) values ($1, $2, 1)",
                    &[product, &format!("product {number}")],
                )
                .await
                .unwrap();
        }
        Self {
            client,
            people,
            products,
            messages: Vec::new(),
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Writes a message between any two people about anything. Few times are to be had, so that many are equal.
    async fn write(&mut self, times: std::ops::Range<i64>) {
        let person = |random: &mut StdRng| random.random_range(0..self.people.len());
        let (sender, receiver) = (person(&mut self.random), person(&mut self.random));
        let about = self.random.random_range(0..self.products.len() * 2);
        let message = Message {
            place: (
                self.random.random_range(times) * 1_000_000,
                Uuid::from_u128(self.random.random()),
            ),
            sender: self.people[sender],
            receiver: self.people[receiver],
            product: self.products.get(about).copied(),
            content: format!("number {}", self.messages.len()),
            is_read: self.random.random(),
        };
        self.client
            .execute(
                "insert into messages (id, sender_id, receiver_id, product_id, content, is_read, created_at)
                 values ($1, $2, $3, $4, $5, $6, timestamptz 'epoch' + $7 * interval '1 microsecond')",
                &[
                    &message.place.1,
                    &message.sender,
                    &message.receiver,
                    &message.product,
                    &message.content,
                    &message.is_read,
                    &(f64::from(i32::try_from(message.place.0 / 1_000_000).unwrap()) * 1e6),
                ],
            )
            .await
            .unwrap();
        self.messages.push(message);
    }

    fn name_of(&self, person: Uuid) -> String {
        let number = self.people.iter().position(|known| *known == person).unwrap();
        format!("person {number}")
    }

    /// The list of somebody's conversations by reading all messages, with each one's place among those up to `top`.
    fn expected(&self, me: Uuid, top: Option<Place>) -> Vec<(Place, Preview)> {
        let mut conversations = BTreeMap::<Conversation, Vec<&Message>>::new();
        for message in &self.messages {
            if let Some(conversation) = message.conversation_of(me) {
                conversations.entry(conversation).or_default().push(message);
            }
        }
        let mut previews: Vec<(Place, Preview)> = conversations
            .into_iter()
            .filter_map(|(conversation, messages)| {
                let places = messages.iter().map(|message| message.place);
                let place = places.filter(|place| top.is_none_or(|top| *place <= top)).max()?;
                Some((place, self.preview(me, conversation, &messages)))
            })
            .collect();
        previews.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
        previews
    }

    fn preview(&self, me: Uuid, conversation: Conversation, messages: &[&Message]) -> Preview {
        let (other, product) = conversation;
        let newest = messages.iter().max_by_key(|message| message.place).unwrap();
        let about = product.map_or_else(|| "general".to_owned(), |product| product.to_string());
        let unread = messages
            .iter()
            .filter(|message| message.sender == other && message.receiver == me && !message.is_read);
        Preview {
            conversation,
            name: format!("{other}__{about}"),
            username: self.name_of(other),
            avatar: Some(format!("face of {}", self.name_of(other))),
            title: product.map(|product| {
                let number = self.products.iter().position(|known| *known == product).unwrap();
                format!("product {number}")
            }),
            last_message: newest.content.clone(),
            last_time: newest.place.0,
            unread: i32::try_from(unread.count()).unwrap(),
        }
    }

    async fn mark(&mut self, me: Uuid, other: Uuid, product: Option<Uuid>) -> i32 {
        for message in &mut self.messages {
            message.is_read |=
                message.sender == other && message.receiver == me && message.product == product;
        }
        self.client
            .query_one("select mark_messages_as_read($1, $2)", &[&other, &product])
            .await
            .unwrap()
            .get(0)
    }
}

/// From now on the session acts for a user, as `PostgREST` and the gateway do it.
async fn become_user(client: &Client, user: Uuid) {
    client
        .batch_execute(&format!(
            "set role authenticated; set request.jwt.claims = '{{\"sub\": \"{user}\", \"role\": \"authenticated\"}}'"
        ))
        .await
        .unwrap();
}

/// From now on the session is the application's own again.
async fn become_application(client: &Client) {
    client
        .batch_execute("reset role; reset request.jwt.claims")
        .await
        .unwrap();
}

const COLUMNS: &str = "conversation_id, other_user_id, other_username, other_avatar, product_id, product_title, \
    last_message, (extract(epoch from last_message_time) * 1000000)::bigint, unread_count";

fn read(row: &tokio_postgres::Row) -> Preview {
    Preview {
        conversation: (row.get(1), row.get(4)),
        name: row.get(0),
        username: row.get(2),
        avatar: row.get(3),
        title: row.get(5),
        last_message: row.get(6),
        last_time: row.get(7),
        unread: row.get(8),
    }
}

/// Asks the public function.
async fn previews(client: &Client, user: Uuid) -> Vec<Preview> {
    let question = format!("select {COLUMNS} from public.get_user_conversation_previews($1)");
    let rows = client.query(&question, &[&user]).await.unwrap();
    rows.iter().map(read).collect()
}

/// Asks for a page as the gateway does. Times are microseconds.
async fn page(
    client: &Client,
    me: Uuid,
    top: Option<Place>,
    before: Option<Place>,
    page: Option<i64>,
) -> Vec<(Place, Preview)> {
    let question = format!(
        "select {COLUMNS}, (extract(epoch from place_time) * 1000000)::bigint, place_id from (
           with recursive asked as (
             select $1::uuid as me,
                    to_timestamp($2::int8 / 1000000) as top_time, $3::uuid as top_id,
                    to_timestamp($4::int8 / 1000000) as before_time, $5::uuid as before_id,
                    $6::int8 as page)
           {PREVIEWS}) as preview"
    );
    let (top_time, top_id) = top.unzip();
    let (before_time, before_id) = before.unzip();
    let rows = client
        .query(
            &question,
            &[&me, &top_time, &top_id, &before_time, &before_id, &page],
        )
        .await
        .unwrap();
    rows.iter()
        .map(|row| ((row.get(9), row.get(10)), read(row)))
        .collect()
}

#[tokio::test]
async fn everybodys_list_is_what_reading_all_their_messages_gives() {
    for seed in 0..4 {
        let database = Database::with_application().await;
        let mut world = World::new(&database, seed).await;
        for amount in [0, 1, MESSAGES] {
            while world.messages.len() < amount {
                world.write(0..20).await;
            }
            for me in world.people {
                become_user(&world.client, me).await;
                let expected: Vec<Preview> =
                    world.expected(me, None).into_iter().map(|(_, row)| row).collect();
                assert_eq!(
                    previews(&world.client, me).await,
                    expected,
                    "seed {seed}, {amount}"
                );
                assert_eq!(
                    page(&world.client, me, None, None, None).await,
                    world.expected(me, None)
                );
                become_application(&world.client).await;
            }
        }
    }
}

#[tokio::test]
async fn paging_lists_each_conversation_once_while_new_messages_arrive() {
    for seed in 0..6 {
        let database = Database::with_application().await;
        let mut world = World::new(&database, 100 + seed).await;
        let mut time = 20;
        for _ in 0..MESSAGES {
            world.write(0..time).await;
        }
        for me in world.people {
            become_user(&world.client, me).await;
            let at_first = world.expected(me, None);
            let top = at_first.first().map(|(place, _)| *place);
            let mut before = None;
            let mut listed = Vec::new();
            loop {
                let most = world.random.random_range(1..6);
                // The first page is asked for without a bound, as no place is known yet.
                let rows = page(&world.client, me, before.and(top), before, Some(most)).await;
                let expected: Vec<_> = world
                    .expected(me, before.and(top))
                    .into_iter()
                    .filter(|(place, _)| before.is_none_or(|before| *place < before))
                    .take(usize::try_from(most).unwrap())
                    .collect();
                assert_eq!(rows, expected, "seed {seed}");
                let Some((last, _)) = rows.last() else { break };
                before = Some(*last);
                listed.extend(rows.iter().map(|(place, row)| (*place, row.conversation)));
                become_application(&world.client).await;
                for _ in 0..world.random.random_range(0..8) {
                    time += 1;
                    world.write(time..time + 1).await;
                }
                become_user(&world.client, me).await;
            }
            let at_first: Vec<_> = at_first
                .iter()
                .map(|(place, row)| (*place, row.conversation))
                .collect();
            assert_eq!(listed, at_first, "seed {seed}");
            become_application(&world.client).await;
        }
    }
}

#[tokio::test]
async fn marking_reads_one_conversation_and_says_how_many() {
    let database = Database::with_application().await;
    let mut world = World::new(&database, 7).await;
    for _ in 0..MESSAGES {
        world.write(0..20).await;
    }
    let watched = "select string_agg(id || ' ' || is_read || ' ' || coalesce(delivered_at::text, '') || content, ',' order by id) from messages";
    let mut general = 0;
    for me in world.people {
        for other in world.people {
            for product in [None, Some(world.products[0]), Some(Uuid::nil())] {
                become_user(&world.client, me).await;
                let unread = world.messages.iter().filter(|message| {
                    (message.sender, message.receiver, message.product) == (other, me, product)
                        && !message.is_read
                });
                let unread = i32::try_from(unread.count()).unwrap();
                general += if product.is_none() { unread } else { 0 };
                assert_eq!(world.mark(me, other, product).await, unread);
                assert_eq!(world.mark(me, other, product).await, 0);
                become_application(&world.client).await;
            }
        }
    }
    assert!(general > 0);
    let mut expected: Vec<_> = world
        .messages
        .iter()
        .map(|message| (message.place.1, message.is_read, &message.content))
        .collect();
    expected.sort();
    let expected: Vec<String> = expected
        .iter()
        .map(|(id, is_read, content)| format!("{id} {is_read} {content}"))
        .collect();
    let found: String = world.client.query_one(watched, &[]).await.unwrap().get(0);
    assert_eq!(found, expected.join(","));
}

#[tokio::test]
async fn a_message_that_is_read_already_is_not_written_again() {
    let database = Database::with_application().await;
    migrate(&database.url()).await;
    let client = database.connect().await;
    let [alice, bob] = people(&client).await;
    let insert = "insert into messages (sender_id, receiver_id, content, is_read) values ($1, $2, 'x', $3)";
    client.execute(insert, &[&alice, &bob, &true]).await.unwrap();
    client.execute(insert, &[&alice, &bob, &false]).await.unwrap();
    let logged = async || -> i64 {
        let count = "select count(*) from herald.log where op = 'u'";
        client.query_one(count, &[]).await.unwrap().get(0)
    };
    become_user(&client, bob).await;
    let mark = "select mark_messages_as_read($1, null)";
    let marked: i32 = client.query_one(mark, &[&alice]).await.unwrap().get(0);
    become_application(&client).await;
    assert_eq!((marked, logged().await), (1, 1));
}

/// The error that a statement meets.
async fn refusal(client: &Client, statement: &str) -> (SqlState, String) {
    let error = client.batch_execute(statement).await.unwrap_err();
    let refusal = error.as_db_error().unwrap();
    (refusal.code().clone(), refusal.message().to_owned())
}

#[tokio::test]
async fn nobody_reads_or_marks_for_another_person() {
    let database = Database::with_application().await;
    migrate(&database.url()).await;
    let client = database.connect().await;
    let [alice, bob, stranger] = people(&client).await;
    client
        .execute(
            "insert into messages (sender_id, receiver_id, content) values ($1, $2, 'secret')",
            &[&alice, &bob],
        )
        .await
        .unwrap();
    let ask = |person: Uuid| format!("select * from get_user_conversation_previews('{person}')");
    let mark = format!("select mark_messages_as_read('{alice}', null)");

    // With another's id, or with none; whatever the role may do besides.
    for role in ["set role authenticated", "reset role"] {
        become_user(&client, stranger).await;
        client.batch_execute(role).await.unwrap();
        for person in [alice, bob] {
            let (code, message) = refusal(&client, &ask(person)).await;
            assert_eq!(code, SqlState::INSUFFICIENT_PRIVILEGE);
            assert!(message.contains("pass the id of the signed-in user"), "{message}");
        }
        let (code, _) = refusal(&client, "select * from get_user_conversation_previews(null)").await;
        assert_eq!(code, SqlState::INSUFFICIENT_PRIVILEGE);
    }
    // As a stranger: there is nothing to see and nothing to mark.
    become_user(&client, stranger).await;
    assert_eq!(previews(&client, stranger).await, []);
    let marked: i32 = client.query_one(&mark, &[]).await.unwrap().get(0);
    assert_eq!(marked, 0);
    // The sender does not read for the receiver.
    become_user(&client, alice).await;
    let marked: i32 = client.query_one(&mark, &[]).await.unwrap().get(0);
    assert_eq!(marked, 0);
    become_user(&client, bob).await;
    assert_eq!(previews(&client, bob).await.len(), 1);
    assert_eq!(client.query_one(&mark, &[]).await.unwrap().get::<_, i32>(0), 1);
}

#[tokio::test]
async fn without_a_signed_in_user_only_who_could_read_everything_may_ask_and_nobody_may_mark() {
    let database = Database::with_application().await;
    migrate(&database.url()).await;
    let client = database.connect().await;
    let [alice, bob] = people(&client).await;
    client
        .execute(
            "insert into messages (sender_id, receiver_id, content) values ($1, $2, 'hello')",
            &[&alice, &bob],
        )
        .await
        .unwrap();
    let (service, member) = (database.role("service"), database.role("member"));
    let owner = database.role("owner");
    client
        .batch_execute(&format!(
            "create role {service} bypassrls in role authenticated;
             create role {owner}; create role {member} in role {owner};
             grant {owner} to {member}; grant select on profiles, products, messages_realtime_view to {owner};
             alter table messages owner to {owner};
             grant execute on all functions in schema public to {owner}, {service}"
        ))
        .await
        .unwrap();
    let ask = format!("select * from get_user_conversation_previews('{bob}')");
    let mark = format!("select mark_messages_as_read('{alice}', null)");
    let claims = [
        "''",
        "'{}'",
        "'{\"sub\": null}'",
        "'{\"sub\": \"\"}'",
        "'{\"role\": \"x\"}'",
    ];
    for claims in claims {
        for role in ["authenticated", &service, &member, &owner, "postgres"] {
            client
                .batch_execute(&format!("set role {role}; set request.jwt.claims = {claims}"))
                .await
                .unwrap();
            if role == "authenticated" {
                let (code, message) = refusal(&client, &ask).await;
                assert_eq!(code, SqlState::INSUFFICIENT_PRIVILEGE, "{claims}");
                assert!(message.contains("nobody is signed in"), "{message}");
            } else {
                assert_eq!(client.query(&ask, &[]).await.unwrap().len(), 1, "{role} {claims}");
            }
            let (code, message) = refusal(&client, &mark).await;
            assert_eq!(code, SqlState::INSUFFICIENT_PRIVILEGE, "{role} {claims}");
            assert!(message.contains("nobody is signed in"), "{message}");
        }
    }
    become_application(&client).await;
    client
        .batch_execute(&format!(
            "alter table messages owner to postgres; drop owned by {service}, {member}, {owner};
             drop role {service}, {member}, {owner}"
        ))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_caller_is_also_taken_from_the_older_setting_and_has_to_be_a_user() {
    let database = Database::with_application().await;
    migrate(&database.url()).await;
    let client = database.connect().await;
    let [alice, bob] = people(&client).await;
    client
        .execute(
            "insert into messages (sender_id, receiver_id, content) values ($1, $2, 'hello')",
            &[&alice, &bob],
        )
        .await
        .unwrap();
    // An application of that time has policies that read that setting.
    client
        .batch_execute(&format!(
            "create or replace function auth.uid() returns uuid language sql stable as
               $$ select nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$;
             set role authenticated; set request.jwt.claim.sub = '{bob}'"
        ))
        .await
        .unwrap();
    assert_eq!(previews(&client, bob).await[0].unread, 1);
    let (code, _) = refusal(
        &client,
        &format!("select * from get_user_conversation_previews('{alice}')"),
    )
    .await;
    assert_eq!(code, SqlState::INSUFFICIENT_PRIVILEGE);
    let mark = format!("select mark_messages_as_read('{alice}', null)");
    assert_eq!(client.query_one(&mark, &[]).await.unwrap().get::<_, i32>(0), 1);

    client
        .batch_execute("set request.jwt.claims = '{\"sub\": \"auth0|77\"}'")
        .await
        .unwrap();
    let (code, message) = refusal(&client, &mark).await;
    assert_eq!(code, SqlState::INSUFFICIENT_PRIVILEGE);
    assert!(message.contains("the claim sub is no uuid"), "{message}");
    // As long as the new claims are there, the older setting says nothing.
    let (code, _) = refusal(
        &client,
        &format!("select * from get_user_conversation_previews('{bob}')"),
    )
    .await;
    assert_eq!(code, SqlState::INSUFFICIENT_PRIVILEGE);
}

#[tokio::test]
async fn the_applications_policies_decide_what_is_shown_and_what_is_marked() {
    let database = Database::with_application().await;
    migrate(&database.url()).await;
    let client = database.connect().await;
    let [alice, bob] = people(&client).await;
    client
        .batch_execute(&format!(
            "create policy hidden on messages as restrictive for all to authenticated using (content not like 'hidden%');
             insert into messages (sender_id, receiver_id, content, created_at) values
               ('{alice}', '{bob}', 'shown', '2024-01-01'), ('{alice}', '{bob}', 'hidden', '2024-01-02');
             create policy nobody on profiles to authenticated using (false);
             alter table profiles enable row level security"
        ))
        .await
        .unwrap();
    become_user(&client, bob).await;
    let question =
        "select last_message, unread_count, other_username from get_user_conversation_previews($1)";
    let rows = client.query(question, &[&bob]).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (rows[0].get::<_, &str>(0), rows[0].get::<_, i32>(1)),
        ("shown", 1)
    );
    assert_eq!(rows[0].get::<_, Option<String>>(2), None);
    let mark = format!("select mark_messages_as_read('{alice}', null)");
    assert_eq!(client.query_one(&mark, &[]).await.unwrap().get::<_, i32>(0), 1);
    become_application(&client).await;
    let unread: Vec<String> = client
        .query("select content from messages where not is_read", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(unread, ["hidden"]);
}

#[tokio::test]
async fn messages_without_a_person_or_a_time_do_not_count_and_infinite_times_do() {
    let database = Database::with_application().await;
    migrate(&database.url()).await;
    let client = database.connect().await;
    let [alice, bob, carol] = people(&client).await;
    client
        .batch_execute(&format!(
            "alter table messages alter column sender_id drop not null, alter column receiver_id drop not null,
               alter column created_at drop not null;
             insert into messages (id, sender_id, receiver_id, content, created_at) values
               ('ffffffff-ffff-ffff-ffff-ffffffffffff', '{alice}', '{bob}', 'last of all', 'infinity'),
               (gen_random_uuid(), '{bob}', '{bob}', 'first of all', '-infinity'),
               (gen_random_uuid(), '{alice}', '{bob}', 'no time', null),
               (gen_random_uuid(), '{carol}', '{bob}', 'no time', null),
               (gen_random_uuid(), null, '{bob}', 'no sender', now()),
               (gen_random_uuid(), '{bob}', null, 'no receiver', now())"
        ))
        .await
        .unwrap();
    let question = format!(
        "select other_user_id, last_message, unread_count from (
           with recursive asked as (
             select $1::uuid as me, $2::timestamptz as top_time, $3::uuid as top_id,
                    $2::timestamptz as before_time, $3::uuid as before_id, null::int8 as page)
           {PREVIEWS}) as preview"
    );
    let texts = |rows: &[tokio_postgres::Row]| -> Vec<(Uuid, String)> {
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    become_user(&client, bob).await;
    let none: (Option<std::time::SystemTime>, Option<Uuid>) = (None, None);
    let rows = client.query(&question, &[&bob, &none.0, &none.1]).await.unwrap();
    assert_eq!(
        texts(&rows),
        [
            (alice, "last of all".to_owned()),
            (bob, "first of all".to_owned())
        ]
    );
    // Unread counts are of all messages in a conversation that is listed, also of those without a time.
    assert_eq!(rows[0].get::<_, i32>(2), 2);
}

#[tokio::test]
async fn a_view_of_the_application_is_where_names_and_contents_come_from() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    let [alice, bob] = people(&client).await;
    // Another table of people, names of another type, a content that is shortened, and messages it does not show.
    client
        .batch_execute(
            "alter table profiles rename to accounts; drop table products cascade;
             create view messages_realtime_view with (security_invoker = true) as
               select m.id, m.sender_id, m.receiver_id, m.product_id, left(m.content, 5) as content, m.created_at, m.is_read,
                      m.delivered_at, s.username::varchar(20) as sender_username, null::varchar as sender_avatar,
                      r.username::varchar(20) as receiver_username, null::varchar as receiver_avatar,
                      null::varchar as product_title, null::numeric as product_price
                 from messages m join accounts s on s.id = m.sender_id join accounts r on r.id = m.receiver_id
                where m.content <> 'withdrawn';
             grant select on messages_realtime_view to authenticated",
        )
        .await
        .unwrap();
    migrate(&database.url()).await;
    let send = "insert into messages (sender_id, receiver_id, content) values ($1, $2, $3)";
    client.execute(send, &[&alice, &bob, &"long text"]).await.unwrap();
    become_user(&client, bob).await;
    let found = previews(&client, bob).await;
    assert_eq!(
        (found[0].username.as_str(), found[0].last_message.as_str()),
        ("person 0", "long ")
    );
    become_application(&client).await;
    client.execute(send, &[&alice, &bob, &"withdrawn"]).await.unwrap();
    become_user(&client, bob).await;
    // The conversation is still there, so that no page is short; what the view hides is not shown.
    let question = "select last_message, unread_count from get_user_conversation_previews($1)";
    let row = client.query_one(question, &[&bob]).await.unwrap();
    assert_eq!((row.get::<_, Option<String>>(0), row.get::<_, i32>(1)), (None, 2));
}

#[tokio::test]
async fn functions_of_the_application_by_these_names_stay() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "create function public.get_user_conversation_previews(user_id uuid)
               returns table (conversation_id text) language sql as $$ select 'mine'::text $$;
             create function public.mark_messages_as_read(p_sender_id uuid, p_product_id uuid) returns integer
               language sql as $$ select -1 $$;
             create function public.mark_messages_as_read(uuid) returns text language sql as $$ select 'another' $$",
        )
        .await
        .unwrap();
    let before = database.dump();
    let mut installer = database.connect().await;
    let patience = std::time::Duration::from_secs(20);
    let report = migrate::install(&mut installer, patience).await.unwrap();
    let about = |outcome: Outcome| -> BTreeSet<String> {
        let items = report.items().iter();
        items
            .filter(|item| item.outcome == outcome)
            .map(|item| item.subject.clone())
            .collect()
    };
    let both = [
        "function public.get_user_conversation_previews(uuid)",
        "function public.mark_messages_as_read(uuid,uuid)",
    ];
    assert_eq!(
        about(Outcome::Found),
        both.map(str::to_owned).into_iter().collect()
    );
    // Only the one with another result is warned of.
    assert_eq!(
        about(Outcome::Warning),
        [both[0].to_owned()].into_iter().collect(),
        "{report}"
    );
    let row = client
        .query_one(
            "select conversation_id, mark_messages_as_read(null, null) from get_user_conversation_previews(null)",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1)), ("mine", -1));
    assert!(
        migrate::install(&mut installer, patience)
            .await
            .unwrap()
            .items()
            .is_empty()
    );
    migrate::uninstall(&mut installer, patience).await.unwrap();
    assert_eq!(database.dump(), before);

    // Once they are gone, Herald's come, as the report said.
    client
        .batch_execute("drop routine public.get_user_conversation_previews(uuid), public.mark_messages_as_read(uuid,uuid)")
        .await
        .unwrap();
    migrate::install(&mut installer, patience).await.unwrap();
    let refused = client
        .query("select mark_messages_as_read(null, null)", &[])
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
}

#[tokio::test]
async fn a_function_of_herald_is_replaced_when_its_body_is_another_and_keeps_its_grants() {
    let database = Database::with_application().await;
    migrate(&database.url()).await;
    let client = database.connect().await;
    let fresh = database.dump_with(&["--schema-only"]);
    client
        .batch_execute(
            "create or replace function public.mark_messages_as_read(p_sender_id uuid, p_product_id uuid) returns integer
               language plpgsql security definer as $$ begin return 42; end $$",
        )
        .await
        .unwrap();
    migrate(&database.url()).await;
    assert_eq!(database.dump_with(&["--schema-only"]), fresh);
}

#[tokio::test]
async fn they_may_be_called_by_whoever_may_do_the_same_to_the_table() {
    let database = Database::empty().await;
    let client = database.connect().await;
    client.batch_execute(APPLICATION).await.unwrap();
    let (reader, marker, writer) = (
        database.role("reader"),
        database.role("marker"),
        database.role("writer"),
    );
    client
        .batch_execute(&format!(
            "create role {reader}; create role {marker}; create role {writer};
             grant select on messages to {reader}; grant update (is_read) on messages to {marker};
             grant insert on messages to {writer}"
        ))
        .await
        .unwrap();
    migrate(&database.url()).await;
    let may = async |role: &str| -> (bool, bool) {
        let row = client
            .query_one(
                "select has_function_privilege($1, 'get_user_conversation_previews(uuid)', 'execute'),
                        has_function_privilege($1, 'mark_messages_as_read(uuid, uuid)', 'execute')",
                &[&role],
            )
            .await
            .unwrap();
        (row.get(0), row.get(1))
    };
    assert_eq!(may("authenticated").await, (true, true));
    assert_eq!(may(&reader).await, (true, false));
    assert_eq!(may(&marker).await, (false, true));
    assert_eq!(may(&writer).await, (false, false));
    client
        .batch_execute(&format!(
            "drop owned by {reader}, {marker}, {writer}; drop role {reader}, {marker}, {writer}"
        ))
        .await
        .unwrap();
}

#[tokio::test]
async fn names_in_the_sessions_search_path_do_not_lead_them_astray() {
    let database = Database::with_application().await;
    migrate(&database.url()).await;
    let client = database.connect().await;
    let [alice, bob] = people(&client).await;
    client
        .execute(
            "insert into messages (sender_id, receiver_id, content) values ($1, $2, 'hello')",
            &[&alice, &bob],
        )
        .await
        .unwrap();
    client
        .batch_execute(
            "create temp table messages (id uuid); create temp table pg_roles as select 'authenticated'::name as rolname,
               true as rolsuper, true as rolbypassrls;
             create function pg_temp.current_setting(text, boolean) returns text language sql as $$ select null::text $$;
             grant select on pg_temp.pg_roles to authenticated; set search_path = pg_temp, public",
        )
        .await
        .unwrap();
    become_user(&client, bob).await;
    assert_eq!(previews(&client, bob).await.len(), 1);
    client.batch_execute("reset request.jwt.claims").await.unwrap();
    let (code, _) = refusal(
        &client,
        &format!("select * from get_user_conversation_previews('{bob}')"),
    )
    .await;
    assert_eq!(code, SqlState::INSUFFICIENT_PRIVILEGE);
}
