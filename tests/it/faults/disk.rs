//! No room left: for the gateway's own log, and for the log of changes in Postgres.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::Path,
    process::Command,
};

use herald::{dev::cluster::Cluster, types::UserId};
use tokio_postgres::Client;
use uuid::Uuid;

use super::fault::server_processes;
use crate::{
    process::{prepared, write},
    processes::until,
    support::{
        database::{Database, execute},
        gateway::{Gateway, token},
        http::try_to_fetch,
        process::Process,
        scene::content,
        socket::Socket,
        storm::with_client,
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_whose_log_finds_no_room_serves_all_the_same() {
    let database = Database::empty().await;
    let person = prepared(&database.url()).await;
    let mut process = Process::serve_with_log(&database.url(), &[], "/dev/full");
    let mut address = None;
    until("the gateway to be ready", async || {
        address = listening(process.id());
        match address {
            Some(address) => try_to_fetch(address, "/readyz")
                .await
                .is_some_and(|answer| answer.status == 200),
            None => false,
        }
    })
    .await;
    let (mut socket, _) = Socket::connect(address.unwrap(), &token(person), None).await;
    // Something to log, which says so in vain.
    let refused = Socket::open(address.unwrap(), "no token", None).await;
    assert!(refused.is_err());
    write(&database.url(), person, "hello").await;
    assert_eq!(content(&socket.events(1).await.0[0]), "hello");
    process.signal("TERM");
    assert_eq!(socket.close_code().await, 1001);
    assert_eq!(process.ended().await.code(), Some(0));
}

/// Where a process listens, as the kernel says: the inode of its socket stands in the table of listening ones.
fn listening(process: u32) -> Option<SocketAddr> {
    let table = fs::read_to_string(format!("/proc/{process}/net/tcp")).ok()?;
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).ok()?;
    let sockets: Vec<String> = descriptors
        .filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok())
        .map(|target| target.display().to_string())
        .collect();
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        // 0A is the state LISTEN.
        let is_ours = columns[3] == "0A" && sockets.contains(&format!("socket:[{}]", columns[9]));
        let port = u16::from_str_radix(columns[1].split(':').nth(1)?, 16).ok()?;
        is_ours.then(|| SocketAddr::from(([127, 0, 0, 1], port)))
    })
}

/// More than a segment of the write-ahead log (16 MiB), which nobody may be kept from writing: without it Postgres ends.
const FILE_MAX: u64 = 17 << 20;

/// Messages in one statement.
const MESSAGES: usize = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_for_whose_log_there_is_no_room_are_refused_and_all_others_arrive() {
    let cluster = Cluster::temporary().await.unwrap();
    let url = cluster.url("postgres");
    let person = prepared(&url).await;
    // A log that needs much room, so that it is the first to find none.
    execute(
        &url,
        "alter table herald.log set (fillfactor = 10, autovacuum_enabled = off)",
    )
    .await;
    let gateway = Gateway::start(&url).await;
    let (mut socket, _) = Socket::connect(gateway.address(), &token(person), None).await;
    let other = Uuid::new_v4();
    execute(
        &url,
        &format!("insert into profiles (id, username) values ('{other}', 'another')"),
    )
    .await;
    limit_files(&cluster, FILE_MAX);

    let statements = with_client(&url, async |client| fill(client, person, other).await).await;
    let (events, _) = socket.events(statements).await;
    let heard: Vec<&str> = events.iter().map(content).collect();
    let said: Vec<String> = (0..statements).map(|number| number.to_string()).collect();
    assert_eq!(heard, said);

    limit_files(&cluster, u64::MAX);
    write(&url, person, "there is room again").await;
    assert_eq!(content(&socket.events(1).await.0[0]), "there is room again");
    let messages = with_client(&url, async |client| {
        let counts = "select (select count(*) from public.messages), (select count(*) from herald.log)";
        let counts = client.query_one(counts, &[]).await.unwrap();
        (counts.get::<_, i64>(0), counts.get::<_, i64>(1))
    })
    .await;
    assert_eq!(messages.0, messages.1);
    assert_eq!(gateway.metric("feed_discontinuities_total"), 0.0);
    gateway.stop().await;
}

/// Writes to oneself, and together with that much between others, until there is no room. Answers how often that went well.
async fn fill(client: &Client, person: UserId, other: Uuid) -> usize {
    for number in 0.. {
        let insert = format!(
            "insert into public.messages (sender_id, receiver_id, content)
             select '{other}'::uuid, '{other}'::uuid, 'x' from generate_series(1, {MESSAGES})
             union all select '{person}', '{person}', '{number}'"
        );
        if let Err(error) = client.batch_execute(&insert).await {
            let told = error.as_db_error().expect("Postgres lives on").message();
            assert!(told.contains("could not extend file"), "{told}");
            assert!(number > 0);
            return number;
        }
    }
    unreachable!("there is always an end of room")
}

/// No process of Postgres may make a file larger than this. It ignores the signal that goes with that (`SIGXFSZ`), and meets an
/// error as when the disk is full.
fn limit_files(cluster: &Cluster, bytes: u64) {
    let most = if bytes == u64::MAX {
        "unlimited".to_owned()
    } else {
        bytes.to_string()
    };
    for process in server_processes(cluster.postmaster_pid().unwrap()) {
        // Not even root may limit what another user started, everywhere.
        let Ok(owner) = fs::metadata(format!("/proc/{process}")) else {
            continue;
        };
        let limited = Command::new("prlimit")
            .args(["--pid", &process.to_string(), &format!("--fsize={most}:")])
            .uid(owner.uid())
            .gid(owner.gid())
            .output()
            .unwrap();
        let ended = !Path::new(&format!("/proc/{process}")).exists();
        assert!(
            limited.status.success() || ended,
            "{}",
            String::from_utf8_lossy(&limited.stderr)
        );
    }
}
