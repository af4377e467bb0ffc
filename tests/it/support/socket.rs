//! A client of the native protocol, as a program outside this repository would write it.

use std::{net::SocketAddr, time::Duration};

use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest, http::Request, protocol::CloseFrame},
};

/// Longer than anything a client waits for should take, so that what hangs fails.
const AT_MOST: Duration = Duration::from_secs(30);

/// An open socket.
pub(crate) struct Socket {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// What came out of a socket.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A text frame.
    Frame(Value),
    /// The gateway closed, with this code.
    Closed(u16),
    /// The connection ended without a close frame.
    Broken,
}

/// The request that opens a socket.
pub(crate) fn request(address: SocketAddr, token: &str, cursor: Option<&str>) -> Request<()> {
    let cursor = cursor
        .map(|cursor| format!("?cursor={cursor}"))
        .unwrap_or_default();
    let mut request = format!("ws://{address}/v1/socket{cursor}")
        .into_client_request()
        .unwrap();
    request
        .headers_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

impl Socket {
    /// Opens a socket; the first frame has not been read yet.
    pub(crate) async fn open(address: SocketAddr, token: &str, cursor: Option<&str>) -> Result<Self, Error> {
        Self::open_by(request(address, token, cursor)).await
    }

    /// Opens a socket by a request of one's own.
    pub(crate) async fn open_by(request: Request<()>) -> Result<Self, Error> {
        Ok(Self {
            socket: Box::pin(connect_async(request)).await?.0,
        })
    }

    /// Opens a socket over a connection of one's own.
    pub(crate) async fn open_on(stream: TcpStream, request: Request<()>) -> Result<Self, Error> {
        let stream = MaybeTlsStream::Plain(stream);
        Ok(Self {
            socket: Box::pin(client_async(request, stream)).await?.0,
        })
    }

    /// Opens a socket over a connection of one's own by TLS.
    pub(crate) async fn open_by_tls(
        stream: TlsStream<TcpStream>,
        request: Request<()>,
    ) -> Result<Self, Error> {
        let stream = MaybeTlsStream::Rustls(stream);
        Ok(Self {
            socket: Box::pin(client_async(request, stream)).await?.0,
        })
    }

    /// Opens a socket and reads its first frame, which has to be `ready`.
    pub(crate) async fn connect(address: SocketAddr, token: &str, cursor: Option<&str>) -> (Self, Value) {
        let mut socket = Self::open(address, token, cursor).await.unwrap();
        let ready = socket.frame().await;
        assert_eq!(ready["type"], "ready", "{ready}");
        (socket, ready)
    }

    /// As [`Self::connect`] with a cursor, but tries again while the gateway asks for that.
    pub(crate) async fn connect_patiently(address: SocketAddr, token: &str, cursor: &str) -> (Self, Value) {
        let deadline = Instant::now() + AT_MOST;
        loop {
            if let Ok(mut socket) = Self::open(address, token, Some(cursor)).await
                && let Heard::Frame(ready) = socket.hear().await
            {
                return (socket, ready);
            }
            assert!(Instant::now() < deadline, "the gateway did not let the client in");
        }
    }

    /// What comes next. Pings are answered on the way.
    pub(crate) async fn hear(&mut self) -> Heard {
        let deadline = Instant::now() + AT_MOST;
        loop {
            let next = tokio::time::timeout_at(deadline, self.socket.next())
                .await
                .expect("nothing came");
            return match next {
                Some(Ok(Message::Text(text))) => Heard::Frame(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(Some(CloseFrame { code, .. })))) => Heard::Closed(code.into()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(other)) => panic!("unexpected: {other:?}"),
                Some(Err(_)) | None => Heard::Broken,
            };
        }
    }

    /// Whatever comes next, pings too.
    pub(crate) async fn message(&mut self) -> Option<Result<Message, Error>> {
        tokio::time::timeout(AT_MOST, self.socket.next())
            .await
            .expect("nothing came")
    }

    /// The text of the next frame, as it was on the wire.
    pub(crate) async fn text(&mut self) -> String {
        loop {
            match self.message().await {
                Some(Ok(Message::Text(text))) => return text.to_string(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("a frame was expected: {other:?}"),
            }
        }
    }

    /// The next frame.
    pub(crate) async fn frame(&mut self) -> Value {
        match self.hear().await {
            Heard::Frame(frame) => frame,
            other => panic!("a frame was expected: {other:?}"),
        }
    }

    /// The next events of any frames, until there are `count` of them. Returns them and the last cursor seen.
    pub(crate) async fn events(&mut self, count: usize) -> (Vec<Value>, Option<String>) {
        let (mut events, mut cursor) = (Vec::new(), None);
        while events.len() < count {
            let frame = self.frame().await;
            assert_eq!(frame["type"], "events", "{frame}");
            events.extend(frame["events"].as_array().unwrap().iter().cloned());
            if let Some(newer) = frame["cursor"].as_str() {
                cursor = Some(newer.to_owned());
            }
        }
        assert_eq!(events.len(), count, "{events:?}");
        (events, cursor)
    }

    /// Reads until the gateway closes, and answers with its code.
    pub(crate) async fn close_code(&mut self) -> u16 {
        loop {
            match self.hear().await {
                Heard::Frame(_) => {}
                Heard::Closed(code) => return code,
                Heard::Broken => panic!("the connection ended without a close frame"),
            }
        }
    }

    /// Sends any message.
    pub(crate) async fn send(&mut self, message: Message) -> Result<(), Error> {
        self.socket.send(message).await
    }

    /// Sends a text frame.
    pub(crate) async fn say(&mut self, text: &str) {
        self.send(Message::text(text)).await.unwrap();
    }

    /// Closes properly, and waits for the end.
    pub(crate) async fn close(mut self) {
        let _already_closed = self.socket.close(None).await;
        while let Some(Ok(_)) = tokio::time::timeout(AT_MOST, self.socket.next())
            .await
            .expect("no end")
        {}
    }

    /// The connection underneath.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        match self.socket.get_mut() {
            MaybeTlsStream::Plain(stream) => stream,
            _ => panic!("a plain connection was expected"),
        }
    }
}
