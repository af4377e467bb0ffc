//! `herald dev` as its user meets it: the whole program, its guide, its signals, its end.

use std::{
    fs::{File, Permissions},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::SystemTime,
};

use herald::dev::{
    chatter::Chatter,
    cluster::{Cluster, Stop},
    demo,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, BufReader},
    process::Child,
};

use crate::{
    processes::{PATIENCE, lives, signal, until},
    support::{
        database::{Database, ask, execute},
        gateway::{self, Gateway, SECRET, migrate},
        http,
    },
    tail::Port,
};

const HERALD: &str = env!("CARGO_BIN_EXE_herald");

/// Notes as whom each message is written, and what is marked as read.
const BY_WHOM: &str = "
    create table said (who text);
    create table marked (id uuid);
    grant insert on said, marked to authenticated;
    create function note_writer() returns trigger language plpgsql as $$ begin
        insert into said values (current_user); return null;
    end $$;
    create trigger said after insert on messages for each row execute function note_writer();
    create function note_reader() returns trigger language plpgsql as $$ begin
        insert into marked values (new.id); return null;
    end $$;
    create trigger marked after update on messages for each row
        when (new.is_read and not old.is_read) execute function note_reader();";

const EVERYTHING: &str = "select md5(string_agg(row::text, ' ' order by row::text)) from (
    select to_jsonb(it) as row from profiles it
    union all select to_jsonb(it) from products it
    union all select to_jsonb(it) from messages it
    union all select to_jsonb(it) from pg_policies it where schemaname = 'public'
) as everything";

#[tokio::test]
async fn loading_the_demo_twice_changes_nothing() {
    let url = Database::empty().await.url();
    let new = herald::dev::with_client(&url, demo::load).await.unwrap().unwrap();
    assert_eq!(
        ask(&url, "select count(*)::text from messages").await,
        new.to_string()
    );
    let before = ask(&url, EVERYTHING).await;
    assert_eq!(
        herald::dev::with_client(&url, demo::load).await.unwrap().unwrap(),
        0
    );
    assert_eq!(ask(&url, EVERYTHING).await, before);
    execute(
        &url,
        "update profiles set username = 'renamed' where username = 'bob'",
    )
    .await;
    herald::dev::with_client(&url, demo::load).await.unwrap().unwrap();
    assert_eq!(
        ask(
            &url,
            "select count(*)::text from profiles where username in ('bob', 'renamed')"
        )
        .await,
        "1"
    );
}

#[tokio::test]
async fn the_demo_lets_people_see_only_their_own_messages() {
    let url = Database::empty().await.url();
    herald::dev::with_client(&url, demo::load).await.unwrap().unwrap();
    let alice = herald::dev::people::PEOPLE[0].id();
    let own = ask(
        &url,
        &format!("select count(*)::text from messages where '{alice}' in (sender_id, receiver_id)"),
    )
    .await;
    let seen = herald::dev::with_client(&url, async |client| {
        let transaction = client.transaction().await?;
        let claims =
            format!("set local role authenticated; set local request.jwt.claims = '{{\"sub\":\"{alice}\"}}'");
        transaction.batch_execute(&claims).await?;
        transaction
            .query_one("select count(*)::text from messages", &[])
            .await
    });
    assert_eq!(seen.await.unwrap().unwrap().get::<_, String>(0), own);
    assert_ne!(own, "0");
}

#[tokio::test]
async fn the_chatter_goes_on_after_postgres_was_away_and_ends_with_its_owner() {
    let cluster = Cluster::temporary().await.unwrap();
    let url = cluster.url("postgres");
    herald::dev::with_client(&url, demo::load).await.unwrap().unwrap();
    let mut command = tokio::process::Command::new(HERALD);
    command.arg("dev-chatter").env("DATABASE_URL", &url);
    let chatter = Chatter::start(command).unwrap();
    let process = chatter.pid().unwrap();
    for how in [Stop::Immediate, Stop::Fast] {
        let before = messages(&url).await;
        until("somebody to write", async || messages(&url).await > before).await;
        cluster.stop(how).await.unwrap();
        cluster.start_again().await.unwrap();
    }
    let before = messages(&url).await;
    until("somebody to write after Postgres was away", async || {
        messages(&url).await > before
    })
    .await;
    chatter.end().await.unwrap();
    assert!(!lives(process));
}

#[tokio::test]
async fn the_chatter_speaks_by_the_gateway_and_goes_on_by_sql_while_that_is_away() {
    let url = Database::empty().await.url();
    herald::dev::with_client(&url, demo::load).await.unwrap().unwrap();
    migrate(&url).await;
    let port = Port::reserve();
    let gateway = Gateway::start_on(port.address, gateway::config(&url)).await;
    let folder = tempfile::tempdir().unwrap();
    let notes = || std::fs::read_to_string(folder.path().join("notes")).unwrap();
    let mut command = tokio::process::Command::new(HERALD);
    command
        .arg("dev-chatter")
        .env("DATABASE_URL", &url)
        .env("HERALD_URL", format!("http://{}", port.address))
        .env("HERALD_JWT_SECRET", SECRET)
        .stderr(File::create(folder.path().join("notes")).unwrap());
    let chatter = Chatter::start(command).unwrap();
    // By SQL everything is said as the superuser, and by the gateway as whoever speaks, which the log of changes does not tell; the
    // table can.
    execute(&url, BY_WHOM).await;
    let said = async |who: &str| {
        ask(
            &url,
            &format!("select count(*)::text from said where who = '{who}'"),
        )
        .await
        .parse::<u64>()
        .unwrap()
    };
    until("somebody to speak by the gateway", async || {
        said("authenticated").await > 0
    })
    .await;
    until("somebody to speak by SQL", async || said("postgres").await > 0).await;
    until("somebody to have read something", async || {
        ask(&url, "select count(*)::text from marked").await != "0"
    })
    .await;
    assert_eq!(notes(), "");

    gateway.stop().await;
    until("it is noted that the gateway is away", async || {
        !notes().is_empty()
    })
    .await;
    let before = said("postgres").await;
    until("people to go on by SQL", async || {
        said("postgres").await > before + 3
    })
    .await;
    assert_eq!(notes().lines().count(), 1, "{}", notes());

    let before = said("authenticated").await;
    let gateway = Gateway::start_on(port.address, gateway::config(&url)).await;
    until("somebody to speak by the gateway again", async || {
        said("authenticated").await > before
    })
    .await;
    chatter.end().await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn the_demo_ends_in_order_on_ctrl_c_and_is_found_again() {
    let folder = folder();
    for (number, stop) in [(1, "INT"), (2, "TERM")] {
        let mut demo = Demo::start(folder.path()).await;
        let before = messages(&demo.database_url()).await;
        assert!(!demo.guide.contains("browser"), "{}", demo.guide);
        assert_eq!(demo.run_printed_command("PGPASSWORD="), "INSERT 0 1");
        demo.follow_the_guide_to_the_api().await;
        until("the chatter to write", async || {
            messages(&demo.database_url()).await > before + 1
        })
        .await;
        let hello = "select count(*)::text from messages where content = 'Hello from psql'";
        assert_eq!(ask(&demo.database_url(), hello).await, number.to_string());
        let processes = demo.processes();
        signal(stop, demo.process());
        let status = tokio::time::timeout(PATIENCE, demo.child.wait())
            .await
            .unwrap()
            .unwrap();
        assert!(status.success(), "{status}: {}", demo.errors());
        assert!(
            !processes.iter().any(|process| lives(*process)),
            "a process is left"
        );
    }
    let log = std::fs::read_to_string(folder.path().join("postgres/postgres.log")).unwrap();
    assert!(!log.contains("not properly shut down"), "{log}");
}

#[tokio::test]
async fn a_page_of_the_demo_is_served_and_gets_tokens_for_its_people_and_other_pages_get_none() {
    let (folder, page) = (folder(), folder());
    let content = "<!doctype html><title>messages</title>";
    std::fs::write(page.path().join("index.html"), content).unwrap();
    let flags = ["--web-root", page.path().to_str().unwrap()];
    let mut demo = Demo::start_with(folder.path(), &flags).await;
    let lines = demo.lines();
    let open = lines.iter().find_map(|line| line.strip_prefix("open http://"));
    let (host, rest) = open.unwrap().split_once('/').unwrap();
    assert!(rest.starts_with("?as=alice and ?as=bob side by side"), "{rest}");
    let address = host.parse().unwrap();
    assert_eq!(http::fetch(address, "/?as=alice").await.body, content);

    // The page says the host of its address.
    let host = ("Host", host);
    let own = [host, ("Sec-Fetch-Site", "same-origin")];
    let answer = http::ask_with_body(address, "GET", "/demo/people", &own, b"").await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let people = answer.json(200);
    let (alice, bob) = (&people["people"][0], &people["people"][1]);
    assert_eq!(
        (&alice["username"], &bob["username"]),
        (&"alice".into(), &"bob".into())
    );
    assert!(alice["avatar_url"].as_str().unwrap().starts_with("data:image/"));

    let (wish, json) = (r#"{"username":"alice"}"#, ("Content-Type", "application/json"));
    let answer = http::ask_with_body(address, "POST", "/demo/token", &[host, json], wish.as_bytes()).await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let token = answer.json(200);
    assert_eq!(token["user"], alice["id"]);
    let expires_at = humantime::parse_rfc3339(token["expires_at"].as_str().unwrap()).unwrap();
    let lifetime = expires_at.duration_since(SystemTime::now()).unwrap();
    assert!((3500..=3600).contains(&lifetime.as_secs()), "{lifetime:?}");
    let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
    let with_token = [("Authorization", bearer.as_str())];
    let conversations = http::ask(address, "GET", "/v1/conversations", &with_token).await;
    assert!(
        !conversations.json(200)["conversations"]
            .as_array()
            .unwrap()
            .is_empty()
    );

    let origin = ("Origin", "https://evil.example");
    let rebound = ("Host", "evil.example");
    for stranger in [
        &[host, json, origin][..],
        &[rebound, json],
        &[rebound, json, origin],
    ] {
        for (method, path, body) in [("GET", "/demo/people", ""), ("POST", "/demo/token", wish)] {
            let refused = http::ask_with_body(address, method, path, stranger, body.as_bytes()).await;
            refused.problem(403);
            assert!(!refused.body.contains("alice"), "{refused:?}");
        }
    }
    let form = [host, ("Content-Type", "text/plain")];
    http::ask_with_body(address, "POST", "/demo/token", &form, wish.as_bytes())
        .await
        .problem(415);
    let nobody = r#"{"username":"mallory"}"#;
    http::ask_with_body(address, "POST", "/demo/token", &[host, json], nobody.as_bytes())
        .await
        .problem(422);
    http::ask_with_body(address, "GET", "/demo/token", &[host], b"")
        .await
        .problem(405);
    signal("TERM", demo.process());
    assert!(demo.child.wait().await.unwrap().success());
}

#[tokio::test]
async fn a_killed_demo_leaves_no_process() {
    let folder = folder();
    let mut demo = Demo::start(folder.path()).await;
    let processes = demo.processes();
    assert!(processes.iter().all(|process| lives(*process)));
    demo.child.kill().await.unwrap();
    until("the other processes to end", async || {
        !processes.iter().any(|process| lives(*process))
    })
    .await;
}

#[tokio::test]
async fn a_second_demo_in_the_same_folder_is_refused_and_the_first_goes_on() {
    let folder = folder();
    let mut first = Demo::start(folder.path()).await;
    let second = Command::new(HERALD).args(dev(folder.path())).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use by another process"));
    assert!(messages(&first.database_url()).await > 0);
    signal("TERM", first.process());
    assert!(first.child.wait().await.unwrap().success());
}

#[test]
fn a_port_that_is_taken_is_named_with_what_to_do_and_nothing_is_started() {
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let path = folder.path().join("not-made");
    let mut herald = Command::new(HERALD);
    let output = herald
        .args(["dev", "--bind", &address, "--folder"])
        .arg(&path)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains(&address) && errors.contains("--bind"), "{errors}");
    assert!(!path.exists());
}

async fn messages(url: &str) -> u64 {
    ask(url, "select count(*)::text from messages")
        .await
        .parse()
        .unwrap()
}

/// A folder that every user may enter, so that the data lies in it even if the test runs as root.
fn folder() -> TempDir {
    tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o755))
        .tempdir()
        .unwrap()
}

fn dev(folder: &Path) -> [&str; 5] {
    [
        "dev",
        "--bind",
        "127.0.0.1:0",
        "--folder",
        folder.to_str().unwrap(),
    ]
}

/// A running `herald dev`, and what it printed.
struct Demo<'a> {
    child: Child,
    folder: &'a Path,
    guide: String,
}

impl<'a> Demo<'a> {
    async fn start(folder: &'a Path) -> Self {
        Self::start_with(folder, &[]).await
    }

    async fn start_with(folder: &'a Path, flags: &[&str]) -> Self {
        let mut command = tokio::process::Command::new(HERALD);
        command
            .args(dev(folder))
            .args(flags)
            .env_remove("HERALD_WEB_ROOT")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command
            .stderr(File::create(folder.join("errors")).unwrap())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut guide = Vec::new();
        let printed = async {
            while !guide.ends_with(b"finds the data again.\n") {
                assert_ne!(
                    output.read_buf(&mut guide).await.unwrap(),
                    0,
                    "it ended before it printed its guide"
                );
            }
        };
        tokio::time::timeout(PATIENCE, printed).await.unwrap();
        Self {
            child,
            folder,
            guide: String::from_utf8(guide).unwrap(),
        }
    }

    fn process(&self) -> u32 {
        self.child.id().unwrap()
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(self.folder.join("errors")).unwrap()
    }

    /// The postmaster and the chatter.
    fn processes(&self) -> [u32; 2] {
        let file = std::fs::read_to_string(self.folder.join("postgres/data/postmaster.pid")).unwrap();
        let chatter = self
            .guide
            .split_once("process ")
            .unwrap()
            .1
            .split_once(':')
            .unwrap()
            .0;
        [
            file.lines().next().unwrap().parse().unwrap(),
            chatter.parse().unwrap(),
        ]
    }

    fn database_url(&self) -> String {
        let [password, port] =
            ["password", "port"].map(|name| std::fs::read_to_string(self.folder.join(name)).unwrap());
        format!(
            "postgresql://postgres:{password}@127.0.0.1:{port}/{}",
            demo::DATABASE
        )
    }

    /// Sends by the printed command, takes the printed token, and asks what the printed commands ask.
    async fn follow_the_guide_to_the_api(&self) {
        let printed = self.lines();
        let id = Self::run(printed.iter().find(|line| line.contains(" send --as ")).unwrap());
        let token = printed.iter().find(|line| line.starts_with("TOKEN=")).unwrap();
        let bearer = format!("Bearer {}", Self::run(&format!("{token}; echo \"$TOKEN\"")));
        let asked: Vec<_> = printed
            .iter()
            .filter_map(|line| line.strip_prefix("curl -H \"Authorization: Bearer $TOKEN\" "))
            .collect();
        assert_eq!(asked.len(), 2, "{}", self.guide);
        for url in asked {
            let (address, target) = url
                .trim_matches('"')
                .strip_prefix("http://")
                .unwrap()
                .split_once('/')
                .unwrap();
            let headers = [("Authorization", bearer.as_str())];
            let answer = http::ask(address.parse().unwrap(), "GET", &format!("/{target}"), &headers).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            // The newest message of the conversation is the one that was sent, unless bob has spoken since.
            assert!(
                !url.contains("/messages") || answer.body.contains(&id),
                "{answer:?}"
            );
        }
    }

    fn lines(&self) -> Vec<&str> {
        self.guide.lines().map(str::trim).collect()
    }

    /// Runs the line of the guide that begins so, exactly as it stands, and answers what it printed.
    fn run_printed_command(&self, begins: &str) -> String {
        let lines = self.lines();
        Self::run(lines.iter().find(|line| line.starts_with(begins)).unwrap())
    }

    /// Runs a line as a shell does, and answers what it printed.
    fn run(line: &str) -> String {
        let output = Command::new("sh")
            .args(["-c", line])
            .current_dir("/")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}
