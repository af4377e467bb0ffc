//! The one place where tasks are started: each has a name, is counted, and is told when the process ends.
//!
//! A task that must not be cut off watches [`Tasks::stopping`]; [`Tasks::finish`] waits for all of them and
//! reports by name those that did not end in time.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use dashmap::DashMap;
use futures::FutureExt;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Starts, counts and ends tasks. Clones share one count.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
    running: Arc<DashMap<&'static str, usize>>,
}

impl Tasks {
    /// No task yet, and not stopping.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task under a name. Tasks of the same kind share a name; the count tells how many there are.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let counted = Counted::new(name, Arc::clone(&self.running));
        // An async block would hold the future twice: as what it captured, and as what it awaits.
        self.tracker.spawn(future.map(move |()| drop(counted)));
    }

    /// Resolves once the process has begun to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Tells every task to stop.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    /// How many tasks run, by name.
    pub fn running(&self) -> BTreeMap<&'static str, usize> {
        self.running
            .iter()
            .map(|entry| (*entry.key(), *entry.value()))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Waits until every task has ended, or until the deadline has passed.
    ///
    /// # Errors
    /// The names and counts of the tasks that were still running when the deadline passed.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn finish(&self, within: Duration) -> Result<(), BTreeMap<&'static str, usize>> {
        self.tracker.close();
        tokio::time::timeout(within, self.tracker.wait())
            .await
            .map_err(|_| self.running())
    }
}

/// Keeps the count of a name right even when its task panics.
struct Counted {
    name: &'static str,
    running: Arc<DashMap<&'static str, usize>>,
}

impl Counted {
    fn new(name: &'static str, running: Arc<DashMap<&'static str, usize>>) -> Self {
        *running.entry(name).or_insert(0) += 1;
        Self { name, running }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(mut count) = self.running.get_mut(self.name) {
            *count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_in_time_is_reported_by_its_name() {
        let tasks = Tasks::new();
        tasks.spawn("stubborn", std::future::pending());
        let stopping = tasks.stopping();
        tasks.spawn("polite", async move { stopping.cancelled().await });
        tasks.stop();
        let left = tasks.finish(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(left.into_iter().collect::<Vec<_>>(), [("stubborn", 1)]);
    }
}
