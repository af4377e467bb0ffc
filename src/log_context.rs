//! What the lines of the log say about where they come from: the connection, and the request on it.
//!
//! Whatever is logged while a request is answered stands in their spans. A session goes on for hours and hardly ever says anything: spans would
//! take 0.8 KiB of it, and each delivery would enter and leave them. So it keeps what they are made of, and makes them when there is a line.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use tracing::{Level, Span};

use crate::types::SessionId;

/// The span of whatever happens on a connection.
pub fn connection_span(connection: SessionId, peer: SocketAddr) -> Span {
    // Of the highest level, so that whatever is logged has it.
    tracing::error_span!("connection", %connection, %peer)
}

/// The span of a request. Whoever speaks for somebody else is the connection's peer; for whom is found out later and told to
/// [`name_client`].
pub fn request_span(request_id: &str) -> Span {
    tracing::error_span!("request", request_id, client = tracing::field::Empty)
}

/// Tells a request's span who sent it, if it came through a proxy.
pub fn name_client(request: &Span, client: IpAddr) {
    request.record("client", tracing::field::display(client));
}

/// What a session's lines of the log are put into.
#[derive(Clone, Debug)]
pub struct LogContext {
    /// The connection, and so the session.
    pub connection: SessionId,
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// The request that opened the session.
    pub request_id: Box<str>,
    /// Who sent it, if it came through a proxy.
    pub client: Option<IpAddr>,
}

impl LogContext {
    /// Says something in the spans that the request was in.
    pub fn within<T>(&self, say: impl FnOnce() -> T) -> T {
        connection_span(self.connection, self.peer).in_scope(|| {
            let request = request_span(&self.request_id);
            if let Some(client) = self.client {
                name_client(&request, client);
            }
            request.in_scope(say)
        })
    }

    /// Tells of a step of everyday life, at the level `debug`. It costs next to nothing if nobody wants to know.
    pub fn debug(&self, what: impl fmt::Display) {
        if tracing::enabled!(Level::DEBUG) {
            self.within(|| tracing::debug!("{what}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex, PoisonError},
    };

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_sessions_line_stands_in_the_same_spans_as_its_requests() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(lines.clone())
            .with_ansi(false)
            .without_time()
            .finish();
        let context = LogContext {
            connection: SessionId::random(),
            peer: ([192, 0, 2, 1], 4711).into(),
            request_id: "abc-1".into(),
            client: Some([198, 51, 100, 7].into()),
        };
        tracing::subscriber::with_default(subscriber, || {
            connection_span(context.connection, context.peer).in_scope(|| {
                let request = request_span(&context.request_id);
                name_client(&request, [198, 51, 100, 7].into());
                request.in_scope(|| tracing::info!("said"));
            });
            context.within(|| tracing::info!("said"));
            context.debug("not wanted");
        });
        let said = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let said: Vec<_> = said.lines().collect();
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!(said[0], said[1]);
        for part in ["192.0.2.1:4711", "abc-1", "198.51.100.7"] {
            assert!(said[0].contains(part), "{}", said[0]);
        }
    }
}
