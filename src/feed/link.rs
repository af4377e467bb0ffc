//! One connection, driven by the task that uses it.
//!
//! The connection is polled in the same task as the question that is asked on it, so that a ring or an answer wakes
//! one task and not two.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::poll_fn;
use tokio::time::{Instant, timeout};
use tokio_postgres::{AsyncMessage, Client};

use crate::postgres::{ConnectError, Connection, Settings, connect};

/// Why a question on the link has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// The connection could not be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke, or the server refused the question.
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    /// The server ended the connection.
    #[error("the server closed the connection")]
    Closed,
    /// No answer in time: the connection may be half open.
    #[error("no answer from the database within {0:?}")]
    Deadline(Duration),
}

/// A client and its connection, and whether the doorbell rang since it was last asked.
pub(super) struct Link {
    /// Questions are asked here, and awaited through [`Wire::drive`].
    pub(super) client: Client,
    wire: Wire,
}

/// The half that has to be polled.
pub(super) struct Wire {
    connection: Connection,
    rang: bool,
}

impl Link {
    /// Opens a connection.
    ///
    /// # Errors
    /// [`LinkError::Connect`], within the deadline.
    ///
    /// # Cancel safety
    /// Safe: a connection that is not complete is closed.
    pub(super) async fn open(settings: &Settings, deadline: Duration) -> Result<Self, LinkError> {
        let (client, connection) = connect(settings, "herald feed", deadline).await?;
        Ok(Self {
            client,
            wire: Wire {
                connection,
                rang: false,
            },
        })
    }

    /// The two halves, so that a question may borrow the client while the wire is driven.
    pub(super) fn split(&mut self) -> (&Client, &mut Wire) {
        (&self.client, &mut self.wire)
    }

    /// Waits for the doorbell until `tick` at the latest, and answers whether it had rung before the wait began.
    ///
    /// # Errors
    /// [`LinkError`] if the connection broke.
    ///
    /// # Cancel safety
    /// Safe: a ring that was heard stays noted.
    pub(super) async fn ring(&mut self, tick: Instant) -> Result<bool, LinkError> {
        let mut sleep = pin!(tokio::time::sleep_until(tick));
        let wire = &mut self.wire;
        let mut has_waited = false;
        poll_fn(|context| {
            if let Poll::Ready(error) = wire.poll_broken(context) {
                return Poll::Ready(Err(error));
            }
            if std::mem::take(&mut wire.rang) {
                return Poll::Ready(Ok(!has_waited));
            }
            has_waited = true;
            sleep.as_mut().poll(context).map(|()| Ok(false))
        })
        .await
    }
}

impl Wire {
    /// Polls the connection while a question waits for its answer, until the deadline.
    ///
    /// # Errors
    /// [`LinkError`] if the connection broke, the server refused, or the deadline passed.
    ///
    /// # Cancel safety
    /// Safe for the connection; the answer to the question is lost.
    pub(super) async fn drive<T>(
        &mut self,
        deadline: Duration,
        question: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, LinkError> {
        let mut question = pin!(question);
        let driven = poll_fn(|context| {
            // The connection goes first, so that an answer that has just arrived is found in the same round.
            let broken = self.poll_broken(context);
            match (question.as_mut().poll(context), broken) {
                // The server says why it refuses before it closes, so that its answer is the better explanation.
                (Poll::Ready(answer), _) => Poll::Ready(answer.map_err(LinkError::from)),
                (Poll::Pending, Poll::Ready(error)) => Poll::Ready(Err(error)),
                (Poll::Pending, Poll::Pending) => Poll::Pending,
            }
        });
        timeout(deadline, driven)
            .await
            .map_err(|_| LinkError::Deadline(deadline))?
    }

    /// Takes in what the server sent of its own accord; ready only when the connection is over.
    fn poll_broken(&mut self, context: &mut Context<'_>) -> Poll<LinkError> {
        loop {
            return match self.connection.poll_message(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Some(Ok(message))) => {
                    match message {
                        AsyncMessage::Notification(_) => self.rang = true,
                        AsyncMessage::Notice(notice) => {
                            tracing::debug!(
                                severity = notice.severity(),
                                code = notice.code().code(),
                                "notice from Postgres"
                            );
                        }
                        _ => {}
                    }
                    continue;
                }
                Poll::Ready(Some(Err(error))) => Poll::Ready(error.into()),
                Poll::Ready(None) => Poll::Ready(LinkError::Closed),
            };
        }
    }
}
