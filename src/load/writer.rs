//! A connection that writes messages, by SQL or by the HTTP API, at their times or one after another.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_postgres::{Client, Statement};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;

use super::{
    content::Mark,
    plan::{Path, Plan},
    progress::Progress,
    target::Target,
};
use crate::{
    auth::IssueError,
    client::{self, Draft},
    postgres::{self, ConnectError},
    protocol::conversation::Conversation,
    tasks::Tasks,
};

/// How long connecting, and one statement or call, may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// How long a token of one call is good.
const TOKEN_LIFETIME: Duration = Duration::from_secs(300);

/// What a writer does, in one statement that makes as many rows as its arrays have elements.
const INSERT: &str = "insert into messages (sender_id, receiver_id, content) \
                      select * from unnest($1::uuid[], $2::uuid[], $3::text[])";

/// Why nothing can be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// No connection to the database.
    #[error("messages cannot be written: {0}")]
    Connect(#[from] ConnectError),
    /// The database refused.
    #[error("messages cannot be written: {}", in_full(.0))]
    Database(#[from] tokio_postgres::Error),
    /// No connection to the gateway, or no answer that says yes.
    #[error("messages cannot be sent: {0}")]
    Call(String),
    /// The system trusts nobody.
    #[error(transparent)]
    Trust(#[from] client::TrustError),
    /// No token.
    #[error(transparent)]
    Token(#[from] IssueError),
}

fn in_full(error: &tokio_postgres::Error) -> String {
    error
        .as_db_error()
        .map_or_else(|| error.to_string(), ToString::to_string)
}

/// What all writers of a run share.
pub(super) struct Work {
    pub(super) plan: Arc<Plan>,
    pub(super) target: Arc<Target>,
    pub(super) mark: Mark,
    pub(super) progress: Arc<Progress>,
    /// The first message that nobody has taken on.
    pub(super) next: AtomicU32,
    pub(super) stopping: CancellationToken,
}

/// A connection by which messages are written.
pub(super) enum Writer {
    Sql(Client, Statement),
    Http(Box<Caller>),
}

impl Writer {
    /// Connects.
    pub(super) async fn connect(plan: &Plan, target: &Target, tasks: &Tasks) -> Result<Self, WriteError> {
        match plan.path {
            Path::Sql { .. } => {
                let (client, connection) =
                    postgres::connect(&target.database, "herald load", DEADLINE).await?;
                tasks.spawn("postgres", async move {
                    // If it breaks, the next statement fails, which is where it is told.
                    let _ended = connection.await;
                });
                let statement = client.prepare(INSERT).await?;
                Ok(Self::Sql(client, statement))
            }
            Path::Http => Ok(Self::Http(Box::new(Caller {
                uri: target
                    .url
                    .below("/v1/conversations")
                    .parse()
                    .map_err(|error: http::uri::InvalidUri| WriteError::Call(error.to_string()))?,
                connector: client::http_connector(&target.url)?,
                open: None,
                tasks: tasks.clone(),
            }))),
        }
    }

    /// Writes until there is nothing left to write, the time is up, or it is told to stop.
    pub(super) async fn write(mut self, work: Arc<Work>) {
        let Work { plan, progress, .. } = &*work;
        let began = progress.began();
        let until = began + plan.duration;
        loop {
            let first = work.next.fetch_add(plan.rows(), Relaxed);
            let messages = first..first.saturating_add(plan.rows()).min(plan.messages);
            let due = plan
                .due_after(first)
                .map_or_else(Instant::now, |after| began + after);
            if messages.is_empty() || due >= until {
                return;
            }
            if work
                .stopping
                .run_until_cancelled(sleep_until(due))
                .await
                .is_none()
            {
                return;
            }
            for message in messages.clone() {
                progress.note_due(message, due);
            }
            let written = timeout(DEADLINE, self.write_all(messages.clone(), &work));
            let written = written.await.unwrap_or_else(|_| {
                Err(WriteError::Call(format!(
                    "no answer within {} s",
                    DEADLINE.as_secs()
                )))
            });
            let at = Instant::now();
            match written {
                Ok(()) => messages.for_each(|message| progress.note_committed(message, plan, at)),
                Err(error) => {
                    progress.note_failed(messages.end - messages.start, &error);
                    if let Self::Sql(client, _) = &self
                        && client.is_closed()
                    {
                        return;
                    }
                }
            }
        }
    }

    async fn write_all(&mut self, messages: std::ops::Range<u32>, work: &Work) -> Result<(), WriteError> {
        let Work {
            plan, target, mark, ..
        } = work;
        let person = |number: u32| target.person(number).0;
        let content = |message: u32| mark.content(message, plan.content_bytes);
        match self {
            Self::Sql(client, statement) => {
                let senders: Vec<Uuid> = messages
                    .clone()
                    .map(|message| person(plan.sender(message)))
                    .collect();
                let receivers: Vec<Uuid> = messages
                    .clone()
                    .map(|message| person(plan.receiver(message)))
                    .collect();
                let contents: Vec<String> = messages.map(content).collect();
                client
                    .execute(&*statement, &[&senders, &receivers, &contents])
                    .await?;
                Ok(())
            }
            Self::Http(caller) => {
                for message in messages {
                    let conversation = Conversation {
                        other: target.person(plan.receiver(message)),
                        product: None,
                    };
                    let token = target.token(plan.sender(message), TOKEN_LIFETIME)?;
                    let draft = Draft {
                        id: Uuid::new_v4(),
                        content: content(message),
                    };
                    caller.post(conversation, token.expose(), &draft).await?;
                }
                Ok(())
            }
        }
    }
}

/// A connection to the HTTP API, which is used again for one call after another, as browsers do.
pub(super) struct Caller {
    uri: Uri,
    connector: client::HttpConnector,
    open: Option<SendRequest<Full<Bytes>>>,
    tasks: Tasks,
}

impl Caller {
    async fn post(
        &mut self,
        conversation: Conversation,
        token: &str,
        draft: &Draft,
    ) -> Result<(), WriteError> {
        let call = |error: &dyn std::fmt::Display| WriteError::Call(error.to_string());
        let mut sender = match self.open.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.connect().await?,
        };
        let path = format!("{}/{conversation}/messages", self.uri.path());
        let body = serde_json::to_vec(draft).map_err(|error| call(&error))?;
        let request = Request::post(path)
            .header(
                header::HOST,
                self.uri.authority().map_or("", |authority| authority.as_str()),
            )
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| call(&error))?;
        sender.ready().await.map_err(|error| call(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| call(&error))?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|error| call(&error))?;
        self.open = Some(sender);
        if status == StatusCode::CREATED || status == StatusCode::OK {
            return Ok(());
        }
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Err(WriteError::Call(format!("{status}: {body}")))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, WriteError> {
        let call = |error: &dyn std::fmt::Display| WriteError::Call(error.to_string());
        let connecting = self.connector.clone().oneshot(self.uri.clone());
        let stream = connecting.await.map_err(|error| call(&error))?;
        let (sender, connection) = http1::handshake(stream).await.map_err(|error| call(&error))?;
        self.tasks.spawn("call", async move {
            // If it breaks, the call on it fails, which is where it is told.
            let _ended = connection.await;
        });
        Ok(sender)
    }
}
