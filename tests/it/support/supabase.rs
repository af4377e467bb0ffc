//! The real clients of Supabase Realtime, in a Node process that is driven by lines of JSON: `tests/supabase/driver.mjs` has the
//! commands and the events.

use std::{
    collections::{HashMap, VecDeque},
    fs,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use herald::tasks::Tasks;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::{database::AT_MOST, gateway::SECRET};

/// What `package.json` installs.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/supabase");

/// The most events of one driver: far more than any test means, so that what runs away fails.
const EVENTS_MAX: usize = 1_000_000;

/// How many lines are shown when something was awaited in vain.
const SHOWN: usize = 40;

/// A key as projects of Supabase have had them since 2025: it says nothing about its bearer.
pub(crate) const PUBLISHABLE_KEY: &str = "sb_publishable_x";

/// A key as older projects have it: a token of nobody's, with ten years to live.
pub(crate) fn anon_key() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let ten_years = 10 * 365 * 24 * 3600;
    signed(&json!({"role": "anon", "iss": "supabase", "iat": now, "exp": now + ten_years}))
}

/// A token with these claims, signed with the secret of all gateways here.
pub(crate) fn signed(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

/// The newest version of the clients; it speaks `vsn` 2.0.0, by a fork of Phoenix's own client.
pub(crate) const NEWEST: &str = "2.119";
/// The first version that speaks `vsn` 2.0.0 unasked, by a socket of its own.
pub(crate) const MIDDLE: &str = "2.91";
/// A version that many pages still have; it speaks `vsn` 1.0.0.
pub(crate) const OLDEST: &str = "2.84";

/// Which of the two packages of Supabase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Library {
    /// `@supabase/realtime-js`, whose user gives it a token.
    Realtime,
    /// `@supabase/supabase-js`, which brings a token by itself.
    Supabase,
}

/// A client package.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    pub(crate) library: Library,
    pub(crate) version: &'static str,
}

impl Package {
    pub(crate) const fn realtime(version: &'static str) -> Self {
        Self {
            library: Library::Realtime,
            version,
        }
    }

    pub(crate) const fn supabase(version: &'static str) -> Self {
        Self {
            library: Library::Supabase,
            version,
        }
    }

    /// Its name in `package.json`.
    fn name(self) -> String {
        let library = match self.library {
            Library::Realtime => "realtime-js",
            Library::Supabase => "supabase-js",
        };
        format!("{library}-{}", self.version)
    }

    /// What its constructor is given as the address.
    pub(crate) fn url(self, gateway: SocketAddr) -> String {
        match self.library {
            Library::Realtime => format!("ws://{gateway}/realtime/v1"),
            Library::Supabase => format!("http://{gateway}"),
        }
    }

    /// Whether its broadcasts may be bytes: they need `vsn` 2.0.0.
    pub(crate) fn sends_bytes(self) -> bool {
        self.version != OLDEST
    }
}

/// How a client is made.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    package: Package,
    command: Value,
}

impl Settings {
    /// With the anonymous key, and without a token.
    pub(crate) fn new(package: Package, gateway: SocketAddr) -> Self {
        let command = json!({
            "package": package.name(),
            "url": package.url(gateway),
            "key": anon_key(),
            "options": {},
        });
        Self { package, command }
    }

    /// With another key.
    pub(crate) fn key(mut self, key: &str) -> Self {
        self.command["key"] = json!(key);
        self
    }

    /// With a callback that answers with this token, at once or after so many milliseconds.
    pub(crate) fn callback(mut self, token: &str, delay_ms: Option<u64>) -> Self {
        self.command["token"] = json!({"value": token});
        if let Some(delay_ms) = delay_ms {
            self.command["token"]["delayMs"] = json!(delay_ms);
        }
        self
    }

    /// With an option of a `RealtimeClient`.
    pub(crate) fn option(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.command["options"][name] = value.into();
        self
    }

    /// With a report of each frame.
    pub(crate) fn frames(mut self) -> Self {
        self.command["frames"] = json!(true);
        self
    }
}

/// Client, channel and kind of what happened; what concerns no client or no channel has an empty name there.
type Stream = (String, String, String);

#[derive(Default)]
struct Heard {
    streams: HashMap<Stream, Vec<Value>>,
    answers: HashMap<u64, Result<Value, String>>,
    count: usize,
    last: VecDeque<String>,
    has_ended: bool,
}

impl Heard {
    fn take(&mut self, line: &str) {
        let mut value: Value = serde_json::from_str(line).unwrap();
        if self.last.len() == SHOWN {
            self.last.pop_front();
        }
        self.last.push_back(line.chars().take(400).collect());
        if let Some(id) = value["id"].as_u64() {
            let answer = match value["error"].as_str() {
                Some(error) => Err(error.to_owned()),
                None => Ok(value["ok"].take()),
            };
            self.answers.insert(id, answer);
            return;
        }
        let part = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let stream = (part("client"), part("channel"), part("event"));
        self.count += 1;
        assert!(self.count <= EVENTS_MAX, "the driver reports without end");
        self.streams.entry(stream).or_default().push(value);
    }
}

/// The conversation with the process.
struct Link {
    input: tokio::sync::Mutex<ChildStdin>,
    heard: Mutex<Heard>,
    grew: Notify,
    next_id: AtomicU64,
    folder: TempDir,
}

impl Link {
    async fn read(self: Arc<Self>, mut lines: Lines<BufReader<ChildStdout>>) {
        while let Ok(Some(line)) = lines.next_line().await {
            self.heard.lock().unwrap().take(&line);
            self.grew.notify_waiters();
        }
        self.heard.lock().unwrap().has_ended = true;
        self.grew.notify_waiters();
    }

    /// Waits for something in what was heard.
    async fn until<T>(&self, what: &str, find: impl FnMut(&mut Heard) -> Option<T>) -> T {
        self.until_within(AT_MOST, what, find).await
    }

    /// The same, and gives up when nothing was heard for [`AT_MOST`], or it took too long altogether.
    async fn until_within<T>(
        &self,
        altogether: Duration,
        what: &str,
        mut find: impl FnMut(&mut Heard) -> Option<T>,
    ) -> T {
        let end = Instant::now() + altogether;
        loop {
            let deadline = end.min(Instant::now() + AT_MOST);
            let mut grew = std::pin::pin!(self.grew.notified());
            grew.as_mut().enable();
            let has_ended = {
                let mut heard = self.heard.lock().unwrap();
                if let Some(found) = find(&mut heard) {
                    return found;
                }
                heard.has_ended
            };
            if has_ended || timeout_at(deadline, grew).await.is_err() {
                self.fail(what, has_ended);
            }
        }
    }

    fn fail(&self, what: &str, has_ended: bool) -> ! {
        let last = self
            .heard
            .lock()
            .map(|heard| heard.last.clone())
            .unwrap_or_default();
        let last = Vec::from(last).join("\n");
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let why = if has_ended {
            "the driver has ended"
        } else {
            "it did not come in time"
        };
        panic!(
            "in vain it was waited for {what}: {why}. The last lines:\n{last}\nIts standard error:\n{log}"
        );
    }

    /// Sends a command, and waits for its answer.
    async fn ask(&self, mut command: Value) -> Result<Value, String> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        command["id"] = json!(id);
        let what = format!("the answer to {}", command["do"]);
        let line = format!("{command}\n");
        self.input.lock().await.write_all(line.as_bytes()).await.unwrap();
        self.until(&what, |heard| heard.answers.remove(&id)).await
    }

    /// Sends a command that has to succeed.
    async fn tell(&self, command: Value) -> Value {
        let what = command["do"].clone();
        match self.ask(command).await {
            Ok(answer) => answer,
            Err(error) => panic!("{what} failed: {error}"),
        }
    }
}

/// The Node process, with any number of clients in it. Dropped, it is killed.
pub(crate) struct Driver {
    link: Arc<Link>,
    clients: AtomicU64,
    _child: Child,
}

impl Driver {
    /// Starts it.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts it with a page around its clients.
    pub(crate) fn start_with_page() -> Self {
        Self::start_with(&["page"])
    }

    fn start_with(words: &[&str]) -> Self {
        assert!(
            Path::new(FOLDER).join("node_modules").exists(),
            "the clients of Supabase are not installed; `script/test` installs them (`npm ci --ignore-scripts` in {FOLDER})"
        );
        let folder = tempfile::tempdir().unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut child = Command::new("node")
            .arg("driver.mjs")
            .args(words)
            .current_dir(FOLDER)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("Node does not start; `script/test` installs it, or says how");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let link = Arc::new(Link {
            input: tokio::sync::Mutex::new(child.stdin.take().unwrap()),
            heard: Mutex::default(),
            grew: Notify::new(),
            next_id: AtomicU64::new(1),
            folder,
        });
        Tasks::new().spawn("driver", Arc::clone(&link).read(lines));
        Self {
            link,
            clients: AtomicU64::new(0),
            _child: child,
        }
    }

    /// Does with the page what a browser does.
    pub(crate) async fn page(&self, to: &str) {
        self.link.tell(json!({"do": "page", "to": to})).await;
    }

    /// Makes a client, which does not connect before its first channel.
    pub(crate) async fn client(&self, settings: Settings) -> Client {
        let number = self.clients.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}#{number}", settings.package.name());
        let mut command = settings.command;
        command["do"] = json!("create");
        command["client"] = json!(name);
        self.link.tell(command).await;
        Client {
            link: Arc::clone(&self.link),
            name,
        }
    }

    /// Makes a group of clients with one channel each; comes back when each of them has had its first status. `channel` has the
    /// fields of a subscription, the channel's name, and perhaps `variants`.
    pub(crate) async fn many(&self, name: &str, count: usize, settings: &Settings, channel: &Value) -> Group {
        let mut command = settings.command.clone();
        for (field, value) in channel.as_object().unwrap() {
            command[field] = value.clone();
        }
        command["do"] = json!("many");
        command["group"] = json!(name);
        command["count"] = json!(count);
        self.link.tell(command).await;
        Group {
            link: Arc::clone(&self.link),
            name: name.to_owned(),
        }
    }

    /// Fails if a client threw an exception that nobody caught, or rejected a promise that nobody watched.
    pub(crate) async fn nothing_uncaught(&self) {
        let stats = self.link.tell(json!({"do": "stats"})).await;
        assert_eq!(stats["uncaught"], json!([]), "the clients threw");
    }
}

/// A client.
pub(crate) struct Client {
    link: Arc<Link>,
    pub(crate) name: String,
}

impl Client {
    fn command(&self, name: &str) -> Value {
        json!({"do": name, "client": self.name})
    }

    /// Subscribes to a channel. `subscription` has what the driver takes: `config`, `changes`, `broadcasts`, `presence`.
    pub(crate) async fn subscribe(&self, channel: &str, subscription: &Value) -> Channel {
        let mut command = self.command("subscribe");
        for (field, value) in subscription.as_object().unwrap() {
            command[field] = value.clone();
        }
        command["channel"] = json!(channel);
        let channel = self.channel(channel);
        self.link.tell(command).await;
        channel
    }

    /// A channel by its name. What happened before is passed over.
    pub(crate) fn channel(&self, channel: &str) -> Channel {
        let heard = self.link.heard.lock().unwrap();
        let of_channel = heard
            .streams
            .iter()
            .filter(|((of, name, _), _)| *of == self.name && name == channel);
        Channel {
            positions: of_channel
                .map(|((_, _, kind), events)| (kind.clone(), events.len()))
                .collect(),
            link: Arc::clone(&self.link),
            client: self.name.clone(),
            name: channel.to_owned(),
        }
    }

    /// Sets its token; without one it asks its callback.
    pub(crate) async fn set_auth(&self, token: Option<&str>) {
        let mut command = self.command("setAuth");
        if let Some(token) = token {
            command["token"] = json!(token);
        }
        self.link.tell(command).await;
    }

    /// Changes what its callback answers.
    pub(crate) async fn callback_answers(&self, token: &str) {
        let mut command = self.command("token");
        command["value"] = json!(token);
        self.link.tell(command).await;
    }

    /// Disconnects; it does not come back by itself.
    pub(crate) async fn disconnect(&self) {
        self.link.tell(self.command("disconnect")).await;
    }

    /// Connects again after [`Self::disconnect`].
    pub(crate) async fn connect(&self) {
        self.link.tell(self.command("connect")).await;
    }

    /// Leaves all channels, disconnects, and is gone.
    pub(crate) async fn close(self) {
        self.link.tell(self.command("close")).await;
    }

    /// All that happened to it of one kind, and not to one of its channels: `socket`, `heartbeat`, `token`, `frame`.
    pub(crate) fn all(&self, kind: &str) -> Vec<Value> {
        let stream = (self.name.clone(), String::new(), kind.to_owned());
        let heard = self.link.heard.lock().unwrap();
        heard.streams.get(&stream).cloned().unwrap_or_default()
    }

    /// Waits until so many things of one kind that pass have happened to it, from its beginning on.
    pub(crate) async fn until(&self, kind: &str, count: usize, passes: impl Fn(&Value) -> bool) {
        let stream = (self.name.clone(), String::new(), kind.to_owned());
        let what = format!("{kind} of {}, {count} times", self.name);
        self.link
            .until(&what, |heard| {
                let events = heard.streams.get(&stream)?;
                (events.iter().filter(|event| passes(event)).count() >= count).then_some(())
            })
            .await;
    }

    /// Waits until its socket has been open so many times.
    pub(crate) async fn opened(&self, count: usize) {
        self.until("socket", count, |event| event["state"] == "open")
            .await;
    }

    /// Waits until its socket has been closed so many times.
    pub(crate) async fn closed(&self, count: usize) {
        self.until("socket", count, |event| event["state"] == "closed")
            .await;
    }

    /// The frames of text that it sent with this event in them; it has to report frames.
    pub(crate) fn sent(&self, event: &str) -> Vec<String> {
        let event = format!("\"{event}\"");
        let frames = self.all("frame").into_iter();
        let texts = frames
            .filter(|frame| frame["from"] == "client")
            .filter_map(|frame| frame["text"].as_str().map(str::to_owned));
        texts.filter(|text| text.contains(&event)).collect()
    }
}

/// A channel of a client. Each kind of event is taken one by one, in the order in which they happened.
pub(crate) struct Channel {
    link: Arc<Link>,
    client: String,
    pub(crate) name: String,
    positions: HashMap<String, usize>,
}

impl Channel {
    fn command(&self, name: &str) -> Value {
        json!({"do": name, "client": self.client, "channel": self.name})
    }

    fn stream(&self, kind: &str) -> Stream {
        (self.client.clone(), self.name.clone(), kind.to_owned())
    }

    /// The next event of a kind: `status`, `change`, `broadcast`, `presence`, `system`.
    pub(crate) async fn next(&mut self, kind: &str) -> Value {
        let stream = self.stream(kind);
        let position = self.positions.entry(kind.to_owned()).or_default();
        let what = format!("{kind} {position} of {} in {}", self.client, self.name);
        let find = |heard: &mut Heard| heard.streams.get(&stream)?.get(*position).cloned();
        let event = self.link.until(&what, find).await;
        *position += 1;
        event
    }

    /// The next event of a kind that passes; those before it are passed over.
    pub(crate) async fn next_where(&mut self, kind: &str, passes: impl Fn(&Value) -> bool) -> Value {
        loop {
            let event = self.next(kind).await;
            if passes(&event) {
                return event;
            }
        }
    }

    /// How many events of a kind there were, taken or not, and in all channels of this name that the client has had.
    pub(crate) fn count(&self, kind: &str) -> usize {
        let heard = self.link.heard.lock().unwrap();
        heard.streams.get(&self.stream(kind)).map_or(0, Vec::len)
    }

    /// The next status has to be that it is subscribed.
    pub(crate) async fn subscribed(&mut self) {
        let status = self.next("status").await;
        assert_eq!(status["status"], "SUBSCRIBED", "{status}");
    }

    /// Waits until it is subscribed again after something else.
    pub(crate) async fn subscribed_again(&mut self) {
        self.next_where("status", |event| event["status"] != "SUBSCRIBED")
            .await;
        self.next_where("status", |event| event["status"] == "SUBSCRIBED")
            .await;
    }

    /// Waits for a status that is an error, and answers with what it says.
    pub(crate) async fn error(&mut self) -> String {
        let status = self
            .next_where("status", |event| event["status"] != "SUBSCRIBED")
            .await;
        assert_eq!(status["status"], "CHANNEL_ERROR", "{status}");
        status["error"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the gateway says that changes are delivered from now on.
    pub(crate) async fn live(&mut self) {
        let event = self.next("system").await;
        let expected = json!({
            "message": "Subscribed to PostgreSQL",
            "status": "ok",
            "extension": "postgres_changes",
            "channel": self.name,
        });
        assert_eq!(event["payload"], expected);
    }

    /// The payload of the next change.
    pub(crate) async fn change(&mut self) -> Value {
        self.next("change").await["payload"].take()
    }

    /// What the next messages that were inserted say.
    pub(crate) async fn contents(&mut self, count: usize) -> Vec<String> {
        let mut contents = Vec::new();
        for _ in 0..count {
            let change = self.change().await;
            contents.push(change["new"]["content"].as_str().expect("a message").to_owned());
        }
        contents
    }

    /// Sends a broadcast, and answers with what the client says about it: `ok`, `timed out` or `error`.
    pub(crate) async fn send(&self, event: &str, payload: &Value) -> Value {
        let mut command = self.command("send");
        command["of"] = json!(event);
        command["payload"] = payload.clone();
        self.link.tell(command).await
    }

    /// As [`Self::send`], of bytes.
    pub(crate) async fn send_bytes(&self, event: &str, bytes: &[u8]) -> Value {
        let mut command = self.command("send");
        command["of"] = json!(event);
        command["bytes"] = json!(BASE64_STANDARD.encode(bytes));
        self.link.tell(command).await
    }

    /// Sends a broadcast over HTTP; an error is what the client threw.
    pub(crate) async fn http_send(&self, event: &str, payload: &Value) -> Result<Value, String> {
        let mut command = self.command("httpSend");
        command["of"] = json!(event);
        command["payload"] = payload.clone();
        self.link.ask(command).await
    }

    /// Tells who is here, and answers as [`Self::send`].
    pub(crate) async fn track(&self, payload: &Value) -> Value {
        let mut command = self.command("track");
        command["payload"] = payload.clone();
        self.link.tell(command).await
    }

    /// Takes back what [`Self::track`] told.
    pub(crate) async fn untrack(&self) -> Value {
        self.link.tell(self.command("untrack")).await
    }

    /// Who is here, as the client knows it.
    pub(crate) async fn presence_state(&self) -> Value {
        self.link.tell(self.command("presenceState")).await
    }

    /// Leaves the channel.
    pub(crate) async fn unsubscribe(&self) -> Value {
        self.link.tell(self.command("unsubscribe")).await
    }

    /// Leaves the channel, and has the client forget it.
    pub(crate) async fn remove(self) -> Value {
        self.link.tell(self.command("removeChannel")).await
    }
}

/// Many clients with one channel each.
pub(crate) struct Group {
    link: Arc<Link>,
    name: String,
}

impl Group {
    /// The sums as they are now.
    pub(crate) async fn sums(&self) -> Value {
        self.link.tell(json!({"do": "group", "group": self.name})).await
    }

    /// As [`Self::sums`], with `wrong`: how many heard anything else than these messages in this order.
    pub(crate) async fn heard(&self, ids: &[String]) -> Value {
        let command = json!({"do": "group", "group": self.name, "ids": ids});
        self.link.tell(command).await
    }

    /// Waits until the sums pass.
    pub(crate) async fn until(&self, what: &str, passes: impl Fn(&Value) -> bool) -> Value {
        let stream = (String::new(), String::new(), "group".to_owned());
        // Their reports come late, so the sums of this moment are asked for first.
        let now = self.sums().await;
        if passes(&now) {
            return now;
        }
        // A report is of a change: thousands of clients on a busy machine take their time, and it is well as long as they get on.
        self.link
            .until_within(10 * AT_MOST, what, |heard| {
                let events = heard.streams.get(&stream)?;
                let newest = events.iter().rev().find(|event| event["group"] == self.name)?;
                passes(newest).then(|| newest.clone())
            })
            .await
    }

    /// Disconnects all of them.
    pub(crate) async fn close(self) {
        self.link
            .tell(json!({"do": "closeGroup", "group": self.name}))
            .await;
    }
}
