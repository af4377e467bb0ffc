//! People who talk without end: one message every one to two seconds, about half of them by plain SQL and the others by the
//! gateway's HTTP API; now and then somebody who was answered marks the conversation as read.
//!
//! It runs as a process of its own, as the application whose rows Herald delivers would. It ends when the other end of its
//! standard input does, so that it never outlives who started it. When the gateway is away everything is said by SQL; when
//! Postgres is away it tries again until it is back. Each line has its id before it is said, so that one that was not
//! said for certain is said again, and is stored once.

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
use uuid::Uuid;

use super::{
    demo::Scene,
    people::{Person, Product},
};
use crate::{
    auth::Secret,
    backoff::Backoff,
    client::{CallError, Credentials, Draft, GatewayClient, GatewayUrl, Signer},
    protocol::conversation::Conversation,
    types::UserId,
};

/// The bounds, in milliseconds, between which the pause after each line is drawn.
const PAUSE: std::ops::Range<u64> = 1_000..2_000;
/// How many talks go on side by side.
const TALKS_AT_ONCE: usize = 3;
/// The first wait after Postgres was found to be away.
const AWAY_FIRST: Duration = Duration::from_millis(200);
/// The longest wait, so that people talk again soon after Postgres is back.
const AWAY_MAX: Duration = Duration::from_secs(2);

/// How long a call of the gateway may take. Nobody in a conversation waits for longer, and there is another way.
const CALL_WITHIN: Duration = Duration::from_secs(2);
/// How long the token of one call is good.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);
/// The share of lines that are said by the HTTP API.
const BY_GATEWAY: f64 = 0.5;
/// The share of answers after which the conversation is marked as read.
const MARKED: f64 = 0.5;

/// How long a chatter that was told to end may take; it has one statement or call under way at most.
const END_WITHIN: Duration = Duration::from_secs(5);

/// The chatter as a process of its own. Dropped, it ends by itself.
#[derive(Debug)]
pub struct Chatter {
    child: Child,
    /// Kept apart, since [`Child::wait`] closes what it finds in the child, and the chatter ends with its standard input.
    input: Option<ChildStdin>,
}

impl Chatter {
    /// Starts it. `command` is a program that calls [`run`] and knows the database and the gateway.
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

/// How the people of the demo reach the gateway.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Where it is.
    pub url: GatewayUrl,
    /// What signs their tokens.
    pub secret: Secret,
}

/// Talks until standard input ends; without a gateway by SQL only.
///
/// # Errors
/// Standard input is no pipe: nobody would ever end this.
///
/// # Cancel safety
/// Safe: a line is said as a whole or not at all.
pub async fn run(
    database_url: &str,
    gateway: Option<Gateway>,
    note: impl Fn(&dyn fmt::Display),
) -> io::Result<()> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let mut input = pipe::Receiver::from_owned_fd(input)?;
    let mut chatter = Conversations {
        talks: Talks::begin(&mut rand::rng()),
        entrance: gateway.map(|gateway| Entrance {
            gateway,
            is_away: false,
        }),
        note,
    };
    tokio::select! {
        never = chatter.talk_through_outages(database_url) => match never {},
        ended = async { input.read_to_end(&mut Vec::new()).await } => ended.map(|_| ()),
    }
}

/// Everything that is being talked about, and the ways to say it.
struct Conversations<N> {
    talks: Talks,
    entrance: Option<Entrance>,
    note: N,
}

impl<N: Fn(&dyn fmt::Display)> Conversations<N> {
    async fn talk_through_outages(&mut self, database_url: &str) -> Infallible {
        let mut backoff = Backoff::new(AWAY_FIRST, AWAY_MAX);
        loop {
            let said = self.talks.said;
            let Err(error) = self.talk(database_url).await;
            if self.talks.said > said {
                backoff.reset();
            }
            (self.note)(&format_args!(
                "the chatter waits for Postgres: {}",
                super::in_full(&error)
            ));
            tokio::time::sleep(backoff.next_delay(&mut rand::rng())).await;
        }
    }

    /// Talks over one connection until it breaks.
    async fn talk(&mut self, database_url: &str) -> Result<Infallible, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(database_url, NoTls).await?;
        tokio::select! {
            broken = self.say_on(&client) => broken,
            // The connection ends with an error when Postgres goes away, and in silence only when the client is dropped.
            Err(error) = connection => Err(error),
        }
    }

    async fn say_on(&mut self, client: &Client) -> Result<Infallible, tokio_postgres::Error> {
        let say = client.prepare(include_str!("../../sql/demo/say.sql")).await?;
        loop {
            let line = self.talks.next();
            let by_gateway = rand::rng().random_bool(BY_GATEWAY);
            if !(by_gateway && self.say_by_gateway(&line).await) {
                let product = line.product.map(Product::id);
                let (sender, receiver) = (line.sender.id(), line.receiver.id());
                client
                    .execute(&say, &[&line.id, &sender, &receiver, &product, &line.content])
                    .await?;
            }
            self.talks.said(&mut rand::rng());
            tokio::time::sleep(Duration::from_millis(rand::rng().random_range(PAUSE))).await;
            if line.answers && rand::rng().random_bool(MARKED) {
                self.mark_as_read(&line).await;
            }
        }
    }

    /// Whether the gateway took the line. If it did not, that is noted once, and so is its return.
    async fn say_by_gateway(&mut self, line: &Line) -> bool {
        let Some(entrance) = &mut self.entrance else {
            return false;
        };
        let said = entrance.say(line).await;
        entrance.has_answered(&said, &self.note)
    }

    /// The one who was answered has seen it.
    async fn mark_as_read(&mut self, line: &Line) {
        if let Some(entrance) = &mut self.entrance {
            let marked = entrance.mark(line).await;
            entrance.has_answered(&marked, &self.note);
        }
    }
}

/// The way in by the HTTP API.
#[derive(Debug)]
struct Entrance {
    gateway: Gateway,
    /// The last call was not answered as hoped.
    is_away: bool,
}

impl Entrance {
    fn client(&self, person: Person) -> Result<GatewayClient, CallError> {
        let signer = Signer {
            secret: self.gateway.secret.clone(),
            user: UserId(person.id()),
            audience: None,
            issuer: None,
            lifetime: TOKEN_LIFETIME,
        };
        GatewayClient::new(self.gateway.url.clone(), Credentials::Signed(signer))
    }

    async fn say(&self, line: &Line) -> Result<(), CallError> {
        let draft = Draft {
            id: line.id,
            content: line.content.to_owned(),
        };
        self.client(line.sender)?
            .send(line.conversation_with(line.receiver), &draft, CALL_WITHIN)
            .await?;
        Ok(())
    }

    async fn mark(&self, line: &Line) -> Result<(), CallError> {
        self.client(line.receiver)?
            .mark_as_read(line.conversation_with(line.sender), CALL_WITHIN)
            .await?;
        Ok(())
    }

    fn has_answered(&mut self, outcome: &Result<(), CallError>, note: impl Fn(&dyn fmt::Display)) -> bool {
        let was_away = std::mem::replace(&mut self.is_away, outcome.is_err());
        match outcome {
            Err(error) if !was_away => {
                note(&format_args!("the chatter goes on by SQL alone: {error}"));
            }
            Ok(()) if was_away => note(&"the chatter uses the gateway again"),
            _ => {}
        }
        outcome.is_ok()
    }
}

/// What somebody says to somebody.
#[derive(Clone, Copy, Debug)]
struct Line {
    id: Uuid,
    sender: Person,
    receiver: Person,
    product: Option<Product>,
    content: &'static str,
    /// Whether the one who hears it has said something before.
    answers: bool,
}

impl Line {
    fn conversation_with(&self, other: Person) -> Conversation {
        Conversation {
            other: UserId(other.id()),
            product: self.product.map(Product::id),
        }
    }
}

/// The talks that go on, and whose turn it is.
#[derive(Debug)]
struct Talks {
    going_on: [(Scene, usize); TALKS_AT_ONCE],
    turn: usize,
    /// The id of the line that is to be said next.
    id: Uuid,
    said: u64,
}

impl Talks {
    fn begin(random: &mut impl Rng) -> Self {
        Self {
            going_on: std::array::from_fn(|_| (new_scene(random), 0)),
            turn: 0,
            id: Uuid::new_v4(),
            said: 0,
        }
    }

    /// What is to be said next; the same until [`Talks::said`].
    fn next(&self) -> Line {
        let (scene, line) = self.going_on[self.turn];
        let (speaker, content) = scene.talk.lines[line];
        let (sender, receiver) = scene.sender_and_receiver(speaker);
        Line {
            id: self.id,
            sender,
            receiver,
            product: scene.product,
            content,
            answers: scene.talk.lines[..line]
                .iter()
                .any(|(former, _)| *former != speaker),
        }
    }

    fn said(&mut self, random: &mut impl Rng) {
        let (scene, line) = &mut self.going_on[self.turn];
        *line += 1;
        if *line == scene.talk.lines.len() {
            (*scene, *line) = (new_scene(random), 0);
        }
        self.turn = random.random_range(0..TALKS_AT_ONCE);
        self.id = Uuid::new_v4();
        self.said += 1;
    }
}

/// Any scene; the bound is far beyond where every talk has met every pair.
fn new_scene(random: &mut impl Rng) -> Scene {
    Scene::of(random.random_range(0..1_000_000))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn each_talk_goes_line_by_line_and_a_new_one_follows() {
        let mut random = StdRng::seed_from_u64(1);
        let mut talks = Talks::begin(&mut random);
        let mut ended = 0;
        let mut ids = HashSet::new();
        for _ in 0..1_000 {
            let turn = talks.turn;
            let (before, number) = talks.going_on[turn];
            let line = talks.next();
            assert_eq!(line.content, before.talk.lines[number].1);
            assert!(number > 0 || !line.answers);
            // Said again, it is the same line.
            assert_eq!(line.id, talks.next().id);
            assert!(ids.insert(line.id));
            talks.said(&mut random);
            let (_, next) = talks.going_on[turn];
            if number + 1 == before.talk.lines.len() {
                ended += 1;
                assert_eq!(next, 0);
            } else {
                assert_eq!(next, number + 1);
            }
        }
        assert!(ended > 100, "{ended}");
    }
}
