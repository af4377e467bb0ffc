//! A client of the HTTP API that keeps its connection, and says when the connection broke instead of failing.

use std::net::SocketAddr;

use herald::types::UserId;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{database::AT_MOST, gateway::token};

/// The connection ended before the whole answer was there.
#[derive(Debug)]
pub(crate) struct Broken;

/// A user who calls.
pub(crate) struct Caller {
    address: SocketAddr,
    token: String,
    kept: Option<TcpStream>,
}

impl Caller {
    /// Nothing is connected before the first call.
    pub(crate) fn new(address: SocketAddr, user: UserId) -> Self {
        Self {
            address,
            token: token(user),
            kept: None,
        }
    }

    /// The status and the body of an answer to a `GET`.
    pub(crate) async fn get(&mut self, target: &str) -> Result<(u16, Value), Broken> {
        self.call("GET", target, "").await
    }

    /// The status and the body of an answer to a `POST` of JSON.
    pub(crate) async fn post(&mut self, target: &str, body: &Value) -> Result<(u16, Value), Broken> {
        self.call("POST", target, &body.to_string()).await
    }

    async fn call(&mut self, method: &str, target: &str, body: &str) -> Result<(u16, Value), Broken> {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: herald.test\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        // Taken out, so that a connection that broke is not used again.
        let mut stream = match self.kept.take() {
            Some(stream) => stream,
            None => TcpStream::connect(self.address).await.map_err(|_| Broken)?,
        };
        let answer = async {
            stream.write_all(request.as_bytes()).await.map_err(|_| Broken)?;
            answer(&mut stream).await
        };
        let answer = timeout(AT_MOST, answer).await.expect("no answer")?;
        self.kept = Some(stream);
        Ok(answer)
    }
}

/// Reads one answer.
async fn answer(stream: &mut TcpStream) -> Result<(u16, Value), Broken> {
    let mut bytes = Vec::new();
    loop {
        if let Some(whole) = whole(&bytes) {
            return Ok(whole);
        }
        if stream.read_buf(&mut bytes).await.map_err(|_| Broken)? == 0 {
            return Err(Broken);
        }
    }
}

/// The answer, if these bytes are all of it.
fn whole(bytes: &[u8]) -> Option<(u16, Value)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = (std::str::from_utf8(&bytes[..end]).unwrap(), &bytes[end + 4..]);
    let length = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map(|(_, length)| length.parse::<usize>().unwrap())
        .expect("an answer without a length");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (body.len() == length).then(|| (status, serde_json::from_slice(body).unwrap()))
}
