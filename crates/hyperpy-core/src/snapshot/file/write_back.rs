//! Has the disk begin with a file while it is still being written, so that in the end only the rest is waited for.
//!
//! What is durable, and whether the disk has failed, is for `fsync` to say: here the host is only asked to begin. Asking waits
//! where the disk has enough to do, which is why a thread of its own does it.

use std::fs::File;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::memory::begin_write_back;

/// So many bytes are worth asking for.
const STRIDE: u64 = 4 << 20;

/// Where it is told how far the file has come.
pub(super) struct Progress {
    to: Sender<u64>,
    told: u64,
}

/// Who is told, and what he is told by.
pub(super) fn progress() -> (Progress, Receiver<u64>) {
    let (to, from) = channel();
    (Progress { to, told: 0 }, from)
}

impl Progress {
    /// There are so many bytes of it now.
    pub fn reached(&mut self, end: u64) {
        if end - self.told >= STRIDE {
            self.told = end;
            // Nobody is there only while the file is given up.
            let _ = self.to.send(end);
        }
    }
}

/// Asks for what has been written, until the file is as long as it will be.
pub(super) fn follow(file: &File, progress: &Receiver<u64>) {
    let mut begun = 0;
    while let Ok(end) = progress.recv() {
        let end = progress.try_iter().last().unwrap_or(end);
        begin_write_back(file, begun, end - begun);
        begun = end;
    }
}

#[cfg(test)]
#[path = "write_back_test.rs"]
mod tests;
