//! How Postgres answers Herald's questions once the tables are large and their statistics are known.

use std::fmt::Write as _;

use herald::store::log::{PLAN_SETTINGS, UNSEEN};
use tokio_postgres::Client;

use crate::support::{database::Database, gateway::migrate};

#[tokio::test]
async fn the_feed_reads_a_large_log_by_its_index_and_without_parallel_workers() {
    let database = Database::with_application().await;
    migrate(&database.url()).await;
    let client = database.connect().await;
    client
        .batch_execute(
            "insert into herald.log (life, op, message_id, sender_id, receiver_id)
             select herald.current_life(), 'i', gen_random_uuid(), gen_random_uuid(), gen_random_uuid()
               from generate_series(1, 300000);
             analyze herald.log",
        )
        .await
        .unwrap();
    // Costs at which workers are started for anything: what must not happen is made as likely as it can be.
    let question = format!(
        "set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0;
         set {}; set plan_cache_mode = force_generic_plan;
         prepare question (text) as
           select row_number() over (order by log.seq) as ordinal, log.* from herald.log where {UNSEEN}",
        PLAN_SETTINGS.join("; set ")
    );
    client.batch_execute(&question).await.unwrap();
    let now: String = client
        .query_one("select pg_current_snapshot()::text", &[])
        .await
        .unwrap()
        .get(0);
    let lines = client
        .query(&format!("explain execute question ('{now}')"), &[])
        .await
        .unwrap();
    let plan: Vec<String> = lines.iter().map(|line| line.get(0)).collect();
    let plan = plan.join("\n");
    assert!(plan.contains("log_pkey"), "{plan}");
    for unwanted in ["Seq Scan", "Parallel", "Gather"] {
        assert!(!plan.contains(unwanted), "{unwanted} in {plan}");
    }
}

/// The person whose conversations are asked for, one other person, and one product.
const ME: &str = "00000000-0000-4000-8000-000000000000";
const OTHER: &str = "00000000-0000-4000-8000-000000000007";
const PRODUCT: &str = "00000000-0000-4000-9000-000000000001";

/// How many conversations [`ME`] has: with thirty people, in general and about two products.
const CONVERSATIONS: u64 = 90;

/// 300,000 messages in all, of which one person has every tenth in ninety conversations.
async fn many_messages(client: &Client) {
    client
        .batch_execute(
            "create function person(number bigint) returns uuid language sql immutable as
               $$ select ('00000000-0000-4000-8000-' || lpad(to_hex(number), 12, '0'))::uuid $$;
             create function product(number bigint) returns uuid language sql immutable as
               $$ select ('00000000-0000-4000-9000-' || lpad(to_hex(number), 12, '0'))::uuid $$;
             insert into profiles (id, username) select person(number), 'person ' || number
               from generate_series(0, 5000) as number;
             insert into products (id, title, price) select product(number), 'product ' || number, 1
               from generate_series(1, 500) as number;
             create procedure write(messages bigint, share bigint) language sql as $$
               insert into messages (sender_id, receiver_id, product_id, content, created_at, is_read)
               select case when number % 20 < 10 then one else other end, case when number % 20 < 10 then other else one end,
                      about, 'number ' || number, now() - (messages - number) * interval '1 second', number % 97 > 0
                 from generate_series(1, messages) as number
                cross join lateral (
                      select number % share = 0 as mine, number / 20 as draw) as drawn
                cross join lateral (
                      select case when mine then person(0) else person(31 + draw % 4900) end as one,
                             case when mine then person(1 + draw % 30) else person(31 + draw * 7 % 4900) end as other,
                             product(nullif(case when mine then draw / 30 % 3 else draw % 500 end, 0)) as about) as pair
             $$;
             call write(300000, 10);
             drop procedure write",
        )
        .await
        .unwrap();
}

/// The application with these messages and Herald in it, and a session that acts for [`ME`] under row-level security.
async fn large() -> (Database, Client) {
    let database = Database::with_application().await;
    let client = database.connect().await;
    many_messages(&client).await;
    migrate(&database.url()).await;
    client.batch_execute("vacuum analyze messages").await.unwrap();
    client
        .batch_execute(&format!(
            "set plan_cache_mode = force_generic_plan; set role authenticated; set request.jwt.claims = '{{\"sub\": \"{ME}\"}}'"
        ))
        .await
        .unwrap();
    (database, client)
}

/// The plan of a statement that does not know its parameters' values, after it has run.
async fn plan(client: &Client, parameters: &str, statement: &str, values: &str) -> String {
    client
        .batch_execute(&format!(
            "deallocate all; prepare question ({parameters}) as {statement}"
        ))
        .await
        .unwrap();
    let lines = client
        .query(
            &format!("explain (analyze, buffers, timing off) execute question ({values})"),
            &[],
        )
        .await
        .unwrap();
    lines.iter().fold(String::new(), |mut plan, line| {
        writeln!(plan, "{}", line.get::<_, &str>(0)).unwrap();
        plan
    })
}

/// With the gateway's settings, and with none, as in the public functions.
fn settings() -> [String; 2] {
    let gateway = format!("set {}", PLAN_SETTINGS.join("; set "));
    let names = PLAN_SETTINGS.map(|setting| setting.split(' ').next().unwrap());
    [gateway, format!("reset {}", names.join("; reset "))]
}

/// The number of pages that a plan went through.
fn pages(plan: &str) -> u64 {
    let line = plan.lines().find(|line| line.contains("Buffers:")).unwrap();
    line.split(' ')
        .filter_map(|word| {
            let count = word.strip_prefix("hit=").or_else(|| word.strip_prefix("read="));
            count.map(|count| count.parse::<u64>().unwrap())
        })
        .sum()
}

/// Holds a plan to reading messages by these indexes alone, and to throwing nothing of what it read away.
fn assert_reads_messages_by(indexes: &[&str], plan: &str) {
    for unwanted in [
        "Seq Scan",
        "Bitmap",
        "Rows Removed by Filter: 1",
        "Hash",
        "Parallel",
    ] {
        assert!(!plan.contains(unwanted), "{unwanted} in {plan}");
    }
    let used = plan.lines().filter(|line| line.contains(" on messages"));
    for line in used {
        let known = indexes
            .iter()
            .any(|index| line.contains(&format!("using {index} ")));
        assert!(known, "{line} in {plan}");
    }
    for index in indexes {
        assert!(plan.contains(&format!("using {index} ")), "{index} in {plan}");
    }
}

const SENT: &str = "idx_messages_conversation_lookup";
const RECEIVED: &str = "idx_messages_user_product_time";
const UNREAD: &str = "idx_messages_unread";

/// The query of previews for [`ME`].
fn previews() -> String {
    format!(
        "with recursive asked as (
           select $1 as me, $2 as top_time, $3 as top_id, $4 as before_time, $5 as before_id, $6 as page)
         {}",
        include_str!("../../sql/previews.sql")
    )
}

const PREVIEWS_PARAMETERS: &str = "uuid, timestamptz, uuid, timestamptz, uuid, bigint";

#[tokio::test]
async fn previews_jump_from_conversation_to_conversation_along_the_indexes_alone() {
    let (_database, client) = large().await;
    for settings in settings() {
        client.batch_execute(&settings).await.unwrap();
        let first = format!("'{ME}', null, null, null, null, null");
        let later = "now() - interval '10000 seconds', gen_random_uuid(), now() - interval '10100 seconds', gen_random_uuid()";
        for values in [first, format!("'{ME}', {later}, null")] {
            let plan = plan(&client, PREVIEWS_PARAMETERS, &previews(), &values).await;
            assert_reads_messages_by(&[SENT, RECEIVED, UNREAD, "messages_pkey"], &plan);
            // What one person has sent, and what he has received, each by an index that begins with him.
            for (index, condition) in [
                (SENT, "(receiver_id > sent.other)"),
                (RECEIVED, "(sender_id > received.other)"),
            ] {
                let mut lines = plan.lines().skip_while(|line| !line.contains(condition));
                assert!(lines.next().is_some(), "{condition} in {plan}");
                let scan = format!("Index Only Scan using {index} on messages");
                assert!(plan.contains(&scan), "{scan} in {plan}");
            }
            let heap = plan.lines().filter(|line| line.contains("Index Scan using"));
            assert!(
                heap.filter(|line| line.contains("on messages"))
                    .all(|line| line.contains("messages_pkey")),
                "{plan}"
            );
            assert!(pages(&plan) < CONVERSATIONS * 30, "{plan}");
            // Each look at the indexes of places ends with the first message that it finds.
            let places = plan
                .lines()
                .filter(|line| line.contains(SENT) || line.contains(RECEIVED));
            for line in places {
                let first = ["(actual rows=0 ", "(actual rows=1 ", "(never executed)"];
                assert!(first.iter().any(|end| line.contains(end)), "{line} in {plan}");
            }
        }
    }
}

#[tokio::test]
async fn previews_cost_the_same_when_that_persons_messages_double() {
    let (database, client) = large().await;
    let values = format!("'{ME}', null, null, null, null, null");
    let before = plan(&client, PREVIEWS_PARAMETERS, &previews(), &values).await;
    let application = database.connect().await;
    let written = application
        .execute(
            &format!(
                "insert into messages (sender_id, receiver_id, product_id, content, is_read)
                 select sender_id, receiver_id, product_id, content, true from messages
                  where '{ME}' in (sender_id, receiver_id)"
            ),
            &[],
        )
        .await
        .unwrap();
    assert_eq!(written, 30_000);
    application
        .batch_execute("vacuum analyze messages")
        .await
        .unwrap();
    let after = plan(&client, PREVIEWS_PARAMETERS, &previews(), &values).await;
    assert!(before.contains(&format!("rows={CONVERSATIONS} ")), "{before}");
    assert!(
        pages(&after) < pages(&before) * 21 / 20,
        "{} pages, then {}",
        pages(&before),
        pages(&after)
    );
}

#[tokio::test]
async fn a_conversation_is_read_newest_first_in_both_directions_by_one_index_each() {
    let (_database, client) = large().await;
    // Where the product is null it is named in the order, because Postgres does not know `is null` for an equality.
    for (about, order) in [
        (format!("= '{PRODUCT}'"), ""),
        ("is null".to_owned(), "product_id, "),
    ] {
        let direction = |sender: &str, receiver: &str| {
            format!(
                "(select created_at, id from messages
                   where sender_id = {sender} and receiver_id = {receiver} and product_id {about}
                     and (created_at, id) < ($3, $4)
                   order by {order}created_at desc, id desc limit 51)"
            )
        };
        let question = format!(
            "select * from ({} union all {}) as direction order by created_at desc, id desc limit 51",
            direction("$1", "$2"),
            direction("$2", "$1")
        );
        for settings in settings() {
            client.batch_execute(&settings).await.unwrap();
            let values = format!("'{ME}', '{OTHER}', now(), gen_random_uuid()");
            let plan = plan(&client, "uuid, uuid, timestamptz, uuid", &question, &values).await;
            let scans: Vec<&str> = plan.lines().filter(|line| line.contains("on messages")).collect();
            assert!(
                scans.len() == 2
                    && scans.iter().all(|scan| {
                        scan.contains("Index Only Scan")
                            && [SENT, RECEIVED].iter().any(|index| scan.contains(index))
                    }),
                "{plan}"
            );
            // Not one more than the page is read, although the conversation has hundreds.
            assert!(plan.contains("(actual rows=51 loops=1)"), "{plan}");
            let most = scans.iter().map(|scan| {
                let rows = scan.split("(actual rows=").nth(1).unwrap();
                rows.split(' ').next().unwrap().parse::<u64>().unwrap()
            });
            assert!(most.max().unwrap() <= 51 && pages(&plan) < 100, "{plan}");
        }
    }
}

#[tokio::test]
async fn unread_messages_are_counted_and_marked_by_the_index_that_holds_no_others() {
    let (_database, client) = large().await;
    for about in [format!("= '{PRODUCT}'"), "is null".to_owned()] {
        for settings in settings() {
            client.batch_execute(&settings).await.unwrap();
            let unread = format!(
                "messages as message {} where message.receiver_id = $1 and message.sender_id = $2 \
                   and message.product_id {about} and not message.is_read",
                "{set}"
            );
            let count = format!("select count(*) from {}", unread.replace("{set}", ""));
            let values = format!("'{ME}', '{OTHER}'");
            let plan_of_count = plan(&client, "uuid, uuid", &count, &values).await;
            assert_reads_messages_by(&[UNREAD], &plan_of_count);
            assert!(plan_of_count.contains("Index Only Scan"), "{plan_of_count}");

            client.batch_execute("begin").await.unwrap();
            let mark = format!("update {}", unread.replace("{set}", "set is_read = true"));
            let plan_of_mark = plan(&client, "uuid, uuid", &mark, &values).await;
            client.batch_execute("rollback").await.unwrap();
            let scan = plan_of_mark.lines().find(|line| line.contains("Scan")).unwrap();
            assert!(scan.contains(&format!("using {UNREAD} ")), "{plan_of_mark}");
        }
    }
}
