//! The private Postgres: what it promises to tests and to `herald dev`, above all that it never outlives its owner.

use std::{path::Path, process::Command};

use herald::dev::cluster::{Cluster, ClusterBuilder, ClusterError, Stop};
use tokio_postgres::NoTls;

use crate::{
    processes::{PATIENCE, lives, signal, until},
    support::database::{ask, execute},
};

#[tokio::test]
async fn a_temporary_cluster_is_ready_with_its_settings_and_makes_databases_from_templates() {
    let cluster = Cluster::temporary().await.unwrap();
    cluster.create_database("template").await.unwrap();
    execute(
        &cluster.url("template"),
        "create table found (answer int); insert into found values (42)",
    )
    .await;
    cluster.create_database_from("a copy", "template").await.unwrap();
    assert_eq!(
        ask(&cluster.url("a copy"), "select answer::text from found").await,
        "42"
    );
    let settings = "select current_setting('fsync') || ' ' || current_setting('max_connections')";
    assert_eq!(ask(&cluster.url("a copy"), settings).await, "off 200");
    let refused = cluster.create_database("template").await.unwrap_err();
    assert!(matches!(refused, ClusterError::Statement { .. }), "{refused}");
    assert!(refused.to_string().contains("already exists"), "{refused}");
    cluster.ensure_database("template").await.unwrap();
}

#[tokio::test]
async fn a_cluster_can_be_reached_through_its_socket_folder() {
    let cluster = Cluster::temporary().await.unwrap();
    let folder = cluster.socket_folder().await.unwrap();
    let url = format!(
        "host={} port={} user=postgres dbname=postgres",
        folder.display(),
        cluster.port()
    );
    assert_eq!(
        ask(&url, "select (inet_server_addr() is null)::text").await,
        "true"
    );
}

#[tokio::test]
async fn a_stopped_cluster_starts_again_on_its_port_with_its_data() {
    let cluster = Cluster::temporary().await.unwrap();
    let url = cluster.url("postgres");
    execute(&url, "create table kept (number int)").await;
    for how in [Stop::Fast, Stop::Immediate] {
        execute(&url, "insert into kept values (1)").await;
        let before = cluster.postmaster_pid().unwrap();
        cluster.stop(how).await.unwrap();
        assert!(!lives(before));
        assert_eq!(cluster.postmaster_pid(), None);
        assert!(tokio_postgres::connect(&url, NoTls).await.is_err());
        cluster.start_again().await.unwrap();
        assert_eq!(cluster.url("postgres"), url);
        assert_ne!(cluster.postmaster_pid(), Some(before));
    }
    assert_eq!(ask(&url, "select count(*)::text from kept").await, "2");
}

#[tokio::test]
async fn a_cluster_whose_postmaster_was_killed_starts_again() {
    let cluster = Cluster::temporary().await.unwrap();
    execute(&cluster.url("postgres"), "create table kept (number int)").await;
    let killed = cluster.postmaster_pid().unwrap();
    signal("KILL", killed);
    // The guardian ends when it has seen its postmaster end; until then there is nothing to start again.
    until("a new postmaster", async || {
        cluster.start_again().await.unwrap();
        cluster.postmaster_pid() != Some(killed)
    })
    .await;
    assert_eq!(
        ask(&cluster.url("postgres"), "select count(*)::text from kept").await,
        "0"
    );
}

#[tokio::test]
async fn a_dropped_temporary_cluster_leaves_no_process_and_no_folder() {
    for stopped in [false, true] {
        let cluster = Cluster::temporary().await.unwrap();
        let (postmaster, data) = (cluster.postmaster_pid().unwrap(), cluster.data_folder());
        let sockets = cluster.socket_folder().await.unwrap();
        if stopped {
            cluster.stop(Stop::Fast).await.unwrap();
        }
        drop(cluster);
        until("everything to be gone", async || {
            !lives(postmaster) && !data.exists() && !sockets.exists()
        })
        .await;
        until("the folder to be gone", async || !data.parent().unwrap().exists()).await;
    }
}

#[tokio::test]
async fn a_kept_cluster_is_found_again_with_its_port_password_and_data() {
    let folder = tempfile::tempdir().unwrap();
    let first = Cluster::builder(folder.path()).start().await.unwrap();
    let url = first.url("postgres");
    execute(
        &url,
        "create table kept (number int); insert into kept values (7)",
    )
    .await;
    let postmaster = first.postmaster_pid().unwrap();
    first.stop(Stop::Fast).await.unwrap();
    assert!(!lives(postmaster));
    drop(first);
    let second = Cluster::builder(folder.path()).start().await.unwrap();
    assert_eq!(second.url("postgres"), url);
    assert_eq!(ask(&url, "select number::text from kept").await, "7");
    remove_elsewhere(second).await;
}

#[tokio::test]
async fn a_kept_cluster_lets_nobody_in_without_its_password() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::builder(folder.path()).start().await.unwrap();
    let without = format!(
        "postgresql://postgres:guess@127.0.0.1:{}/postgres",
        cluster.port()
    );
    let refused = tokio_postgres::connect(&without, NoTls).await.err().unwrap();
    assert_eq!(refused.code().unwrap().code(), "28P01");
    let mode = std::fs::metadata(folder.path().join("password"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    remove_elsewhere(cluster).await;
}

#[tokio::test]
async fn a_folder_has_one_owner_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let owner = Cluster::builder(folder.path()).start().await.unwrap();
    let refused = Cluster::builder(folder.path()).start().await.unwrap_err();
    assert!(matches!(refused, ClusterError::InUse { .. }), "{refused}");
    assert_eq!(
        ask(&owner.url("postgres"), "select 'undisturbed'").await,
        "undisturbed"
    );
    remove_elsewhere(owner).await;
}

#[tokio::test]
async fn a_new_owner_waits_for_the_postmaster_that_the_last_one_left_to_its_guardian() {
    let folder = tempfile::tempdir().unwrap();
    let first = Cluster::builder(folder.path()).start().await.unwrap();
    execute(&first.url("postgres"), "create table kept (number int)").await;
    let left = first.postmaster_pid().unwrap();
    drop(first);
    let second = Cluster::builder(folder.path()).start().await.unwrap();
    assert!(!lives(left));
    assert_eq!(
        ask(&second.url("postgres"), "select count(*)::text from kept").await,
        "0"
    );
    remove_elsewhere(second).await;
}

#[tokio::test]
async fn a_postmaster_number_that_now_belongs_to_another_process_is_no_postmaster() {
    let folder = tempfile::tempdir().unwrap();
    let first = Cluster::builder(folder.path()).start().await.unwrap();
    execute(&first.url("postgres"), "create table kept (number int)").await;
    let data = first.data_folder();
    let killed = first.postmaster_pid().unwrap();
    signal("KILL", killed);
    until("the postmaster to be gone", async || !lives(killed)).await;
    drop(first);
    // A process of the very user who runs Postgres, since that is the case which Postgres cannot tell by itself.
    let mut other = Command::new("sleep");
    other.arg("600");
    as_owner_of(&data, &mut other);
    let mut other = other.spawn().unwrap();
    let file = data.join("postmaster.pid");
    let left = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        left.replacen(&killed.to_string(), &other.id().to_string(), 1),
    )
    .unwrap();
    let started = Cluster::builder(folder.path()).start().await;
    let undisturbed = other.try_wait().unwrap().is_none();
    other.kill().unwrap();
    other.wait().unwrap();
    let second = started.unwrap();
    assert!(undisturbed);
    assert_eq!(
        ask(&second.url("postgres"), "select count(*)::text from kept").await,
        "0"
    );
    remove_elsewhere(second).await;
}

#[tokio::test]
async fn settings_that_postgres_refuses_are_shown_in_its_own_words() {
    let refused = ClusterBuilder::temporary()
        .setting("max_connections", "many")
        .start()
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("max_connections"), "{refused}");
}

/// The owner is this very test binary, run again as a process of its own that can be killed.
#[tokio::test]
async fn a_killed_owner_leaves_no_process_and_no_folder() {
    use tokio::io::{AsyncBufReadExt, BufReader};

    let mut owner = tokio::process::Command::new(std::env::current_exe().unwrap());
    owner.args([
        "--exact",
        "cluster::owner_that_waits_to_be_killed",
        "--ignored",
        "--nocapture",
    ]);
    let mut owner = owner
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let (postmaster, data) = loop {
        let line = tokio::time::timeout(PATIENCE, lines.next_line())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        if let Some((process, data)) = line
            .split_once("owns ")
            .and_then(|(_, rest)| rest.split_once(' '))
        {
            break (process.parse::<u32>().unwrap(), Path::new(data).to_path_buf());
        }
    };
    assert!(lives(postmaster) && data.exists());
    owner.kill().await.unwrap();
    until("Postgres and its folder to be gone", async || {
        !lives(postmaster) && !data.parent().unwrap().exists()
    })
    .await;
}

#[tokio::test]
#[ignore = "runs only below the test that kills it"]
#[allow(clippy::print_stdout, reason = "the test above reads it from a pipe")]
async fn owner_that_waits_to_be_killed() {
    let cluster = Cluster::temporary().await.unwrap();
    println!(
        "owns {} {}",
        cluster.postmaster_pid().unwrap(),
        cluster.data_folder().display()
    );
    // Bounded, so that it ends also where it is run by hand.
    tokio::time::sleep(PATIENCE).await;
}

fn as_owner_of(path: &Path, command: &mut Command) {
    use std::os::unix::{fs::MetadataExt, process::CommandExt};

    let owner = std::fs::metadata(path).unwrap();
    let own = tempfile::tempfile().unwrap().metadata().unwrap().uid();
    if owner.uid() != own {
        command.uid(owner.uid()).gid(owner.gid());
    }
}

/// Stops a kept cluster, and removes its data if that is not below the test's own folder.
async fn remove_elsewhere(cluster: Cluster) {
    cluster.stop(Stop::Fast).await.unwrap();
    if let Some(base) = cluster.kept_elsewhere() {
        std::fs::remove_dir_all(base).unwrap();
    }
}
