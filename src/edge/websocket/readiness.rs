//! Whether a stream may have something to read, by a waker of its own.
//!
//! A session is mostly woken to write. To ask its socket each time whether there is something to read costs a good part of what a delivery takes
//! beside the system call; with a waker of its own the socket says so by itself.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Release},
        },
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;

/// Lets a source be polled only if it has woken since it was pending.
#[derive(Debug)]
pub(super) struct Readiness {
    told: Arc<Told>,
    /// Made of `told`, once.
    waker: Waker,
}

#[derive(Debug)]
struct Told {
    may_have_something: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.may_have_something.store(true, Release);
        self.task.wake();
    }
}

impl Readiness {
    /// Of a source that has not been polled.
    pub(super) fn new() -> Self {
        let told = Arc::new(Told {
            may_have_something: AtomicBool::new(true),
            task: AtomicWaker::new(),
        });
        Self {
            waker: Waker::from(Arc::clone(&told)),
            told,
        }
    }

    /// Has the source polled next time in any case.
    pub(super) fn look_again(&self) {
        self.told.may_have_something.store(true, Release);
    }

    /// What the source has. It is handed the waker to be polled with, and must be the same source each time.
    pub(super) fn poll<T>(
        &self,
        context: &Context<'_>,
        source: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        // Registered before it is looked, so that whoever wakes meanwhile is heard.
        self.told.task.register(context.waker());
        if !self.told.may_have_something.swap(false, AcqRel) {
            return Poll::Pending;
        }
        let polled = source(&mut Context::from_waker(&self.waker));
        if polled.is_ready() {
            // Behind it there may be more, of which nobody tells.
            self.look_again();
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt as _, channel::mpsc, future::poll_fn, task::noop_waker};

    use super::*;

    #[test]
    fn a_source_that_has_nothing_is_left_alone_until_it_wakes() {
        let (sender, mut receiver) = mpsc::unbounded();
        let (readiness, mut polls) = (Readiness::new(), 0);
        let waker = noop_waker();
        let context = Context::from_waker(&waker);
        let mut poll = |polls: &mut u32| {
            readiness.poll(&context, |context| {
                *polls += 1;
                receiver.poll_next_unpin(context)
            })
        };
        for _ in 0..5 {
            assert_eq!(poll(&mut polls), Poll::Pending);
        }
        assert_eq!(polls, 1);
        sender.unbounded_send(1).unwrap();
        sender.unbounded_send(2).unwrap();
        for expected in [1, 2] {
            assert_eq!(poll(&mut polls), Poll::Ready(Some(expected)));
        }
        for _ in 0..5 {
            assert_eq!(poll(&mut polls), Poll::Pending);
        }
        assert_eq!(polls, 4);
        readiness.look_again();
        assert_eq!(poll(&mut polls), Poll::Pending);
        assert_eq!(polls, 5);
        drop(sender);
        assert_eq!(poll(&mut polls), Poll::Ready(None));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whatever_comes_while_it_is_looked_wakes_the_task() {
        const MANY: u32 = 100_000;
        let (sender, mut receiver) = mpsc::unbounded();
        let readiness = Readiness::new();
        let sending = tokio::task::spawn_blocking(move || {
            for number in 0..MANY {
                sender.unbounded_send(number).unwrap();
                if number % 7 == 0 {
                    std::thread::yield_now();
                }
            }
        });
        for number in 0..MANY {
            let next =
                poll_fn(|context| readiness.poll(context, |context| receiver.poll_next_unpin(context)));
            assert_eq!(next.await, Some(number));
        }
        sending.await.unwrap();
    }
}
