//! PgBouncer in transaction mode before the shared Postgres, one for all tests of this process.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
};

use herald::dev::cluster::{Cluster, SUPERUSER};
use tempfile::TempDir;
use tokio::{net::UnixStream, sync::OnceCell};

use super::{cluster, database::AT_MOST, gateway::ROLE};

/// The number in the name of its socket. It listens on no port, so that no port can be taken.
const SOCKET_NUMBER: u16 = 6432;

static SHARED: OnceCell<Pooler> = OnceCell::const_new();

/// A running PgBouncer. It ends with this process, because the shell around it reads from a pipe that ends then.
pub(crate) struct Pooler {
    folder: TempDir,
    _shell: Child,
}

/// One for all.
pub(crate) async fn shared() -> &'static Pooler {
    SHARED
        .get_or_init(async || Pooler::start(cluster::shared().await).await)
        .await
}

impl Pooler {
    async fn start(cluster: &Cluster) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // As root it runs as somebody else, who has to make its socket here.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let settings = folder.path().join("pgbouncer.ini");
        let own = folder.path().display();
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} user={ROLE}\n\
             [pgbouncer]\npool_mode = transaction\nauth_type = any\nlisten_addr =\nlisten_port = {SOCKET_NUMBER}\n\
             unix_socket_dir = {own}\ndefault_pool_size = 4\nmax_client_conn = 500\n",
            cluster.port()
        );
        fs::write(&settings, text).unwrap();
        let as_somebody = if rustix::process::getuid().is_root() {
            "-u nobody"
        } else {
            ""
        };
        // Debian keeps it where ordinary users do not look.
        let script = format!(
            "PATH=$PATH:/usr/sbin; pgbouncer {as_somebody} -q {} >{own}/log 2>&1 & bouncer=$!; cat >/dev/null; kill $bouncer; wait $bouncer",
            settings.display()
        );
        let shell = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pooler = Self {
            folder,
            _shell: shell,
        };
        pooler.wait_until_it_listens().await;
        pooler
    }

    async fn wait_until_it_listens(&self) {
        let socket = self.folder.path().join(format!(".s.PGSQL.{SOCKET_NUMBER}"));
        let deadline = tokio::time::Instant::now() + AT_MOST;
        while UnixStream::connect(&socket).await.is_err() {
            let log = || fs::read_to_string(self.folder.path().join("log"));
            assert!(
                tokio::time::Instant::now() < deadline,
                "no PgBouncer: {:?}",
                log()
            );
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// The same database by way of the pooler.
    pub(crate) fn url(&self, database: &str) -> String {
        let folder = self.folder.path().display().to_string().replace('/', "%2F");
        format!("postgresql://{SUPERUSER}@{folder}:{SOCKET_NUMBER}/{database}")
    }
}
