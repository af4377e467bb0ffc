//! Another server takes the place of the one that clients' cursors are of: a standby that lacks the last commits, or one that was
//! restored from a dump. Continuing there would lose messages, or tell old ones again; so nobody is allowed to.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, lchown},
    path::Path,
    process::{Command, Stdio},
};

use herald::{
    dev::cluster::{Cluster, Stop},
    types::UserId,
};
use serde_json::Value;

use crate::{
    process::{prepared, write},
    processes::until,
    support::{
        gateway::{Gateway, config, migrate, token},
        network::Network,
        scene::content,
        socket::Socket,
        storm::with_client,
    },
};

/// A server with Herald on it, a gateway that reaches it by a network, and a person with an open session.
struct Primary {
    cluster: Cluster,
    url: String,
    network: Network,
    gateway: Gateway,
    person: UserId,
    socket: Socket,
    /// How far the session has got.
    cursor: String,
}

impl Primary {
    async fn new() -> Self {
        let cluster = Cluster::temporary().await.unwrap();
        let url = cluster.url("postgres");
        let person = prepared(&url).await;
        let (network, through) = Network::before_database(&url).await;
        let gateway = Gateway::start_with(config(&through)).await;
        let (socket, ready) = Socket::connect(gateway.address(), &token(person), None).await;
        Self {
            cluster,
            url,
            network,
            gateway,
            person,
            socket,
            cursor: ready["cursor"].as_str().unwrap().to_owned(),
        }
    }

    /// Writes a message, which the session hears.
    async fn say(&mut self, text: &str) {
        write(&self.url, self.person, text).await;
        let (events, cursor) = self.socket.events(1).await;
        assert_eq!(content(&events[0]), text);
        self.cursor = cursor.unwrap();
    }

    /// The server is gone, and the network leads to another one from now on. Whoever was connected is sent away, and whoever comes back with
    /// a cursor is told to load everything anew; from then on nothing is missing.
    async fn gives_way_to(mut self, other: &Cluster) -> Value {
        self.cluster.stop(Stop::Immediate).await.unwrap();
        self.network.lead_to(([127, 0, 0, 1], other.port()).into());
        assert_eq!(self.socket.close_code().await, 1001);
        let (mut socket, ready) =
            Socket::connect_patiently(self.gateway.address(), &token(self.person), &self.cursor).await;
        assert_eq!(ready["resumed"], false, "{ready}");
        for text in ["new", "newer"] {
            write(&other.url("postgres"), self.person, text).await;
            assert_eq!(content(&socket.events(1).await.0[0]), text);
        }
        assert_eq!(self.gateway.metric("feed_discontinuities_total"), 1.0);
        self.gateway.stop().await;
        ready
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_that_lost_commits_no_cursor_is_continued() {
    let mut primary = Primary::new().await;
    primary.say("kept").await;
    let standby = standby_of(&primary.cluster).await;
    primary.say("kept, too").await;
    until("the standby has everything", async || {
        messages(&standby).await == 2
    })
    .await;
    // From here on it gets nothing more.
    execute(&standby, "alter system set primary_conninfo = ''").await;
    execute(&standby, "select pg_reload_conf()").await;
    until("nobody streams from the primary", async || {
        number(&primary.cluster, "select count(*) from pg_stat_replication").await == 0
    })
    .await;
    for text in ["lost", "lost, too", "lost as well"] {
        primary.say(text).await;
    }
    execute(&standby, "select pg_promote()").await;
    assert_eq!(
        messages(&standby).await,
        2,
        "nothing was lost, so nothing is tested"
    );
    let ready = primary.gives_way_to(&standby).await;
    assert_eq!(ready["reason"], "unknown_epoch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restore_from_a_dump_no_cursor_is_continued() {
    let mut primary = Primary::new().await;
    for number in 0..20 {
        primary.say(&format!("kept {number}")).await;
    }
    let dump = Command::new(primary.cluster.program("pg_dump"))
        .arg(&primary.url)
        .output()
        .unwrap();
    assert!(dump.status.success());
    primary.say("lost").await;

    let other = Cluster::temporary().await.unwrap();
    let url = other.url("postgres");
    // Roles belong to the server, and are not in the dump of a database.
    execute(
        &other,
        "create role authenticated; create role herald_gateway login noinherit; grant authenticated to herald_gateway",
    )
    .await;
    restore(&other, &url, &dump.stdout);
    migrate(&url).await;
    assert_eq!(messages(&other).await, 20);
    let ready = primary.gives_way_to(&other).await;
    assert_eq!(ready["reason"], "unknown_epoch");
}

fn restore(cluster: &Cluster, url: &str, dump: &[u8]) {
    let mut psql = Command::new(cluster.program("psql"))
        .args([
            "--no-psqlrc",
            "--quiet",
            "--set=ON_ERROR_STOP=1",
            "--output=/dev/null",
            url,
        ])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut psql.stdin.take().unwrap(), dump).unwrap();
    assert!(psql.wait().unwrap().success());
}

/// A server that streams what the primary commits.
async fn standby_of(primary: &Cluster) -> Cluster {
    let standby = Cluster::temporary().await.unwrap();
    standby.stop(Stop::Fast).await.unwrap();
    let data = standby.data_folder();
    let owner = fs::metadata(&data).unwrap();
    fs::remove_dir_all(&data).unwrap();
    let copied = Command::new(primary.program("pg_basebackup"))
        .arg("--dbname")
        .arg(primary.url("postgres"))
        .arg("--pgdata")
        .arg(&data)
        .args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync"])
        .output()
        .unwrap();
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );
    hand_over(&data, &owner);
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    standby.start_again().await.unwrap();
    standby
}

/// Root makes the copy, and Postgres does not run as root.
fn hand_over(path: &Path, owner: &fs::Metadata) {
    lchown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            hand_over(&entry.unwrap().path(), owner);
        }
    }
}

async fn messages(cluster: &Cluster) -> i64 {
    number(cluster, "select count(*) from public.messages").await
}

async fn number(cluster: &Cluster, question: &str) -> i64 {
    with_client(&cluster.url("postgres"), async |client| {
        client.query_one(question, &[]).await.unwrap().get(0)
    })
    .await
}

async fn execute(cluster: &Cluster, statements: &str) {
    crate::support::database::execute(&cluster.url("postgres"), statements).await;
}
