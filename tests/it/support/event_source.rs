//! A client of the Server-Sent Events, as a program outside this repository would write it: a plain connection, chunks
//! (RFC 9112 §7.1) and lines.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use super::{http, socket::Heard};

/// Longer than anything a client waits for should take, so that what hangs fails.
const AT_MOST: Duration = Duration::from_secs(30);

/// What stood between two empty lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) event: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) retry: Option<u64>,
    pub(crate) data: Option<String>,
    /// How many comment lines there were.
    pub(crate) comments: usize,
}

impl Block {
    fn read(text: &str) -> Self {
        let mut block = Self::default();
        for line in text.split('\n') {
            match line.split_once(": ").unwrap_or((line, "")) {
                (":", "") => block.comments += 1,
                ("event", value) => block.event = Some(value.to_owned()),
                ("id", value) => block.id = Some(value.to_owned()),
                ("retry", value) => block.retry = Some(value.parse().unwrap()),
                ("data", value) => match &mut block.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    none => *none = Some(value.to_owned()),
                },
                other => panic!("no such field: {other:?}"),
            }
        }
        block
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.data.as_ref().expect("a block without data")).unwrap()
    }
}

/// What the connection brought.
#[derive(Debug)]
pub(crate) enum Came {
    Block(Block),
    /// The body ended as its encoding says.
    Ended,
    /// The connection ended before the body did.
    Broken,
}

/// An open event stream.
pub(crate) struct EventSource<S = TcpStream> {
    pub(crate) stream: S,
    head: String,
    /// As it came.
    raw: Vec<u8>,
    /// Without the chunks.
    text: Vec<u8>,
    blocks: VecDeque<Block>,
    has_ended: bool,
}

impl EventSource {
    /// Connects, and continues from a cursor as a browser does; the status if that is not 200.
    pub(crate) async fn open(address: SocketAddr, token: &str, cursor: Option<&str>) -> Result<Self, u16> {
        let stream = TcpStream::connect(address).await.map_err(|_| 0_u16)?;
        let bearer = format!("Bearer {token}");
        // Browsers take compressed answers; a stream must not become one.
        let mut headers = vec![
            ("Authorization", bearer.as_str()),
            ("Accept-Encoding", "gzip, br"),
        ];
        headers.extend(cursor.map(|cursor| ("Last-Event-ID", cursor)));
        Self::open_on(stream, "/v1/events", &headers).await
    }

    /// Connects and reads the first event, which has to be `ready`.
    pub(crate) async fn connect(address: SocketAddr, token: &str, cursor: Option<&str>) -> (Self, Block) {
        let mut source = Self::open(address, token, cursor).await.unwrap();
        let ready = source.block().await;
        assert_eq!(ready.event.as_deref(), Some("ready"), "{ready:?}");
        (source, ready)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> EventSource<S> {
    /// Asks for events on a connection of one's own.
    pub(crate) async fn open_on(mut stream: S, target: &str, headers: &[(&str, &str)]) -> Result<Self, u16> {
        let request = http::request("GET", target, headers);
        let mut raw = Vec::new();
        let head = async {
            stream.write_all(request.as_bytes()).await.ok()?;
            loop {
                if let Some(end) = raw.windows(4).position(|window| window == b"\r\n\r\n") {
                    let rest = raw.split_off(end + 4);
                    return Some(String::from_utf8(std::mem::replace(&mut raw, rest)).unwrap());
                }
                if stream.read_buf(&mut raw).await.ok()? == 0 {
                    return None;
                }
            }
        };
        let head = timeout(AT_MOST, head).await.expect("no answer").ok_or(0_u16)?;
        match head.split(' ').nth(1).unwrap().parse().unwrap() {
            200 => Ok(Self {
                stream,
                head: head.to_lowercase(),
                raw,
                text: Vec::new(),
                blocks: VecDeque::new(),
                has_ended: false,
            }),
            status => Err(status),
        }
    }

    /// Whether the answer has this header line, in lower case.
    pub(crate) fn has_header(&self, line: &str) -> bool {
        self.head.split("\r\n").any(|found| found == line)
    }

    /// Whatever comes next, comments too.
    pub(crate) async fn next(&mut self) -> Came {
        self.next_until(Instant::now() + AT_MOST).await
    }

    async fn next_until(&mut self, deadline: Instant) -> Came {
        timeout_at(deadline, self.next_of_any_time())
            .await
            .expect("nothing came")
    }

    async fn next_of_any_time(&mut self) -> Came {
        loop {
            if let Some(block) = self.blocks.pop_front() {
                return Came::Block(block);
            }
            if self.has_ended {
                assert!(self.text.is_empty(), "half an event");
                return Came::Ended;
            }
            match self.stream.read_buf(&mut self.raw).await {
                Ok(read) if read > 0 => self.take_chunks(),
                _ => return Came::Broken,
            }
        }
    }

    fn take_chunks(&mut self) {
        while let Some(line) = self.raw.windows(2).position(|window| window == b"\r\n") {
            let length = std::str::from_utf8(&self.raw[..line]).unwrap();
            let length = usize::from_str_radix(length, 16).unwrap();
            let (begin, end) = (line + 2, line + 2 + length);
            if self.raw.len() < end + 2 {
                return;
            }
            assert_eq!(&self.raw[end..end + 2], b"\r\n");
            self.text.extend(&self.raw[begin..end]);
            self.raw.drain(..end + 2);
            self.has_ended |= length == 0;
            while let Some(end) = self.text.windows(2).position(|window| window == b"\n\n") {
                let block = std::str::from_utf8(&self.text[..end]).unwrap();
                self.blocks.push_back(Block::read(block));
                self.text.drain(..end + 2);
            }
        }
    }

    /// The next event; comments are passed over.
    pub(crate) async fn block(&mut self) -> Block {
        let deadline = Instant::now() + AT_MOST;
        loop {
            match self.next_until(deadline).await {
                Came::Block(block) if block.data.is_none() => {}
                Came::Block(block) => return block,
                other => panic!("an event was expected: {other:?}"),
            }
        }
    }

    /// What comes next, in the words of a socket.
    pub(crate) async fn hear(&mut self) -> Heard {
        let deadline = Instant::now() + AT_MOST;
        loop {
            return match self.next_until(deadline).await {
                Came::Block(block) if block.data.is_none() => continue,
                Came::Block(block) if block.event.as_deref() == Some("close") => {
                    Heard::Closed(u16::try_from(block.json()["code"].as_u64().unwrap()).unwrap())
                }
                Came::Block(block) => Heard::Frame(block.json()),
                Came::Ended | Came::Broken => Heard::Broken,
            };
        }
    }

    /// The next events of any frames, until there are `count` of them, and the last id seen.
    pub(crate) async fn events(&mut self, count: usize) -> (Vec<Value>, Option<String>) {
        let (mut events, mut id) = (Vec::new(), None);
        while events.len() < count {
            let block = self.block().await;
            assert_eq!(block.event.as_deref(), Some("events"), "{block:?}");
            events.extend(block.json()["events"].as_array().unwrap().iter().cloned());
            id = block.id.or(id);
        }
        assert_eq!(events.len(), count, "{events:?}");
        (events, id)
    }

    /// Reads until the gateway closes: its code, and how long to wait. Nothing follows but the end of the body and of the
    /// connection.
    pub(crate) async fn closed(&mut self) -> (u64, u64) {
        let block = loop {
            let block = self.block().await;
            if block.event.as_deref() == Some("close") {
                break block;
            }
        };
        assert_eq!(block.id, None);
        assert!(matches!(self.next().await, Came::Ended));
        let rest = timeout(AT_MOST, self.stream.read_buf(&mut self.raw)).await;
        assert_eq!(rest.expect("the connection goes on").unwrap(), 0);
        let close = block.json();
        assert_eq!(close["type"], "close");
        assert!(close["reason"].as_str().unwrap().len() > 10, "{close}");
        (close["code"].as_u64().unwrap(), block.retry.unwrap())
    }
}
