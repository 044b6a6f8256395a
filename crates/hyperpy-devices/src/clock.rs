//! The time that devices show their guest, injected so that tests and later deterministic runs can supply their own.

use std::time::{Instant, SystemTime};

/// A source of time. Both readings may be asked for by several vCPUs at once.
pub trait Clock: Send + Sync {
    /// Time of day, UTC. It may jump either way when somebody sets the host's clock.
    fn wall(&self) -> SystemTime;
    /// Nanoseconds since some fixed moment; never goes back.
    fn monotonic_ns(&self) -> u64;
}

/// The host's clocks; the monotonic one counts from when this was made.
#[derive(Debug)]
pub struct HostClock {
    start: Instant,
}

impl Default for HostClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for HostClock {
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
    fn monotonic_ns(&self) -> u64 {
        // 584 years fit.
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
