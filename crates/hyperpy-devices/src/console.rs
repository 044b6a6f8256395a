//! The host's side of a serial line: what the guest wrote, kept for readers, and what the host wants to send.
//!
//! Output goes into a bounded buffer whose bytes are counted from the machine's start, so that several readers follow
//! it, each by its own position; when it is full the oldest bytes go (docs/faults.md, 42). Input waits in a bounded
//! queue until the UART has room. Who waits for output sleeps on a condition variable.
//!
//! A snapshot has the transcript (its text and positions), how far the script has read it, and what waits for the guest. To put
//! one back makes the transcript that of then, and tells those who read by position alone: who follows all output, a sink, is
//! neither told anything again nor does it miss what it had not come to. So a follower counts all that this console ever got
//! (`told`), while positions are the transcript's. The text is shared by all snapshots and copies that have it.
//!
//! Locks: the output's and the input's are leaves, nothing is called under them. The tap is called under its own lock
//! only, so it may call anything here except what writes output or changes the tap. Waking the UART for input is
//! done under no lock at all.

mod transcript;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyperpy_core::snapshot::{Keeper, Saved, State, StateFault, check, with};

pub use self::transcript::ConsoleState;
use self::transcript::{Follower, Output};
use crate::lock;

/// Bytes of output that a console keeps unless it is told otherwise.
pub const DEFAULT_CAPACITY: usize = 1 << 20;
/// Bytes of input that wait for the guest at most.
pub const INPUT_CAPACITY: usize = 64 << 10;

/// Sees every chunk of output as it comes, in order: a file, or the terminal. It runs on the vCPU's thread; a slow
/// one slows the guest down.
pub type Tap = Box<dyn FnMut(&[u8]) + Send>;

type OnInput = Arc<dyn Fn() + Send + Sync>;

/// One serial line as the host sees it.
pub struct Console {
    capacity: usize,
    output: Mutex<Output>,
    grew: Condvar,
    tap: Mutex<Option<Tap>>,
    /// Whether there is a tap, so that output without one takes one lock instead of two.
    tapped: AtomicBool,
    input: Mutex<VecDeque<u8>>,
    /// Length of `input`, so that the UART sees an empty queue without a lock.
    input_len: AtomicUsize,
    on_input: Mutex<Option<OnInput>>,
}

impl Default for Console {
    fn default() -> Self {
        Self::new(DEFAULT_CAPACITY)
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("capacity", &self.capacity).field("end", &self.end()).finish_non_exhaustive()
    }
}

impl Console {
    /// An empty console that keeps the last `capacity` bytes of output.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            output: Mutex::default(),
            grew: Condvar::new(),
            tap: Mutex::default(),
            tapped: AtomicBool::new(false),
            input: Mutex::default(),
            input_len: AtomicUsize::new(0),
            on_input: Mutex::default(),
        }
    }

    /// Puts a tap on the output that comes from now on, or takes it off. Returns after a running tap has ended; a tap
    /// must not call this.
    pub fn set_tap(&self, tap: Option<Tap>) {
        let mut slot = lock(&self.tap);
        self.tapped.store(tap.is_some(), Ordering::Release);
        let old = std::mem::replace(&mut *slot, tap);
        // What a tap does when it is dropped is its own affair, so it is done without our lock.
        drop(slot);
        drop(old);
    }

    /// Takes output of the guest.
    pub fn write(&self, chunk: &[u8]) {
        if self.tapped.load(Ordering::Acquire) {
            // Held across both, so that the tap sees chunks in the order of the buffer.
            let mut tap = lock(&self.tap);
            self.keep(chunk);
            if let Some(tap) = tap.as_mut() {
                tap(chunk);
            }
        } else {
            self.keep(chunk);
        }
    }

    fn keep(&self, chunk: &[u8]) {
        let mut output = lock(&self.output);
        output.push(chunk, self.capacity);
        let waited_for = output.waiters > 0;
        drop(output);
        if waited_for {
            self.grew.notify_all();
        }
    }

    /// Position of the oldest byte that is still there.
    #[must_use]
    pub fn start(&self) -> u64 {
        lock(&self.output).start()
    }

    /// Position after the newest byte: how many bytes the guest has written.
    #[must_use]
    pub fn end(&self) -> u64 {
        lock(&self.output).end
    }

    /// How many bytes were pushed out by newer ones. They are the first ones, so this equals [`Console::start`].
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.start()
    }

    /// The output from a position on, and the position of its first byte: later than asked for when bytes were
    /// dropped, the end when the position is not reached yet.
    #[must_use]
    pub fn read_from(&self, position: u64) -> (u64, Vec<u8>) {
        self.read_some(position, usize::MAX)
    }

    /// The same, but no more than `max` bytes: a reader that follows the output does not hold the guest up for long.
    #[must_use]
    pub fn read_some(&self, position: u64, max: usize) -> (u64, Vec<u8>) {
        lock(&self.output).copy(position, max)
    }

    /// Position up to which the script has read.
    #[must_use]
    pub fn unread(&self) -> u64 {
        lock(&self.output).unread
    }

    /// The script has read up to there.
    pub fn set_unread(&self, position: u64) {
        lock(&self.output).unread = position;
    }

    /// Someone gets all output from now on, by [`Console::told`], until [`Console::end_follow`]: their number.
    #[must_use]
    pub fn begin_follow(&self) -> u64 {
        let mut output = lock(&self.output);
        output.last_follower += 1;
        let (id, position) = (output.last_follower, output.end);
        output.followers.push(Follower { id, position, ..Follower::default() });
        id
    }

    /// They follow no more.
    pub fn end_follow(&self, id: u64) {
        lock(&self.output).followers.retain(|it| it.id != id);
    }

    /// The next output for who follows, at most so many bytes, and how many were pushed out before it came to them.
    #[must_use]
    pub fn told(&self, id: u64, max: usize) -> (u64, Vec<u8>) {
        lock(&self.output).tell(id, max)
    }

    /// How many times [`Console::wake`] was called, for [`Console::follow`].
    #[must_use]
    pub fn wakes(&self) -> u64 {
        lock(&self.output).wakes
    }

    /// Waits until there is something for who follows, whether the machine runs or not, or until `wake` has been called
    /// since `wakes` was read. Returns whether there is.
    #[must_use]
    pub fn follow(&self, id: u64, wakes: u64) -> bool {
        let mut output = lock(&self.output);
        output.waiters += 1;
        while !output.is_ahead_of(id) && output.wakes == wakes {
            output = self.grew.wait(output).unwrap_or_else(PoisonError::into_inner);
        }
        output.waiters -= 1;
        output.is_ahead_of(id)
    }

    /// What a snapshot has of it, while the guest stands still.
    #[must_use]
    pub fn save(&self) -> ConsoleState {
        let input = lock(&self.input).iter().copied().collect();
        let mut output = lock(&self.output);
        ConsoleState { end: output.end, text: output.share(), unread: output.unread.min(output.end), input }
    }

    /// Makes transcript and input what they were when that was saved, of this console or of another one. Nobody who follows, and no
    /// tap, gets anything again. The device that takes the input is to be put back after it.
    ///
    /// # Errors
    /// It is no such state.
    pub fn load(&self, state: &dyn Saved) -> Result<(), StateFault> {
        with(state, |state: &ConsoleState| self.put(state))
    }

    fn put(&self, state: &ConsoleState) {
        let mut waiting = lock(&self.input);
        waiting.clear();
        waiting.extend(state.input.iter());
        self.input_len.store(waiting.len(), Ordering::SeqCst);
        drop(waiting);
        let mut output = lock(&self.output);
        let before = output.replace(state, self.capacity);
        drop((output, before)); // in this order: it may be long
    }

    /// Wakes all who follow, so that they look at why.
    pub fn wake(&self) {
        let mut output = lock(&self.output);
        output.wakes = output.wakes.wrapping_add(1);
        drop(output);
        self.grew.notify_all();
    }

    /// Waits until there is output past a position, the console is closed, or the time is over. Returns whether there
    /// is. A transcript that is put back may end before the position: who waits for long looks at [`Console::end`] now and then.
    #[must_use]
    pub fn wait_past(&self, position: u64, timeout: Duration) -> bool {
        // None: a time so far off that it does not come.
        let deadline = Instant::now().checked_add(timeout);
        let mut output = lock(&self.output);
        output.waiters += 1;
        while output.end <= position && !output.closed {
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            output = match left {
                Some(Duration::ZERO) => break,
                Some(left) => self.grew.wait_timeout(output, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.grew.wait(output).unwrap_or_else(PoisonError::into_inner),
            };
        }
        output.waiters -= 1;
        output.end > position
    }

    /// Says that no output will come, because the machine has stopped: wakes all who wait. What is there stays.
    pub fn close(&self) {
        let mut output = lock(&self.output);
        output.closed = true;
        let waited_for = output.waiters > 0;
        drop(output);
        if waited_for {
            self.grew.notify_all();
        }
    }

    /// Says that output can come again: the machine was reset or runs on.
    pub fn reopen(&self) {
        lock(&self.output).closed = false;
    }

    /// Whether the machine has stopped.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        lock(&self.output).closed
    }

    /// Queues input for the guest and returns how many bytes were taken; the rest did not fit.
    #[must_use]
    pub fn send(&self, bytes: &[u8]) -> usize {
        let mut input = lock(&self.input);
        let taken = bytes.len().min(INPUT_CAPACITY.saturating_sub(input.len()));
        input.extend(bytes.iter().take(taken));
        self.input_len.store(input.len(), Ordering::SeqCst);
        drop(input);
        let on_input = lock(&self.on_input).clone();
        if let Some(on_input) = on_input {
            on_input();
        }
        taken
    }

    /// How many bytes of input wait for the guest.
    #[must_use]
    pub fn input_len(&self) -> usize {
        self.input_len.load(Ordering::SeqCst)
    }

    /// Takes up to `max` bytes of input: the device's side.
    #[must_use]
    pub fn take_input(&self, max: usize) -> Vec<u8> {
        let mut input = lock(&self.input);
        let count = max.min(input.len());
        let taken = input.drain(..count).collect();
        self.input_len.store(input.len(), Ordering::SeqCst);
        taken
    }

    /// Sets what [`Console::send`] calls after it has queued bytes; there is one such listener, the latest.
    pub fn on_input(&self, listener: impl Fn() + Send + Sync + 'static) {
        let old = lock(&self.on_input).replace(Arc::new(listener));
        drop(old);
    }
}

impl Keeper for Console {
    fn save(&self) -> State {
        Arc::new(Self::save(self))
    }

    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        check::<ConsoleState>(state)
    }

    fn load(&self, state: &dyn Saved) -> Result<(), StateFault> {
        Self::load(self, state)
    }
}

#[cfg(test)]
#[path = "console_test.rs"]
mod tests;
