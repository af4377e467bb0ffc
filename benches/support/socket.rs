//! A client of the native protocol with small buffers, since thousands of them are in one process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use futures::StreamExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Message, client::IntoClientRequest, handshake::client::Request, protocol::WebSocketConfig,
    },
};

/// Connections from one address of this machine: a port of this end stands for one connection, there are some 28,000 by default, and those of
/// connections that were open a moment ago are not free yet.
const PER_ADDRESS: u32 = 2_500;

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

/// The address that the connection with this number comes from.
pub(crate) fn source(number: u32) -> IpAddr {
    let [.., last] = (1 + number / PER_ADDRESS).to_be_bytes();
    Ipv4Addr::new(127, 0, 0, last).into()
}
