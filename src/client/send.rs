//! Sends a message through short outages: the same message, under the same id, until the gateway has it.

use std::{future::Future, time::Duration};

use rand::Rng;
use tokio::time::{Instant, sleep};

use super::{CallError, Draft, GatewayClient, Sent};
use crate::{backoff::Backoff, protocol::conversation::Conversation};

/// How long one attempt may take; a gateway answers much sooner, and a dead connection shall not use up all patience.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(10);

/// The shortest time that is worth an attempt, so that impatience still sends once.
const ATTEMPT_DEADLINE_MIN: Duration = Duration::from_secs(2);

/// The first ceiling of the backoff.
const BACKOFF_BASE: Duration = Duration::from_millis(250);

/// The last ceiling of the backoff: somebody waits.
const BACKOFF_CAP: Duration = Duration::from_secs(4);

/// An attempt has failed, and there will be another.
#[derive(Debug)]
pub struct Waiting<'a> {
    /// Why it failed.
    pub why: &'a CallError,
    /// Until the next attempt.
    pub delay: Duration,
}

/// A message was not sent, or not for certain.
#[derive(Debug, thiserror::Error)]
#[error("{why}{}", if *attempts > 1 { format!("; given up after {attempts} attempts") } else { String::new() })]
pub struct SendError {
    /// Why the last attempt failed.
    pub why: CallError,
    /// How many there were.
    pub attempts: u32,
    /// Whether one of them may have stored the message, although no answer says so.
    pub may_be_stored: bool,
}

/// Sends a message, and again if the gateway cannot be reached or asks to come back: with backoff and full jitter, never
/// sooner than `Retry-After` says, and for no longer than `patience` (and the two seconds that an attempt is given at
/// least). It is stored once however often it is sent, for all attempts carry the same id.
///
/// # Errors
/// [`SendError`].
///
/// # Cancel safety
/// As [`GatewayClient::send`].
pub async fn send_patiently(
    client: &GatewayClient,
    conversation: Conversation,
    draft: &Draft,
    patience: Duration,
    wait: impl FnMut(&Waiting<'_>),
) -> Result<Sent, SendError> {
    let attempt = async |within| client.send(conversation, draft, within).await;
    persist(patience, &mut rand::rng(), attempt, wait).await
}

async fn persist<F>(
    patience: Duration,
    random: &mut impl Rng,
    mut attempt: impl FnMut(Duration) -> F,
    mut wait: impl FnMut(&Waiting<'_>),
) -> Result<Sent, SendError>
where
    F: Future<Output = Result<Sent, CallError>>,
{
    let ends = Instant::now() + patience;
    let mut backoff = Backoff::new(BACKOFF_BASE, BACKOFF_CAP);
    let mut may_be_stored = false;
    let mut attempts = 0;
    loop {
        let left = ends.saturating_duration_since(Instant::now());
        attempts += 1;
        let why = match attempt(left.clamp(ATTEMPT_DEADLINE_MIN, ATTEMPT_DEADLINE)).await {
            Ok(sent) => return Ok(sent),
            Err(why) => why,
        };
        may_be_stored |= why.may_have_been_done();
        // What was asked for comes first, and the jitter on top of it: everybody was told the same.
        let asked = why.retry_after().unwrap_or_default();
        let delay = asked.saturating_add(backoff.next_delay(random));
        if !why.may_pass() || delay >= ends.saturating_duration_since(Instant::now()) {
            return Err(SendError {
                why,
                attempts,
                may_be_stored,
            });
        }
        wait(&Waiting { why: &why, delay });
        sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::{super::gateway::Refusal, *};

    const PATIENCE: Duration = Duration::from_secs(30);

    fn refused(status: u16, retry_after: Option<u64>) -> CallError {
        CallError::Refused(Refusal {
            status,
            detail: None,
            retry_after: retry_after.map(Duration::from_secs),
        })
    }

    fn unreachable() -> CallError {
        CallError::Unreachable {
            url: "http://h".parse().unwrap(),
            why: "refused".to_owned(),
        }
    }

    fn sent() -> Sent {
        Sent {
            id: uuid::Uuid::nil(),
            row: "{}".into(),
        }
    }

    /// What comes of attempts that end so, and the waits between them.
    async fn outcome(mut ends: Vec<Result<Sent, CallError>>) -> (Result<Sent, SendError>, Vec<Duration>) {
        ends.reverse();
        let mut waits = Vec::new();
        let mut random = StdRng::seed_from_u64(1);
        let attempt = |_within| std::future::ready(ends.pop().unwrap_or_else(|| Err(unreachable())));
        let ended = persist(PATIENCE, &mut random, attempt, |waiting| {
            waits.push(waiting.delay);
        })
        .await;
        (ended, waits)
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_tried_again_and_never_sooner_than_asked_for() {
        let (ended, waits) = outcome(vec![
            Err(unreachable()),
            Err(refused(503, Some(3))),
            Err(refused(429, Some(5))),
            Ok(sent()),
        ])
        .await;
        assert!(ended.is_ok());
        let at_least = [0, 3, 5].map(Duration::from_secs);
        assert_eq!(waits.len(), at_least.len());
        for (wait, least) in waits.iter().zip(at_least) {
            assert!(*wait >= least && *wait <= least + BACKOFF_CAP, "{waits:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_and_is_not_spent_on_a_wait_that_reaches_beyond_it() {
        let began = Instant::now();
        let (ended, waits) = outcome(Vec::new()).await;
        let error = ended.unwrap_err();
        assert!(began.elapsed() <= PATIENCE && waits.len() > 5, "{waits:?}");
        assert!(error.to_string().contains("given up after"), "{error}");
        assert!(!error.may_be_stored);

        let began = Instant::now();
        let (ended, waits) = outcome(vec![Err(refused(503, Some(u64::MAX)))]).await;
        assert_eq!((ended.unwrap_err().attempts, waits.len()), (1, 0));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_pass_ends_it_and_an_earlier_attempt_is_not_forgotten() {
        let (ended, waits) = outcome(vec![Err(refused(422, None))]).await;
        let error = ended.unwrap_err();
        assert_eq!((error.may_be_stored, waits.len()), (false, 0));
        assert!(!error.to_string().contains("attempts"), "{error}");

        let lost = CallError::Lost {
            url: "http://h".parse().unwrap(),
            why: "reset".to_owned(),
        };
        let (ended, _) = outcome(vec![Err(lost), Err(refused(401, None))]).await;
        assert!(ended.unwrap_err().may_be_stored);
    }
}
