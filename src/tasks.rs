//! The one place where tasks are started: each has a name, is counted, and is told when the process ends.
//!
//! A task that panics ends alone: that is caught, logged by the task's name and counted. What lives on its stack is dropped as by
//! any return, so that guards give back what the task held.
//!
//! A task that must not be cut off watches [`Tasks::stopping`]; [`Tasks::finish`] waits for all of them and
//! reports by name those that did not end in time.

use std::{collections::BTreeMap, fmt, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use dashmap::DashMap;
use futures::FutureExt;
use rand::RngExt;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The shortest pause before a task that panicked is begun anew. The longest is twice as long, so that tasks that fall over the
/// same thing do not come back in step.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Starts, counts and ends tasks. Clones share one count.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
    running: Arc<DashMap<&'static str, usize>>,
    on_panic: Arc<dyn Fn(&'static str) + Send + Sync>,
}

impl Tasks {
    /// No task yet, and not stopping.
    pub fn new() -> Self {
        Self::reporting(|_| {})
    }

    /// Likewise; and `on_panic` is told the name of each task that panics.
    pub fn reporting(on_panic: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        Self {
            tracker: TaskTracker::default(),
            stopping: CancellationToken::default(),
            running: Arc::default(),
            on_panic: Arc::new(on_panic),
        }
    }

    /// Starts a task under a name. Tasks of the same kind share a name; the count tells how many there are.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let counted = Counted::new(name, Arc::clone(&self.running));
        let on_panic = Arc::clone(&self.on_panic);
        // An async block would hold the future twice: as what it captured, and as what it awaits.
        self.tracker.spawn(caught(future).map(move |ended| {
            if ended.is_err() {
                tracing::error!(
                    task = name,
                    "a task panicked and has ended; the line above says where"
                );
                on_panic(name);
            }
            drop(counted);
        }));
    }

    /// Starts a task that is begun anew after a panic, a moment later each time, until it returns or the process stops.
    pub fn spawn_restarting<F>(&self, name: &'static str, begin: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (on_panic, stopping) = (Arc::clone(&self.on_panic), self.stopping());
        self.spawn(name, async move {
            while caught(begin()).await.is_err() {
                let pause = RESTART_PAUSE.mul_f64(rand::rng().random_range(1.0..2.0));
                tracing::error!(
                    task = name,
                    ?pause,
                    "a task panicked and will begin anew; the line above says where"
                );
                on_panic(name);
                let pausing = tokio::time::sleep(pause);
                if stopping.run_until_cancelled(pausing).await.is_none() {
                    return;
                }
            }
        });
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

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Tasks")
            .field("running", &self.running())
            .finish_non_exhaustive()
    }
}

/// A panic as an error. What unwound is dropped and never looked at again; what it shared with others is behind locks that
/// are taken all the same when they are poisoned, and guards put it right.
async fn caught(future: impl Future<Output = ()>) -> Result<(), ()> {
    AssertUnwindSafe(future).catch_unwind().await.map_err(drop)
}

/// Keeps the count of a name right even when its task is dropped.
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
    use std::sync::atomic::{AtomicUsize, Ordering};

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

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_ends_alone_and_is_counted_by_its_name() {
        let (panicked, mut panics) = tokio::sync::mpsc::channel(8);
        let tasks = Tasks::reporting(move |name| panicked.try_send(name).unwrap());
        tasks.spawn("clumsy", async { panic!("on purpose") });
        let stopping = tasks.stopping();
        tasks.spawn("steady", async move { stopping.cancelled().await });
        assert_eq!(panics.recv().await, Some("clumsy"));
        tokio::task::yield_now().await;
        assert_eq!(tasks.running().into_iter().collect::<Vec<_>>(), [("steady", 1)]);
        tasks.stop();
        tasks.finish(Duration::from_secs(1)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_restarts_is_begun_anew_until_it_returns() {
        let (panicked, mut panics) = tokio::sync::mpsc::channel(8);
        let tasks = Tasks::reporting(move |name| panicked.try_send(name).unwrap());
        let begun = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&begun);
        tasks.spawn_restarting("stumbling", move || {
            let time = counting.fetch_add(1, Ordering::Relaxed);
            async move { assert!(time >= 2, "on purpose") }
        });
        tasks.finish(Duration::from_secs(60)).await.unwrap();
        assert_eq!(begun.load(Ordering::Relaxed), 3);
        assert_eq!(
            [panics.try_recv(), panics.try_recv()],
            [Ok("stumbling"), Ok("stumbling")]
        );
        assert!(panics.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_only_ever_panics_does_not_keep_the_process_from_its_end() {
        let tasks = Tasks::new();
        tasks.spawn_restarting("hopeless", || async { panic!("on purpose") });
        tokio::time::sleep(Duration::from_secs(10)).await;
        tasks.stop();
        tasks.finish(Duration::from_millis(1)).await.unwrap();
    }
}
