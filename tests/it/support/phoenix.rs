//! A client of Phoenix channels that says every frame itself, where Supabase's own clients would not: it can leave pings
//! unanswered, read nothing, send garbage, and go in each of the ways in which a connection ends.
//!
//! A task reads what comes and answers pings at once, as a browser does whatever its page is busy with.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use herald::tasks::Tasks;
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    database::AT_MOST,
    http::{self, Answer},
    supabase::anon_key,
};

/// The most messages that wait to be looked at: far more than any test means, so that what runs away fails.
const CAME_MAX: usize = 200_000;

/// The kinds of WebSocket frames (RFC 6455 §5.2).
pub(crate) mod opcode {
    pub(crate) const TEXT: u8 = 1;
    pub(crate) const BINARY: u8 = 2;
    pub(crate) const CLOSE: u8 = 8;
    pub(crate) const PING: u8 = 9;
    pub(crate) const PONG: u8 = 10;
}

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// `vsn=1.0.0`.
    Objects,
    /// `vsn=2.0.0`.
    Arrays,
}

impl Version {
    pub(crate) const BOTH: [Self; 2] = [Self::Objects, Self::Arrays];

    const fn number(self) -> &'static str {
        match self {
            Self::Objects => "1.0.0",
            Self::Arrays => "2.0.0",
        }
    }

    fn write(
        self,
        join_reference: Option<&str>,
        reference: &str,
        topic: &str,
        event: &str,
        payload: &Value,
    ) -> String {
        match self {
            Self::Objects => json!({"topic": topic, "event": event, "payload": payload, "ref": reference,
                "join_ref": join_reference}),
            Self::Arrays => json!([join_reference, reference, topic, event, payload]),
        }
        .to_string()
    }

    fn read(self, text: &str) -> Said {
        let value: Value = serde_json::from_str(text).unwrap();
        let part = |name: &str, index: usize| match self {
            Self::Objects => value[name].clone(),
            Self::Arrays => value[index].clone(),
        };
        match self {
            Self::Objects => assert!(value.is_object(), "{text}"),
            Self::Arrays => assert_eq!(value.as_array().map(Vec::len), Some(5), "{text}"),
        }
        let payload = part("payload", 4);
        assert!(payload.is_object(), "clients stumble over it: {text}");
        Said {
            join_reference: part("join_ref", 0).as_str().map(str::to_owned),
            reference: part("ref", 1).as_str().map(str::to_owned),
            topic: part("topic", 2).as_str().unwrap().to_owned(),
            event: part("event", 3).as_str().unwrap().to_owned(),
            payload,
            text: text.to_owned(),
        }
    }
}

/// A message of the gateway's.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) join_reference: Option<String>,
    pub(crate) reference: Option<String>,
    pub(crate) topic: String,
    pub(crate) event: String,
    pub(crate) payload: Value,
    /// As it was on the wire.
    pub(crate) text: String,
}

impl Said {
    /// What the message that was inserted or updated says.
    pub(crate) fn content(&self) -> String {
        self.payload["data"]["record"]["content"]
            .as_str()
            .unwrap_or_else(|| panic!("no content: {}", self.text))
            .to_owned()
    }

    /// The response of an answer with this status.
    pub(crate) fn response(&self, status: &str) -> &Value {
        assert_eq!(self.payload["status"], status, "{}", self.text);
        &self.payload["response"]
    }

    /// Why it was refused.
    pub(crate) fn reason(&self) -> &str {
        self.response("error")["reason"].as_str().unwrap()
    }

    /// Of a broadcast in a binary frame: `04`, the lengths of topic, event and metadata, the encoding, and then these.
    fn read_binary(frame: &[u8]) -> Self {
        let [4, topic, event, metadata, encoding, rest @ ..] = frame else {
            panic!("no broadcast: {frame:?}")
        };
        let (topic, rest) = rest.split_at((*topic).into());
        let (event, rest) = rest.split_at((*event).into());
        let payload = &rest[usize::from(*metadata)..];
        let payload = match encoding {
            1 => serde_json::from_slice(payload).unwrap(),
            _ => json!(payload),
        };
        Self {
            join_reference: None,
            reference: None,
            topic: String::from_utf8(topic.to_vec()).unwrap(),
            event: "broadcast".to_owned(),
            payload: json!({"type": "broadcast", "event": std::str::from_utf8(event).unwrap(), "payload": payload}),
            text: String::new(),
        }
    }
}

/// What came out of a connection.
#[derive(Debug)]
pub(crate) enum Came {
    Said(Box<Said>),
    /// The gateway closed, with this code.
    Closed(u16),
    /// The connection ended without a close frame, or after it.
    Ended,
}

/// Where a client connects, and with what.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    path: &'static str,
    query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    version: Version,
}

impl Door {
    /// With the anonymous key and version 2.0.0.
    pub(crate) fn new(address: SocketAddr) -> Self {
        let version = Version::Arrays;
        Self {
            address,
            path: "/realtime/v1/websocket",
            query: vec![("apikey", anon_key()), ("vsn", version.number().to_owned())],
            headers: Vec::new(),
            version,
        }
    }

    pub(crate) const fn path(mut self, path: &'static str) -> Self {
        self.path = path;
        self
    }

    pub(crate) fn version(self, version: Version) -> Self {
        Self {
            version,
            ..self.parameter("vsn", Some(version.number()))
        }
    }

    /// Sets or leaves out a parameter of the query string. Its value has to be plain.
    pub(crate) fn parameter(mut self, name: &'static str, value: Option<&str>) -> Self {
        self.query.retain(|(known, _)| *known != name);
        self.query.extend(value.map(|value| (name, value.to_owned())));
        self
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.parameter("apikey", Some(key))
    }

    pub(crate) fn device(self, device: &str) -> Self {
        self.parameter("device", Some(device))
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// The request that opens the socket.
    pub(crate) fn request(&self) -> String {
        let query: Vec<String> = self
            .query
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut headers = vec![
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        headers.extend(self.headers.iter().map(|(name, value)| (*name, value.as_str())));
        http::request("GET", &format!("{}?{}", self.path, query.join("&")), &headers)
    }

    /// How it is refused.
    pub(crate) async fn refused(&self) -> Answer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        self.refused_on(stream).await
    }

    /// How it is refused on a connection of one's own.
    pub(crate) async fn refused_on(&self, mut stream: TcpStream) -> Answer {
        stream.write_all(self.request().as_bytes()).await.unwrap();
        http::read(&mut stream)
            .await
            .expect("the connection ended without an answer")
    }

    /// Opens a socket.
    pub(crate) async fn open(&self) -> Phoenix {
        self.try_open()
            .await
            .expect("the gateway did not let the client in")
    }

    /// Opens a socket, if the gateway is there and lets it in.
    pub(crate) async fn try_open(&self) -> Option<Phoenix> {
        let mut stream = TcpStream::connect(self.address).await.ok()?;
        stream.write_all(self.request().as_bytes()).await.ok()?;
        let mut read = Vec::new();
        let head = async {
            loop {
                if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                    return Some(read.split_off(end + 4));
                }
                if stream.read_buf(&mut read).await.ok()? == 0 {
                    return None;
                }
            }
        };
        let rest = timeout(AT_MOST, head).await.expect("no answer")?;
        read.starts_with(b"HTTP/1.1 101 ")
            .then(|| Phoenix::over(stream, rest, self.version))
    }
}

/// What the client and the task that reads for it share.
struct Shared {
    version: Version,
    writer: Mutex<Writer>,
    answers_pings: AtomicBool,
    /// Whether anything is read.
    reads: watch::Sender<bool>,
    /// Cancelled when the client wants to close.
    closes: CancellationToken,
}

struct Writer {
    half: OwnedWriteHalf,
    /// Whether the close frame has been sent; nothing may follow it.
    has_closed: bool,
}

impl Writer {
    async fn frame(&mut self, opcode: u8, payload: &[u8]) {
        if self.has_closed {
            return;
        }
        self.has_closed = opcode == opcode::CLOSE;
        // The other side may be gone, which is seen where it is read.
        let _gone = self.half.write_all(&encode(opcode, payload)).await;
    }
}

/// A frame as a client sends it: masked (RFC 6455 §5.3), by a mask that is the same each time.
pub(crate) fn encode(opcode: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x5a, 0x01, 0xff, 0x37];
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..0x1_0000 => {
            frame.push(0xfe);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(0xff);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

/// An open connection.
pub(crate) struct Phoenix {
    shared: Arc<Shared>,
    came: mpsc::Receiver<Came>,
    /// What came and nobody has asked for yet.
    waiting: VecDeque<Said>,
    /// The reference of the last message. Clients count on when they connect again.
    pub(crate) reference: u64,
    tasks: Tasks,
}

impl Phoenix {
    fn over(stream: TcpStream, rest: Vec<u8>, version: Version) -> Self {
        stream.set_nodelay(true).unwrap();
        let (reading, half) = stream.into_split();
        let writer = Writer {
            half,
            has_closed: false,
        };
        let shared = Arc::new(Shared {
            version,
            writer: Mutex::new(writer),
            answers_pings: AtomicBool::new(true),
            reads: watch::Sender::new(true),
            closes: CancellationToken::new(),
        });
        let (sender, came) = mpsc::channel(CAME_MAX);
        let tasks = Tasks::new();
        let reader = Reader {
            shared: Arc::clone(&shared),
            reading,
            bytes: rest,
            came: sender,
            is_proved: true,
        };
        let stopping = tasks.stopping();
        tasks.spawn("phoenix client", async move {
            let _stopped = stopping.run_until_cancelled(reader.run()).await;
        });
        Self {
            shared,
            came,
            waiting: VecDeque::new(),
            reference: 0,
            tasks,
        }
    }

    /// The same client on a new connection: it counts on.
    pub(crate) fn counting_from(mut self, reference: u64) -> Self {
        self.reference = reference;
        self
    }

    /// From now on pings are left unanswered, as by a peer that has left without a word.
    pub(crate) fn leave_pings_unanswered(&self) {
        self.shared.answers_pings.store(false, Ordering::SeqCst);
    }

    /// From now on nothing is read.
    pub(crate) fn stop_reading(&self) {
        self.shared.reads.send_replace(false);
    }

    /// Reads on.
    pub(crate) fn read_on(&self) {
        self.shared.reads.send_replace(true);
    }

    /// Sends a frame.
    pub(crate) async fn send(&self, opcode: u8, payload: &[u8]) {
        self.shared.writer.lock().await.frame(opcode, payload).await;
    }

    /// Sends bytes that need be no frame.
    pub(crate) async fn send_raw(&self, bytes: &[u8]) {
        let _gone = self.shared.writer.lock().await.half.write_all(bytes).await;
    }

    /// Pushes a message, and answers with its reference.
    pub(crate) async fn push(
        &mut self,
        join_reference: Option<&str>,
        topic: &str,
        event: &str,
        payload: &Value,
    ) -> String {
        self.reference += 1;
        let reference = self.reference.to_string();
        let text = self
            .shared
            .version
            .write(join_reference, &reference, topic, event, payload);
        self.send(opcode::TEXT, text.as_bytes()).await;
        reference
    }

    /// Pushes a join, and answers with its reference.
    pub(crate) async fn push_join(&mut self, topic: &str, payload: &Value) -> String {
        let reference = (self.reference + 1).to_string();
        self.push(Some(&reference), topic, "phx_join", payload).await
    }

    /// Joins a topic, and answers with the answer.
    pub(crate) async fn join(&mut self, topic: &str, payload: &Value) -> Said {
        let reference = self.push_join(topic, payload).await;
        self.reply(&reference).await
    }

    /// Joins a topic, and answers with the reference of the join as soon as its changes are live.
    pub(crate) async fn join_live(&mut self, topic: &str, payload: &Value) -> String {
        let reference = self.push_join(topic, payload).await;
        self.reply(&reference).await.response("ok");
        self.live(topic).await;
        reference
    }

    /// Waits until a topic's changes are live.
    pub(crate) async fn live(&mut self, topic: &str) {
        let system = self.next(topic, "system").await;
        let told = (&system.payload["status"], &system.payload["extension"]);
        assert_eq!(
            told,
            (&json!("ok"), &json!("postgres_changes")),
            "{}",
            system.text
        );
    }

    /// Waits for the answer to a message.
    pub(crate) async fn reply(&mut self, reference: &str) -> Said {
        self.next_where(&format!("the answer to {reference}"), |said| {
            said.event == "phx_reply" && said.reference.as_deref() == Some(reference)
        })
        .await
    }

    /// Waits for the next message of this event on a topic. Others are kept for who asks for them.
    pub(crate) async fn next(&mut self, topic: &str, event: &str) -> Said {
        self.next_where(&format!("{event} on {topic}"), |said| {
            said.topic == topic && said.event == event
        })
        .await
    }

    async fn next_where(&mut self, what: &str, is_wanted: impl Fn(&Said) -> bool) -> Said {
        if let Some(index) = self.waiting.iter().position(&is_wanted) {
            return self.waiting.remove(index).unwrap();
        }
        loop {
            let came = timeout(AT_MOST, self.came.recv());
            let Ok(came) = came.await else {
                panic!("in vain it was waited for {what}; there were {:?}", self.waiting);
            };
            match came {
                Some(Came::Said(said)) if is_wanted(&said) => return *said,
                Some(Came::Said(said)) => self.waiting.push_back(*said),
                other => panic!(
                    "{what} was expected and not {other:?}; there were {:?}",
                    self.waiting
                ),
            }
        }
    }

    /// The contents of the next changes on a topic.
    pub(crate) async fn contents(&mut self, topic: &str, count: usize) -> Vec<String> {
        let mut contents = Vec::with_capacity(count);
        while contents.len() < count {
            contents.push(self.next(topic, "postgres_changes").await.content());
        }
        contents
    }

    /// Waits until everything that the gateway had to say before has come: what it finds in the session's outbox is written
    /// behind its answer to the first heartbeat, and before the second one is read.
    pub(crate) async fn settled(&mut self) {
        for _ in 0..2 {
            let reference = self.push(None, "phoenix", "heartbeat", &json!({})).await;
            let reply = self.reply(&reference).await;
            assert_eq!(reply.response("ok"), &json!({}));
        }
    }

    /// What has come by now and nobody has asked for, of this event.
    pub(crate) async fn rest(&mut self, event: &str) -> Vec<Said> {
        self.settled().await;
        let (found, others) = self.waiting.drain(..).partition(|said| said.event == event);
        self.waiting = others;
        Vec::from_iter::<VecDeque<_>>(found)
    }

    /// Makes sure that no change has come by now that nobody has asked for.
    pub(crate) async fn no_more_changes(&mut self) {
        let rest = self.rest("postgres_changes").await;
        assert!(rest.is_empty(), "{rest:?}");
    }

    /// Whatever comes next, other than what is waiting.
    pub(crate) async fn came(&mut self) -> Came {
        timeout(AT_MOST, self.came.recv())
            .await
            .expect("nothing came")
            .unwrap_or(Came::Ended)
    }

    /// Reads until the gateway closes: its code, and every message before it.
    pub(crate) async fn closed(&mut self) -> (u16, Vec<Said>) {
        let mut said: Vec<Said> = self.waiting.drain(..).collect();
        loop {
            match self.came().await {
                Came::Said(one) => said.push(*one),
                Came::Closed(code) => return (code, said),
                Came::Ended => panic!("the connection ended without a close frame; there were {said:?}"),
            }
        }
    }

    /// Closes as a page does, in a moment in which everything that has come was acknowledged, and answers with what had come
    /// and nobody had asked for. What comes after the close frame is thrown away, as browsers do.
    pub(crate) async fn close(mut self) -> Vec<Said> {
        self.shared.closes.cancel();
        let mut said: Vec<Said> = self.waiting.drain(..).collect();
        loop {
            match self.came().await {
                Came::Said(one) => said.push(*one),
                Came::Closed(_) | Came::Ended => return said,
            }
        }
    }

    /// Resets the connection, and answers with what had come and nobody had asked for.
    pub(crate) async fn reset(mut self) -> Vec<Said> {
        self.came.close();
        let mut said: Vec<Said> = self.waiting.drain(..).collect();
        while let Some(Came::Said(one)) = self.came.recv().await {
            said.push(*one);
        }
        let writer = self.shared.writer.lock().await;
        let stream: &TcpStream = writer.half.as_ref();
        SockRef::from(stream)
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
        said
    }
}

impl Drop for Phoenix {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

struct Reader {
    shared: Arc<Shared>,
    reading: OwnedReadHalf,
    bytes: Vec<u8>,
    came: mpsc::Sender<Came>,
    /// Whether every change that came stood before a ping that was answered.
    is_proved: bool,
}

impl Reader {
    async fn run(mut self) {
        let mut reads = self.shared.reads.subscribe();
        let mut has_closed = false;
        loop {
            if self.is_proved && self.shared.closes.is_cancelled() && !has_closed {
                has_closed = true;
                let code = 1000_u16.to_be_bytes();
                self.shared.writer.lock().await.frame(opcode::CLOSE, &code).await;
            }
            if reads.wait_for(|reads| *reads).await.is_err() {
                return;
            }
            let frame = tokio::select! {
                () = self.shared.closes.cancelled(), if !has_closed && self.is_proved => continue,
                _ = reads.wait_for(|reads| !*reads) => continue,
                frame = Self::frame(&mut self.reading, &mut self.bytes) => frame,
            };
            let Some((opcode, payload)) = frame else {
                let _gone = self.came.send(Came::Ended).await;
                return;
            };
            if let Some(came) = self.take(opcode, &payload, has_closed).await {
                let is_over = matches!(came, Came::Closed(_));
                if self.came.send(came).await.is_err() || is_over {
                    return;
                }
            }
        }
    }

    async fn take(&mut self, opcode: u8, payload: &[u8], has_closed: bool) -> Option<Came> {
        let said = match opcode {
            opcode::TEXT => self.shared.version.read(std::str::from_utf8(payload).unwrap()),
            opcode::BINARY => Said::read_binary(payload),
            opcode::PING => {
                if self.shared.answers_pings.load(Ordering::SeqCst) {
                    self.shared.writer.lock().await.frame(opcode::PONG, payload).await;
                    self.is_proved = true;
                }
                return None;
            }
            opcode::CLOSE => {
                self.shared
                    .writer
                    .lock()
                    .await
                    .frame(opcode::CLOSE, payload)
                    .await;
                let code = payload
                    .first_chunk()
                    .map_or(1005, |code| u16::from_be_bytes(*code));
                return Some(Came::Closed(code));
            }
            opcode::PONG => return None,
            other => panic!("a frame of kind {other}"),
        };
        // The gateway sends a ping behind these, and only behind these.
        let is_followed =
            said.event == "postgres_changes" || said.payload["message"] == "Subscribed to PostgreSQL";
        self.is_proved &= !is_followed;
        (!has_closed).then(|| Came::Said(Box::new(said)))
    }

    /// The next frame; nothing if the connection has ended. What was read stays if this is dropped.
    async fn frame(reading: &mut OwnedReadHalf, bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((length, head)) = length(bytes)
                && bytes.len() >= head + length
            {
                assert_eq!(bytes[0] & 0xf0, 0x80, "the gateway does not split frames");
                let opcode = bytes[0] & 0x0f;
                let payload = bytes[head..head + length].to_vec();
                bytes.drain(..head + length);
                return Some((opcode, payload));
            }
            if reading.read_buf(bytes).await.ok()? == 0 {
                return None;
            }
        }
    }
}

/// The length of the payload of the frame that begins here, and where it begins, if that has come.
fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    match *bytes.get(1)? {
        126 => Some((u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?).into(), 4)),
        127 => Some((
            usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).unwrap(),
            10,
        )),
        length => Some((length.into(), 2)),
    }
}
