//! A condition variable that makes no system call while nobody waits. std's makes one at each notification, and a run that
//! returns has several.
//!
//! Whoever notifies has changed what is waited for under the mutex, before or still: a thread that waits was counted
//! under the same mutex before it let go of it, so that it is seen, or it sees the change and does not wait.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LockResult, MutexGuard, WaitTimeoutResult};
use std::time::Duration;

/// As std's, of which it has what is used here.
#[derive(Debug, Default)]
pub(crate) struct Condvar {
    inner: std::sync::Condvar,
    waiting: AtomicUsize,
}

/// Counts one that waits, also if the wait unwinds.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Condvar {
    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        let _waiting = Waiting::new(&self.waiting);
        self.inner.wait(guard)
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let _waiting = Waiting::new(&self.waiting);
        self.inner.wait_timeout(guard, timeout)
    }

    pub(crate) fn notify_all(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.inner.notify_all();
        }
    }
}

#[cfg(test)]
#[path = "condvar_test.rs"]
mod tests;
