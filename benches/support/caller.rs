//! A client of the HTTP API that keeps its connection, and does no more than a measurement needs.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::people::token;
use herald::types::UserId;

/// A kept connection of one user.
pub(crate) struct Caller {
    stream: TcpStream,
    token: String,
    /// The last answer, whole.
    answer: Vec<u8>,
}

impl Caller {
    pub(crate) async fn connect(gateway: SocketAddr, user: UserId) -> Self {
        let stream = TcpStream::connect(gateway).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            token: token(user),
            answer: Vec::new(),
        }
    }

    /// Asks, and waits until the whole answer is there; it has to have this status.
    pub(crate) async fn get(&mut self, target: &str) {
        self.call(200, "GET", target, "").await;
    }

    /// Sends JSON, and waits until the whole answer is there; it has to be `201`.
    pub(crate) async fn post(&mut self, target: &str, body: &str) {
        self.call(201, "POST", target, body).await;
    }

    /// The body of the last answer.
    pub(crate) fn body(&self) -> Value {
        let head = self.head().unwrap();
        serde_json::from_slice(&self.answer[head..]).unwrap()
    }

    async fn call(&mut self, expected: u16, method: &str, target: &str, body: &str) {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await.unwrap();
        self.answer.clear();
        while self.length().is_none_or(|length| self.answer.len() < length) {
            let read = self.stream.read_buf(&mut self.answer).await.unwrap();
            assert!(read > 0, "the gateway ended the connection");
        }
        let status = format!("HTTP/1.1 {expected} ");
        let text = || String::from_utf8_lossy(&self.answer);
        assert!(self.answer.starts_with(status.as_bytes()), "{}", text());
    }

    /// Where the body begins.
    fn head(&self) -> Option<usize> {
        let end = self.answer.windows(4).position(|window| window == b"\r\n\r\n");
        end.map(|end| end + 4)
    }

    /// How long the whole answer is.
    fn length(&self) -> Option<usize> {
        let head = self.head()?;
        let text = std::str::from_utf8(&self.answer[..head]).unwrap();
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        Some(head + length.unwrap().parse::<usize>().unwrap())
    }
}
