//! A client of the native protocol with small buffers, since thousands of them are in one process.

use std::net::{IpAddr, SocketAddr};

use futures::StreamExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Message, client::IntoClientRequest, handshake::client::Request, protocol::WebSocketConfig,
    },
};

/// An open socket.
pub(crate) type Socket = WebSocketStream<TcpStream>;

/// Opens a socket from this address of the machine, and waits for its first frame.
pub(crate) async fn open(gateway: SocketAddr, token: &str, from: IpAddr) -> Socket {
    let mut request = format!("ws://{gateway}/v1/socket").into_client_request().unwrap();
    request
        .headers_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    let mut socket = dial(gateway, request, from).await;
    match socket.next().await {
        Some(Ok(Message::Text(text))) if text.contains(r#""type":"ready""#) => socket,
        other => panic!("the first frame is not `ready`: {other:?}"),
    }
}

/// Makes the handshake from this address of the machine.
pub(crate) async fn dial(gateway: SocketAddr, request: Request, from: IpAddr) -> Socket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let stream = socket.connect(gateway).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let config = WebSocketConfig::default().read_buffer_size(4096);
    let opening = Box::pin(client_async_with_config(request, stream, Some(config)));
    let (socket, _answer) = opening.await.unwrap();
    socket
}
