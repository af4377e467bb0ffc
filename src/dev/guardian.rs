//! Keeps Postgres from outliving its owner, however the owner ends.
//!
//! The guardian is a small `sh` in a process group of its own, so that Ctrl-C in a terminal does not reach it. It starts
//! the postmaster and reads from a pipe whose other end only the owner holds. A line tells it how to stop; the end of
//! the pipe means that the owner is gone, be it by `kill -9`, and the guardian stops Postgres by itself and removes what
//! was temporary. It is a plain `std` process and not one of tokio, since a cluster is shared by tests of which each
//! has its own runtime.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
};

use super::place::ServerUser;

/// `$1` how to stop when the owner is gone, `$2` what to remove after every stop, `$3` what to remove once the owner is
/// gone (or nothing), and then the command line of Postgres.
///
/// The reader ignores TERM before it signals the postmaster, so that the shell, which ends the reader after the postmaster,
/// cannot lose its answer. The reader's status 10 means that the owner is gone.
const SCRIPT: &str = r#"
owner_gone=$1 sockets=$2 temporary=$3
shift 3
exec 3<&0 </dev/null
"$@" 3<&- >&2 &
postmaster=$!
echo "$postmaster"
exec >&2
(
    status=0
    read -r how <&3 || { how=$owner_gone; status=10; }
    trap '' TERM
    case $how in
        fast) kill -INT "$postmaster" ;;
        *) kill -QUIT "$postmaster" ;;
    esac
    exit "$status"
) 2>/dev/null &
reader=$!
exec 3<&-
wait "$postmaster"
ended=$?
kill "$reader" 2>/dev/null
wait "$reader"
if [ "$?" -eq 10 ] && [ -n "$temporary" ]; then rm -rf "$temporary"; fi
rm -rf "$sockets"
exit "$ended"
"#;

/// How Postgres is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Sessions are ended, transactions rolled back, everything is written: `pg_ctl stop -m fast`.
    Fast,
    /// As a power cut: the next start recovers from the write-ahead log. `pg_ctl stop -m immediate`.
    Immediate,
}

impl Stop {
    const fn word(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Immediate => "immediate",
        }
    }
}

/// What a guardian needs to know beside the command line of Postgres.
#[derive(Debug)]
pub(super) struct Orders<'a> {
    pub(super) server_user: Option<&'a ServerUser>,
    pub(super) owner_gone: Stop,
    pub(super) sockets: &'a Path,
    pub(super) temporary: Option<&'a Path>,
    /// Takes everything that Postgres and the guardian have to say.
    pub(super) log: File,
    /// A process that has the number of a former postmaster and is none; see [`super::cluster`].
    pub(super) not_the_postmaster: Option<u32>,
}

/// A running guardian and, below it, Postgres. Dropped, it stops Postgres without being waited for.
#[derive(Debug)]
pub(super) struct Guardian {
    child: Child,
    orders: ChildStdin,
    postmaster: u32,
}

impl Guardian {
    /// Starts Postgres below a new guardian. It blocks for the few milliseconds in which the shell starts.
    pub(super) fn start(orders: Orders<'_>, postgres: &Path, arguments: &[String]) -> io::Result<Self> {
        let mut shell = Command::new("/bin/sh");
        shell
            .arg("-c")
            .arg(SCRIPT)
            .arg("herald-guardian")
            .arg(orders.owner_gone.word());
        shell
            .arg(orders.sockets)
            .arg(orders.temporary.unwrap_or_else(|| Path::new("")));
        shell.arg(postgres).args(arguments);
        // Variables such as PGOPTIONS or PGDATA of the caller would change what is started.
        shell
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("LC_ALL", "C");
        if let Some(number) = orders.not_the_postmaster {
            shell.env("PG_GRANDPARENT_PID", number.to_string());
        }
        shell.current_dir("/").process_group(0);
        shell
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(orders.log);
        if let Some(user) = orders.server_user {
            shell.uid(user.uid).gid(user.gid);
        }
        let mut child = shell.spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the guardian has no pipes"));
        };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let postmaster = line
            .trim()
            .parse()
            .map_err(|_| io::Error::other("the guardian could not start Postgres"))?;
        Ok(Self {
            child,
            orders: stdin,
            postmaster,
        })
    }

    /// The process id of the postmaster. It stays the guardian's child, so the number is not given to another process
    /// before the guardian has ended.
    pub(super) const fn postmaster(&self) -> u32 {
        self.postmaster
    }

    /// How the postmaster ended, if it has.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Tells the guardian to stop Postgres and to keep its data. The answer comes by [`Guardian::ended`].
    pub(super) fn stop(&mut self, how: Stop) -> io::Result<()> {
        writeln!(self.orders, "{}", how.word())
    }
}
