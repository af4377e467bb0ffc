//! Tasks without which a gateway is none: if one of them ends before it is told to, by a panic say, the process must
//! not go on as if nothing had happened.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::hub::{FeedState, FeedStatus};

/// Lives in a vital task, and speaks up if the task ends too early.
#[derive(Debug)]
pub(super) struct Vital {
    pub(super) name: &'static str,
    /// Cancelled when the task is to end.
    pub(super) may_end: CancellationToken,
    pub(super) feed: FeedStatus,
    /// Takes the reason for which the gateway cannot go on.
    pub(super) refuse: watch::Sender<Option<String>>,
}

impl Vital {
    /// Notes why the gateway cannot go on. The first reason stays.
    pub(super) fn refuse(&self, reason: String) {
        self.feed.enter(FeedState::Refused(reason.clone()));
        self.refuse.send_if_modified(|refused| {
            let is_first = refused.is_none();
            refused.get_or_insert(reason);
            is_first
        });
    }
}

impl Drop for Vital {
    fn drop(&mut self) {
        if !self.may_end.is_cancelled() && self.refuse.borrow().is_none() {
            let reason = format!(
                "the task `{}` ended unexpectedly; what it printed before says why",
                self.name
            );
            tracing::error!(%reason, "the gateway cannot go on");
            self.refuse(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{metrics::Metrics, tasks::Tasks};

    #[tokio::test]
    async fn a_vital_task_that_panics_is_reported_and_one_that_was_told_to_end_is_not() {
        let tasks = Tasks::new();
        let feed = FeedStatus::new(Arc::new(Metrics::new()));
        let (refuse, mut refused) = watch::channel(None);
        let vital = |name| Vital {
            name,
            may_end: tasks.stopping(),
            feed: feed.clone(),
            refuse: refuse.clone(),
        };
        let panicking = vital("feed");
        tasks.spawn("feed", async move {
            let _vital = panicking;
            panic!("on purpose");
        });
        refused.changed().await.unwrap();
        assert!(refused.borrow().as_ref().unwrap().contains("`feed`"));
        assert!(matches!(&*feed.current(), FeedState::Refused(_)));

        refuse.send_replace(None);
        let polite = vital("acceptor");
        tasks.stop();
        drop(polite);
        assert!(refuse.borrow().is_none());
    }
}
