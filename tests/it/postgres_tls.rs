//! Connections to a real Postgres: what each `sslmode` accepts, and what each failure is taken for.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    time::Duration,
};

use herald::{
    dev::cluster::{Cluster, Stop},
    postgres::{self, ConnectError, Failure, Settings},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::{net::TcpListener, time::Instant};

use crate::support::authority::Authority;

/// Much longer than anything here takes; a machine under load is slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// The name in the server's certificate, which it is reached by through `hostaddr`.
const NAME: &str = "db.example";
const PASSWORD: &str = "correct horse";

/// What came of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Encrypted,
    Plain,
    /// Given up until a person changes something, with a reason that has these words.
    Fatal(&'static str),
}

#[tokio::test]
async fn each_sslmode_accepts_what_libpq_documents_from_a_server_with_tls() {
    let server = TlsServer::start().await;
    let (right, foreign) = (server.root(), server.foreign_root());
    let refused = Outcome::Fatal("UnknownIssuer");
    let other_name = Outcome::Fatal("other.example");
    for (mode, root, host, expected) in [
        ("disable", None, NAME, Outcome::Plain),
        ("disable", Some(&foreign), NAME, Outcome::Plain),
        ("prefer", None, "other.example", Outcome::Encrypted),
        ("prefer", Some(&right), "other.example", Outcome::Encrypted),
        // libpq would go on unencrypted here; Herald rather says what is wrong.
        ("prefer", Some(&foreign), NAME, refused),
        ("require", None, "other.example", Outcome::Encrypted),
        ("require", Some(&right), "other.example", Outcome::Encrypted),
        ("require", Some(&foreign), NAME, Outcome::Fatal("UnknownIssuer")),
        ("verify-ca", Some(&right), NAME, Outcome::Encrypted),
        ("verify-ca", Some(&right), "other.example", Outcome::Encrypted),
        ("verify-ca", Some(&foreign), NAME, Outcome::Fatal("UnknownIssuer")),
        ("verify-full", Some(&right), NAME, Outcome::Encrypted),
        ("verify-full", Some(&right), "other.example", other_name),
        (
            "verify-full",
            Some(&foreign),
            NAME,
            Outcome::Fatal("UnknownIssuer"),
        ),
    ] {
        let settings = server.settings(mode, root.map(PathBuf::as_path), host);
        outcome(
            &settings,
            expected,
            &format!("sslmode={mode} root={root:?} host={host}"),
        )
        .await;
    }
}

#[tokio::test]
async fn each_sslmode_accepts_what_libpq_documents_from_a_server_without_tls() {
    let cluster = Cluster::temporary().await.unwrap();
    let root = tempfile::tempdir().unwrap();
    let root = write(root.path(), "root.crt", &Authority::new("root").certificate);
    for (mode, expected) in [
        ("disable", Outcome::Plain),
        ("prefer", Outcome::Plain),
        ("require", Outcome::Fatal("does not offer TLS")),
        ("verify-ca", Outcome::Fatal("does not offer TLS")),
        ("verify-full", Outcome::Fatal("does not offer TLS")),
    ] {
        let url = format!(
            "{}?sslmode={mode}&sslrootcert={}",
            cluster.url("postgres"),
            root.display()
        );
        outcome(&Settings::parse(&url).unwrap(), expected, mode).await;
    }
    let folder = cluster.socket_folder().await.unwrap();
    let socket = format!(
        "host={} port={} user=postgres sslmode=verify-full sslrootcert={}",
        folder.display(),
        cluster.port(),
        root.display()
    );
    outcome(
        &Settings::parse(&socket).unwrap(),
        Outcome::Plain,
        "a Unix socket",
    )
    .await;
}

#[tokio::test]
async fn a_server_that_speaks_only_outdated_tls_is_refused_for_good() {
    let server = TlsServer::start().await;
    for sql in [
        "alter system set ssl_min_protocol_version = 'TLSv1'",
        "alter system set ssl_max_protocol_version = 'TLSv1.1'",
    ] {
        server.reload(sql).await;
    }
    let settings = server.settings("require", None, NAME);
    outcome(&settings, Outcome::Fatal("check its TLS settings"), "TLS 1.1").await;
}

#[tokio::test]
async fn a_certificate_that_is_its_own_root_is_accepted_by_its_name_only() {
    let server = TlsServer::start().await;
    // As `openssl req -x509` makes it, and PostgreSQL's documentation shows it: a certificate authority by itself.
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    server.install(&certificate, &key.serialize_pem()).await;
    let own = write(server.folder.path(), "own.crt", &certificate);
    for (mode, host, expected) in [
        ("verify-full", NAME, Outcome::Encrypted),
        ("verify-ca", "other.example", Outcome::Encrypted),
        ("verify-full", "other.example", Outcome::Fatal("other.example")),
    ] {
        outcome(
            &server.settings(mode, Some(&own), host),
            expected,
            &format!("{mode} {host}"),
        )
        .await;
    }
    // Trusting one certificate trusts no other.
    outcome(
        &server.settings("verify-ca", Some(&server.root()), NAME),
        Outcome::Fatal("certificate"),
        "another root",
    )
    .await;

    params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let expired = params.self_signed(&key).unwrap().pem();
    server.install(&expired, &key.serialize_pem()).await;
    let own = write(server.folder.path(), "expired.crt", &expired);
    outcome(
        &server.settings("verify-ca", Some(&own), NAME),
        Outcome::Fatal("xpired"),
        "an expired one",
    )
    .await;
}

#[tokio::test]
async fn a_scram_password_is_bound_to_the_tls_channel_and_a_wrong_one_is_fatal() {
    let server = TlsServer::start().await;
    server.demand_password("ann").await;
    let with = |password: &str, parameters: &str| {
        let text = format!(
            "host={NAME} hostaddr=127.0.0.1 port={} user=ann password='{password}' dbname=postgres {parameters}",
            server.cluster.port()
        );
        Settings::parse(&text)
            .unwrap()
            .of_variable("HERALD_FEED_DATABASE_URL")
    };
    let bound = with(PASSWORD, "sslmode=require channel_binding=require");
    outcome(&bound, Outcome::Encrypted, "channel binding").await;

    let failure = refused(&with("wrong staple", "sslmode=require")).await;
    assert!(failure.is_fatal(), "{failure:?}");
    for part in ["user ann", "28P01", "HERALD_FEED_DATABASE_URL"] {
        assert!(failure.reason().contains(part), "{failure:?}");
    }
    assert!(!format!("{failure:?}").contains("staple"));

    // Without TLS there is nothing to bind to, so the client refuses before it has proved its password.
    let failure = refused(&with(PASSWORD, "sslmode=disable channel_binding=require")).await;
    assert!(
        failure.is_fatal() && failure.reason().contains("channel"),
        "{failure:?}"
    );
    let text = format!(
        "host=127.0.0.1 port={} user=ann dbname=postgres",
        server.cluster.port()
    );
    let failure = refused(&Settings::parse(&text).unwrap()).await;
    assert!(
        failure.is_fatal() && failure.reason().contains("password"),
        "{failure:?}"
    );
}

#[tokio::test]
async fn a_missing_database_is_fatal_and_too_many_connections_are_not() {
    let cluster = Cluster::temporary().await.unwrap();
    let settings = Settings::parse(&cluster.url("postgres")).unwrap();
    ask(&settings, "create role busy login connection limit 0")
        .await
        .unwrap();
    let failure = refused(&Settings::parse(&cluster.url("nowhere")).unwrap()).await;
    assert!(
        failure.is_fatal() && failure.reason().contains("nowhere"),
        "{failure:?}"
    );
    assert!(failure.reason().contains("3D000"), "{failure:?}");
    let failure = refused(&as_user(&cluster, "busy")).await;
    assert!(
        !failure.is_fatal() && failure.reason().contains("53300"),
        "{failure:?}"
    );
    let failure = refused(&as_user(&cluster, "nobody_here")).await;
    assert!(
        failure.is_fatal() && failure.reason().contains("28000"),
        "{failure:?}"
    );
}

#[tokio::test]
async fn what_a_person_has_to_mend_is_fatal_and_the_rest_is_retryable() {
    let cluster = Cluster::temporary().await.unwrap();
    let settings = Settings::parse(&cluster.url("postgres")).unwrap();
    ask(&settings, "create role reader login; create table secret ()")
        .await
        .unwrap();
    let reader = as_user(&cluster, "reader");
    for (settings, sql, code, fatal) in [
        (&reader, "select from secret", "42501", true),
        (&settings, "select from herald.log", "42P01", true),
        (&settings, "create table herald.log ()", "3F000", true),
        (&settings, "select herald_missing()", "42883", true),
        (&settings, "select missing from secret", "42703", true),
        (
            &settings,
            "select pg_terminate_backend(pg_backend_pid())",
            "57P01",
            false,
        ),
        (
            &settings,
            "do $$ begin raise exception 'x' using errcode = '40001'; end $$",
            "40001",
            false,
        ),
        (
            &settings,
            "do $$ begin raise exception 'x' using errcode = '40P01'; end $$",
            "40P01",
            false,
        ),
        (
            &settings,
            "set statement_timeout = 1; select pg_sleep(60)",
            "57014",
            false,
        ),
    ] {
        let error = ask(settings, sql).await.unwrap_err();
        let failure = Failure::of(&error, settings);
        assert_eq!(failure.is_fatal(), fatal, "{sql}: {failure:?}");
        assert!(failure.reason().contains(code), "{sql}: {failure:?}");
    }
    let error = ask(&settings, "select 'what people write'::int")
        .await
        .unwrap_err();
    let failure = Failure::of(&error, &settings);
    assert!(
        !failure.reason().contains("people") && failure.reason().contains("22P02"),
        "{failure:?}"
    );
}

#[tokio::test]
async fn a_server_that_is_away_or_starting_up_is_retryable() {
    let cluster = Cluster::temporary().await.unwrap();
    let settings = Settings::parse(&cluster.url("postgres")).unwrap();
    // A standby without hot standby recovers for ever, and answers as every server does that has not finished starting.
    ask(&settings, "alter system set hot_standby = off")
        .await
        .unwrap();
    cluster.stop(Stop::Fast).await.unwrap();
    let failure = refused(&settings).await;
    assert!(
        !failure.is_fatal() && failure.reason().contains(&settings.describe()),
        "{failure:?}"
    );

    let signal = write(&cluster.data_folder(), "standby.signal", "");
    own_like(&signal, &cluster.data_folder());
    let starting_up = async {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let failure = refused(&settings).await;
            assert!(!failure.is_fatal(), "{failure:?}");
            if failure.reason().contains("57P03") {
                break;
            }
            assert!(Instant::now() < deadline, "still {failure:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        started = cluster.start_again() => panic!("it accepts connections: {started:?}"),
        () = starting_up => {}
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_at_the_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = format!(
        "host=127.0.0.1 port={} user=u password=hidden",
        silent.local_addr().unwrap().port()
    );
    let settings = Settings::parse(&text).unwrap();
    let begin = Instant::now();
    let error = postgres::connect(&settings, "test", Duration::from_millis(200))
        .await
        .map(drop)
        .unwrap_err();
    assert!(matches!(error, ConnectError::Deadline { .. }), "{error:?}");
    assert!(begin.elapsed() >= Duration::from_millis(200) && begin.elapsed() < PATIENCE);
    let failure = Failure::of_connect(&error, &settings);
    assert!(
        !failure.is_fatal() && !format!("{error:?} {failure:?}").contains("hidden"),
        "{failure:?}"
    );
}

#[tokio::test]
async fn the_pool_speaks_tls_bounds_its_waits_and_needs_no_server_to_be_made() {
    let server = TlsServer::start().await;
    server.demand_password("ann").await;
    let settings = server.settings("verify-full", Some(&server.root()), NAME);
    let pool = postgres::pool(&settings, 1, Duration::from_millis(100)).unwrap();
    let held = pool.get().await.unwrap();
    let row = held.query_one("select ssl, application_name from pg_stat_ssl join pg_stat_activity using (pid) where pid = pg_backend_pid()", &[]).await.unwrap();
    assert_eq!((row.get(0), row.get(1)), (true, "herald pool"));
    let error = pool.get().await.map(drop).unwrap_err();
    let failure = Failure::of_pool(&error, &settings);
    assert!(
        !failure.is_fatal() && failure.reason().contains("in time"),
        "{failure:?}"
    );
    drop(held);

    let text = format!(
        "host=127.0.0.1 port={} user=ann password=wrong dbname=postgres",
        server.cluster.port()
    );
    let settings = Settings::parse(&text).unwrap();
    let error = postgres::pool(&settings, 1, PATIENCE)
        .unwrap()
        .get()
        .await
        .map(drop)
        .unwrap_err();
    let failure = Failure::of_pool(&error, &settings);
    assert!(
        failure.is_fatal() && failure.reason().contains("28P01"),
        "{failure:?}"
    );
}

/// A Postgres whose certificate bears [`NAME`], signed by an authority of its own.
struct TlsServer {
    cluster: Cluster,
    folder: TempDir,
}

impl TlsServer {
    async fn start() -> Self {
        let server = Self {
            cluster: Cluster::temporary().await.unwrap(),
            folder: tempfile::tempdir().unwrap(),
        };
        let authority = Authority::new("the right authority");
        let issued = authority.issue(&[NAME]);
        write(server.folder.path(), "root.crt", &authority.certificate);
        write(
            server.folder.path(),
            "foreign.crt",
            &Authority::new("a foreign authority").certificate,
        );
        server.install(&issued.certificate, &issued.key).await;
        server
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root.crt")
    }

    fn foreign_root(&self) -> PathBuf {
        self.folder.path().join("foreign.crt")
    }

    /// Makes the server show a certificate, and waits until it does.
    async fn install(&self, certificate: &str, key: &str) {
        let data = self.cluster.data_folder();
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let file = write(&data, name, text);
            fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
            own_like(&file, &data);
        }
        self.reload("alter system set ssl = on").await;
    }

    async fn demand_password(&self, user: &str) {
        let settings = self.settings("disable", None, NAME);
        ask(
            &settings,
            &format!("create role {user} login password '{PASSWORD}'"),
        )
        .await
        .unwrap();
        let file = self.cluster.data_folder().join("pg_hba.conf");
        let rules = fs::read_to_string(&file).unwrap();
        fs::write(
            &file,
            format!("host all {user} 127.0.0.1/32 scram-sha-256\n{rules}"),
        )
        .unwrap();
        self.reload("select 1").await;
    }

    /// Has the configuration read again. The postmaster counts its readings' times; a backend born later has read it.
    async fn reload(&self, sql: &str) {
        let settings = self.settings("disable", None, NAME);
        let time = "select pg_conf_load_time()::text";
        let before = ask(&settings, time).await.unwrap();
        ask(&settings, sql).await.unwrap();
        ask(&settings, "select pg_reload_conf()").await.unwrap();
        let deadline = Instant::now() + PATIENCE;
        while ask(&settings, time).await.unwrap() == before {
            assert!(Instant::now() < deadline, "the configuration was not read again");
        }
    }

    fn settings(&self, mode: &str, root: Option<&Path>, host: &str) -> Settings {
        let root = root
            .map(|root| format!("sslrootcert={}", root.display()))
            .unwrap_or_default();
        let port = self.cluster.port();
        let text = format!(
            "host={host} hostaddr=127.0.0.1 port={port} user=postgres dbname=postgres sslmode={mode} {root}"
        );
        Settings::parse(&text).unwrap()
    }
}

async fn outcome(settings: &Settings, expected: Outcome, what: &str) {
    match (
        postgres::connect(settings, "herald test", PATIENCE).await,
        expected,
    ) {
        (Err(error), Outcome::Fatal(words)) => {
            let failure = Failure::of_connect(&error, settings);
            assert!(
                failure.is_fatal() && failure.reason().contains(words),
                "{what}: {failure:?}"
            );
        }
        (Err(error), expected) => panic!("{what}: expected {expected:?}, got {error}"),
        (Ok((client, connection)), expected) => {
            let sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
            let encrypted: bool = tokio::select! {
                row = client.query_one(sql, &[]) => row.unwrap().get(0),
                ended = connection => panic!("{what}: {ended:?}"),
            };
            let got = if encrypted {
                Outcome::Encrypted
            } else {
                Outcome::Plain
            };
            assert_eq!(got, expected, "{what}");
        }
    }
}

fn as_user(cluster: &Cluster, user: &str) -> Settings {
    Settings::parse(&format!(
        "host=127.0.0.1 port={} user={user} dbname=postgres",
        cluster.port()
    ))
    .unwrap()
}

async fn refused(settings: &Settings) -> Failure {
    let error = postgres::connect(settings, "herald test", PATIENCE)
        .await
        .map(drop)
        .unwrap_err();
    Failure::of_connect(&error, settings)
}

/// The first column of the first row, if there is one.
async fn ask(settings: &Settings, sql: &str) -> Result<Option<String>, tokio_postgres::Error> {
    let (client, connection) = postgres::connect(settings, "herald test", PATIENCE)
        .await
        .unwrap();
    let answer = {
        let asking = client.simple_query(sql);
        let (mut asking, mut connection) = (std::pin::pin!(asking), std::pin::pin!(connection));
        tokio::select! {
            biased;
            answer = &mut asking => answer,
            // The server's last words reach the query before the end reaches the connection.
            _ended = &mut connection => asking.await,
        }
    };
    Ok(answer?.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let file = folder.join(name);
    fs::write(&file, text).unwrap();
    file
}

/// Gives a file to whoever owns the folder: Postgres accepts a key only from its own user.
fn own_like(file: &Path, folder: &Path) {
    let owner = fs::metadata(folder).unwrap();
    chown(file, Some(owner.uid()), Some(owner.gid())).unwrap();
}
