//! How Postgres answers the feed's question once the log is large and its statistics are known.

use herald::store::log::{PLAN_SETTINGS, UNSEEN};

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
