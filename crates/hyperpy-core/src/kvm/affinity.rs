//! Which processors a thread may run on: sched_setaffinity(2), for the threads that drive vCPUs.

use std::io;
use std::mem::size_of;

/// Bits of the kernel's mask: processors 0 to 1023, as glibc's `cpu_set_t`.
const WORDS: usize = 16;
const BITS: u32 = u64::BITS;

/// A set of processors, by the host's numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CpuSet([u64; WORDS]);

impl CpuSet {
    /// The set of these processors; `None` if one has a number above 1023.
    #[must_use]
    pub fn new(cpus: impl IntoIterator<Item = u32>) -> Option<Self> {
        let mut words = [0; WORDS];
        for cpu in cpus {
            *words.get_mut((cpu / BITS) as usize)? |= 1 << (cpu % BITS);
        }
        Some(Self(words))
    }

    /// The processors in it, by ascending number.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let words = (0..).step_by(BITS as usize).zip(&self.0);
        words.flat_map(|(first, word)| (0..BITS).filter(move |bit| word >> bit & 1 != 0).map(move |bit| first + bit))
    }

    /// The processors that this thread may run on.
    ///
    /// # Errors
    /// The host has more than 1024.
    pub fn current() -> io::Result<Self> {
        let mut words = [0; WORDS];
        // SAFETY: the kernel writes at most the size that it is told, for the calling thread (0).
        match unsafe { libc::sched_getaffinity(0, size_of::<Self>(), (&raw mut words).cast()) } {
            0 => Ok(Self(words)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn apply(&self) -> io::Result<()> {
        // SAFETY: the kernel reads the size that it is told; the calling thread (0) is changed.
        match unsafe { libc::sched_setaffinity(0, size_of::<Self>(), (&raw const self.0).cast()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// This thread runs on these processors alone until the result is dropped.
    ///
    /// # Errors
    /// The thread may run on none of them.
    pub fn enter(&self) -> io::Result<Pinned> {
        let before = Self::current()?;
        self.apply()?;
        Ok(Pinned { before })
    }
}

impl std::fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A thread that is kept on some processors; it gets its own mask back at the end.
#[derive(Debug)]
pub struct Pinned {
    before: CpuSet,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It was this thread's mask before; where the host has taken those processors away since, it keeps what it has.
        let _ = self.before.apply();
    }
}

#[cfg(test)]
#[path = "affinity_test.rs"]
mod tests;
