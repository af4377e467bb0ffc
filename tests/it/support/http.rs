//! Plain HTTP/1.1 over a plain connection, so that a test says every byte itself.

use std::{fmt::Write as _, net::SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::database::AT_MOST;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// The value of a header that occurs once, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }

    /// All values of a header, by its name in lower case.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let found = self.headers.iter().filter(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str()).collect()
    }

    /// The body as JSON, of an answer with this status.
    pub(crate) fn json(&self, status: u16) -> serde_json::Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_str(&self.body).unwrap()
    }

    /// The body as a problem of this status (RFC 9457), and its detail.
    pub(crate) fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(body["status"], status, "{self:?}");
        assert!(body["type"].is_string() && body["title"].is_string(), "{self:?}");
        body["detail"].as_str().unwrap().to_owned()
    }
}

/// Asks on a connection of its own, which is closed afterwards.
pub(crate) async fn ask(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(request(method, target, headers).as_bytes())
        .await
        .unwrap();
    let answer = if method == "HEAD" {
        timeout(AT_MOST, read_head(&mut stream))
            .await
            .expect("no answer")
            .map(|(head, _)| head)
    } else {
        read(&mut stream).await
    };
    answer.expect("the connection ended without an answer")
}

/// Asks with a body, on a connection of its own.
pub(crate) async fn ask_with_body(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let length = body.len().to_string();
    let headers: Vec<_> = [("Content-Length", length.as_str())]
        .iter()
        .chain(headers)
        .copied()
        .collect();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (mut reading, mut writing) = stream.split();
    let write = async {
        writing
            .write_all(request(method, target, &headers).as_bytes())
            .await
            .unwrap();
        // The gateway may answer, and close, before it has read a body that it does not want.
        let _written = writing.write_all(body).await;
    };
    let (answer, ()) = tokio::join!(timeout(AT_MOST, read_whole(&mut reading)), write);
    answer
        .expect("no answer")
        .expect("the connection ended without an answer")
}

/// The answer to a plain `GET`.
pub(crate) async fn fetch(address: SocketAddr, target: &str) -> Answer {
    ask(address, "GET", target, &[]).await
}

/// The answer to a plain `GET`, if anybody is there to give one.
pub(crate) async fn try_to_fetch(address: SocketAddr, target: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream
        .write_all(request("GET", target, &[]).as_bytes())
        .await
        .ok()?;
    read(&mut stream).await
}

/// The answer to a request for a socket with these headers beside the usual ones.
pub(crate) async fn ask_for_socket(address: SocketAddr, query: &str, headers: &[(&str, &str)]) -> Answer {
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let headers: Vec<_> = upgrade.iter().chain(headers).copied().collect();
    ask(address, "GET", &format!("/v1/socket{query}"), &headers).await
}

/// A request without a body. Its host is one of the tests unless the headers name another.
pub(crate) fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let mut text = format!("{method} {target} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        text.push_str("Host: herald.test\r\n");
    }
    for (name, value) in headers {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    text.push_str("\r\n");
    text
}

/// Reads one answer; nothing if the connection ends before it begins.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Answer> {
    timeout(AT_MOST, read_whole(stream)).await.expect("no answer")
}

async fn read_whole(stream: &mut (impl AsyncRead + Unpin)) -> Option<Answer> {
    let (mut answer, mut body) = read_head(stream).await?;
    let length = answer
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    while body.len() < length {
        assert!(stream.read_buf(&mut body).await.unwrap() > 0, "half a body");
    }
    body.truncate(length);
    answer.body = String::from_utf8(body).unwrap();
    Some(answer)
}

/// Reads an answer up to its body, and what of that has come along.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<(Answer, Vec<u8>)> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        match stream.read_buf(&mut bytes).await {
            Ok(read) if read > 0 => {}
            _ if bytes.is_empty() => return None,
            other => panic!("half an answer: {other:?}"),
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let answer = Answer {
        status,
        headers,
        body: String::new(),
    };
    Some((answer, bytes.split_off(head + 4)))
}
