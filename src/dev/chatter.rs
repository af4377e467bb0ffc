//! People who talk without end: one row in `messages` every one to two seconds, by plain SQL.
//!
//! It runs as a process of its own, as the application whose rows Herald delivers would, and knows nothing of Herald. It ends
//! when the other end of its standard input does, so that it never outlives who started it. When Postgres is away it tries
//! again until it is back; a line that was not said for certain is said again, since a demo may repeat itself.

use std::{
    convert::Infallible,
    fmt, io,
    os::fd::AsFd,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rand::{Rng, RngExt};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    process::{Child, ChildStdin, Command},
};
use tokio_postgres::{Client, NoTls};

use super::demo::Scene;
use crate::backoff::Backoff;

/// The bounds, in milliseconds, between which the pause after each line is drawn.
const PAUSE: std::ops::Range<u64> = 1_000..2_000;
/// How many talks go on side by side.
const TALKS_AT_ONCE: usize = 3;
/// The first wait after Postgres was found to be away.
const AWAY_FIRST: Duration = Duration::from_millis(200);
/// The longest wait, so that people talk again soon after Postgres is back.
const AWAY_MAX: Duration = Duration::from_secs(2);

/// How long a chatter that was told to end may take; it has one statement under way at most.
const END_WITHIN: Duration = Duration::from_secs(5);

/// The chatter as a process of its own. Dropped, it ends by itself.
#[derive(Debug)]
pub struct Chatter {
    child: Child,
    /// Kept apart, since [`Child::wait`] closes what it finds in the child, and the chatter ends with its standard input.
    input: Option<ChildStdin>,
}

impl Chatter {
    /// Starts it. `command` is a program that calls [`run`], with the database's URL in the variable `DATABASE_URL`.
    ///
    /// # Errors
    /// The program could not be started.
    pub fn start(mut command: Command) -> io::Result<Self> {
        // In a process group of its own Ctrl-C does not reach it: it ends when its owner wants it to.
        command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let mut child = command.spawn()?;
        let input = child.stdin.take();
        Ok(Self { child, input })
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until it ends by itself, which it does only if something is wrong.
    ///
    /// # Errors
    /// It could not be waited for.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Tells it to end, and waits until it has.
    ///
    /// # Errors
    /// It could not be ended.
    ///
    /// # Cancel safety
    /// Safe: once told, it ends.
    pub async fn end(mut self) -> io::Result<()> {
        drop(self.input.take());
        match tokio::time::timeout(END_WITHIN, self.child.wait()).await {
            Ok(ended) => ended.map(|_| ()),
            Err(_too_slow) => self.child.kill().await,
        }
    }
}

/// Talks until standard input ends.
///
/// # Errors
/// Standard input is no pipe: nobody would ever end this.
///
/// # Cancel safety
/// Safe: a line is said as a whole or not at all.
pub async fn run(database_url: &str, note: impl Fn(&dyn fmt::Display)) -> io::Result<()> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let mut input = pipe::Receiver::from_owned_fd(input)?;
    tokio::select! {
        never = talk_through_outages(database_url, note) => match never {},
        ended = async { input.read_to_end(&mut Vec::new()).await } => ended.map(|_| ()),
    }
}

async fn talk_through_outages(database_url: &str, note: impl Fn(&dyn fmt::Display)) -> Infallible {
    let mut talks = Talks::begin(&mut rand::rng());
    let mut backoff = Backoff::new(AWAY_FIRST, AWAY_MAX);
    loop {
        let said = talks.said;
        let Err(error) = talk(database_url, &mut talks).await;
        if talks.said > said {
            backoff.reset();
        }
        note(&format_args!(
            "the chatter waits for Postgres: {}",
            super::in_full(&error)
        ));
        tokio::time::sleep(backoff.next_delay(&mut rand::rng())).await;
    }
}

/// Talks over one connection until it breaks.
async fn talk(database_url: &str, talks: &mut Talks) -> Result<Infallible, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(database_url, NoTls).await?;
    tokio::select! {
        broken = say_on(&client, talks) => broken,
        // The connection ends with an error when Postgres goes away, and in silence only when the client is dropped.
        Err(error) = connection => Err(error),
    }
}

async fn say_on(client: &Client, talks: &mut Talks) -> Result<Infallible, tokio_postgres::Error> {
    let say = client.prepare(include_str!("../../sql/demo/say.sql")).await?;
    loop {
        let (scene, line) = talks.next();
        let (speaker, content) = scene.talk.lines[line];
        let (sender, receiver) = scene.sender_and_receiver(speaker);
        let product = scene.product.map(super::people::Product::id);
        client
            .execute(&say, &[&sender.id(), &receiver.id(), &product, &content])
            .await?;
        talks.said(&mut rand::rng());
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(PAUSE))).await;
    }
}

/// The talks that go on, and whose turn it is.
#[derive(Debug)]
struct Talks {
    going_on: [(Scene, usize); TALKS_AT_ONCE],
    turn: usize,
    said: u64,
}

impl Talks {
    fn begin(random: &mut impl Rng) -> Self {
        Self {
            going_on: std::array::from_fn(|_| (new_scene(random), 0)),
            turn: 0,
            said: 0,
        }
    }

    /// What is to be said next; the same until [`Talks::said`].
    const fn next(&self) -> (Scene, usize) {
        self.going_on[self.turn]
    }

    fn said(&mut self, random: &mut impl Rng) {
        let (scene, line) = &mut self.going_on[self.turn];
        *line += 1;
        if *line == scene.talk.lines.len() {
            (*scene, *line) = (new_scene(random), 0);
        }
        self.turn = random.random_range(0..TALKS_AT_ONCE);
        self.said += 1;
    }
}

/// Any scene; the bound is far beyond where every talk has met every pair.
fn new_scene(random: &mut impl Rng) -> Scene {
    Scene::of(random.random_range(0..1_000_000))
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn each_talk_goes_line_by_line_and_a_new_one_follows() {
        let mut random = StdRng::seed_from_u64(1);
        let mut talks = Talks::begin(&mut random);
        let mut ended = 0;
        for _ in 0..1_000 {
            let turn = talks.turn;
            let (before, line) = talks.next();
            assert!(line < before.talk.lines.len());
            talks.said(&mut random);
            let (_, next) = talks.going_on[turn];
            if line + 1 == before.talk.lines.len() {
                ended += 1;
                assert_eq!(next, 0);
            } else {
                assert_eq!(next, line + 1);
            }
        }
        assert!(ended > 100, "{ended}");
    }
}
