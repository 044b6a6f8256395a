//! A descriptor that gets a copy of the console's output: written on the vCPU's thread, which waits for a reader only
//! so long that a stop stays in time.
//!
//! Terminals and pipes are opened once more, so that this copy can be non-blocking without the flag showing in the shell
//! or whoever else has the terminal. What is not taken in time is counted, and the console's buffer still has it.

use std::fs::{File, OpenOptions, read_link};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::RawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::buffer::{duplicate, is_writable, takes_writes};

/// How long a vCPU waits for a sink that is full: the bound on stopping holds for it too.
const PATIENCE: Duration = Duration::from_millis(50);
/// What a pipe that is ready for writing takes without blocking.
const PIPE_BUF: usize = 4096;
/// A terminal can say that it has room and then not have enough for a line's end.
const PAUSE: Duration = Duration::from_millis(1);

pub(crate) struct Sink {
    file: File,
    /// It did not empty in time: it is waited for no more until it has.
    stalled: bool,
    lost: Arc<AtomicU64>,
}

impl Sink {
    pub(crate) fn open(descriptor: RawFd, lost: Arc<AtomicU64>) -> io::Result<Self> {
        let copy = duplicate(descriptor)?;
        if !is_writable(&copy)? {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        let path = format!("/proc/self/fd/{descriptor}");
        // The master's side of a pseudo-terminal must not be: opening it makes a new terminal.
        let is_master = || read_link(&path).map_or(true, |target| target.ends_with("ptmx"));
        let is_shared = copy.metadata()?.file_type().is_fifo() || (copy.is_terminal() && !is_master());
        let own = || OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(&path).ok();
        let file = is_shared.then(own).flatten().unwrap_or(copy);
        Ok(Self { file, stalled: false, lost })
    }

    pub(crate) fn take(&mut self, mut chunk: &[u8]) {
        let deadline = Instant::now() + if self.stalled { Duration::ZERO } else { PATIENCE };
        while !chunk.is_empty() {
            self.stalled = !takes_writes(&self.file, deadline);
            let piece = chunk.get(..PIPE_BUF).unwrap_or(chunk);
            match if self.stalled { Err(ErrorKind::WouldBlock.into()) } else { self.file.write(piece) } {
                Ok(written @ 1..) => chunk = chunk.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && !self.stalled && Instant::now() < deadline => {
                    sleep(PAUSE);
                }
                Ok(_) | Err(_) => {
                    self.lost.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                    return;
                }
            }
        }
    }
}
