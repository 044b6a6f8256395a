//! A console's text by position, and who gets all of it whatever becomes of that.
//!
//! The text is in two parts: what a snapshot has shares it, what came since is the console's own. So a snapshot of a console that
//! has said nothing since the last one copies nothing, nor does putting one back, nor a copy of the machine.

use std::collections::VecDeque;
use std::sync::Arc;

use hyperpy_core::snapshot::{StateFault, require};
use hyperpy_core::state;

use super::INPUT_CAPACITY;

#[derive(Debug, Default)]
pub(super) struct Output {
    /// The text up to the last snapshot, which shares it, and how many bytes of it newer ones have pushed out.
    pub(super) before: Arc<[u8]>,
    pub(super) pushed_out: usize,
    /// The text since.
    pub(super) bytes: VecDeque<u8>,
    /// Position after the last byte.
    pub(super) end: u64,
    /// Position up to which the script has read.
    pub(super) unread: u64,
    pub(super) followers: Vec<Follower>,
    /// Number of the last one.
    pub(super) last_follower: u64,
    /// How many threads are in `wait_past`; nobody is notified when there are none.
    pub(super) waiters: usize,
    pub(super) closed: bool,
    /// How many times `wake` was called.
    pub(super) wakes: u64,
}

/// Who gets all output, whatever becomes of the transcript.
#[derive(Debug, Default)]
pub(super) struct Follower {
    /// Tells it from others.
    pub(super) id: u64,
    /// Position up to which it has the transcript's.
    pub(super) position: u64,
    /// What it had not come to when a transcript was replaced.
    pub(super) owed: VecDeque<u8>,
    /// Bytes that were pushed out before it came to them.
    pub(super) lost: u64,
}

state! {
    /// What a snapshot has of a console. Made by one, or of plain data, and right therefore.
    pub struct ConsoleState {
        /// Position after the last byte of output: what the guest had written.
        pub(super) end: u64,
        /// The output that was still kept, up to there.
        pub(super) text: Arc<[u8]>,
        /// Position up to which the script had read.
        pub(super) unread: u64,
        /// What waited for the guest.
        pub(super) input: Box<[u8]>,
    }
    check rules;
}

impl ConsoleState {
    fn rules(&self) -> Result<(), StateFault> {
        require(self.text.len() as u64 <= self.end, "text is longer than all output")?;
        require(self.unread <= self.end, "unread is behind the end")?;
        require(self.input.len() <= INPUT_CAPACITY, "input is longer than the queue")
    }
}

impl Output {
    pub(super) fn len(&self) -> usize {
        self.before.len() - self.pushed_out + self.bytes.len()
    }

    pub(super) fn start(&self) -> u64 {
        self.end - self.len() as u64
    }

    /// The text in its parts.
    pub(super) fn parts(&self) -> [&[u8]; 3] {
        let (front, back) = self.bytes.as_slices();
        [self.before.get(self.pushed_out..).unwrap_or_default(), front, back]
    }

    /// The text from a position on, at most so many bytes, and where it begins.
    pub(super) fn copy(&self, position: u64, max: usize) -> (u64, Vec<u8>) {
        let from = position.clamp(self.start(), self.end);
        let mut skip = usize::try_from(from - self.start()).unwrap_or(usize::MAX);
        let mut left = max.min(self.len().saturating_sub(skip));
        let mut bytes = Vec::with_capacity(left);
        for part in self.parts() {
            let here = part.get(skip.min(part.len())..).unwrap_or_default();
            let here = here.get(..left.min(here.len())).unwrap_or_default();
            bytes.extend_from_slice(here);
            skip = skip.saturating_sub(part.len());
            left -= here.len();
        }
        (from, bytes)
    }

    /// Takes the text of a snapshot; returns what it had, to be dropped without a lock.
    pub(super) fn replace(&mut self, state: &ConsoleState, capacity: usize) -> Arc<[u8]> {
        let mut followers = std::mem::take(&mut self.followers);
        for follower in &mut followers {
            follower.leave(self, capacity);
            follower.position = state.end;
        }
        self.followers = followers;
        self.pushed_out = state.text.len().saturating_sub(capacity);
        self.bytes.clear();
        (self.end, self.unread) = (state.end, state.unread);
        std::mem::replace(&mut self.before, state.text.clone())
    }

    /// The next output for a follower, and how many bytes were pushed out before it.
    pub(super) fn tell(&mut self, id: u64, max: usize) -> (u64, Vec<u8>) {
        let Some(at) = self.followers.iter().position(|it| it.id == id) else { return (0, Vec::new()) };
        let mut follower = self.followers.swap_remove(at);
        let mut lost = std::mem::take(&mut follower.lost);
        let bytes = if follower.owed.is_empty() {
            let (start, bytes) = self.copy(follower.position, max);
            lost += start.saturating_sub(follower.position);
            follower.position = start + bytes.len() as u64;
            bytes
        } else {
            let count = follower.owed.len().min(max);
            follower.owed.drain(..count).collect()
        };
        self.followers.push(follower);
        (lost, bytes)
    }

    /// Whether there is something for a follower.
    pub(super) fn is_ahead_of(&self, id: u64) -> bool {
        let follower = self.followers.iter().find(|it| it.id == id);
        follower.is_some_and(|it| !it.owed.is_empty() || it.position < self.end)
    }

    /// Has all of the text shared from now on.
    pub(super) fn share(&mut self) -> Arc<[u8]> {
        if !self.bytes.is_empty() || self.pushed_out > 0 {
            self.before = self.copy(0, usize::MAX).1.into();
            self.pushed_out = 0;
            self.bytes.clear();
        }
        self.before.clone()
    }

    pub(super) fn push(&mut self, chunk: &[u8], capacity: usize) {
        self.end = self.end.saturating_add(chunk.len() as u64);
        // Of a chunk that is larger than the buffer only the end stays. Room is made first, so that the buffer never
        // grows beyond its capacity.
        let kept = chunk.get(chunk.len().saturating_sub(capacity)..).unwrap_or_default();
        let mut excess = (self.len() + kept.len()).saturating_sub(capacity);
        let of_before = excess.min(self.before.len() - self.pushed_out);
        self.pushed_out += of_before;
        excess -= of_before;
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
    }
}

impl Follower {
    /// The transcript is replaced: what it had not come to of it waits for it, as much as a console keeps.
    fn leave(&mut self, output: &Output, capacity: usize) {
        let (start, bytes) = output.copy(self.position, usize::MAX);
        self.lost += start.saturating_sub(self.position);
        let excess = (self.owed.len() + bytes.len()).saturating_sub(capacity).min(self.owed.len());
        self.owed.drain(..excess);
        self.lost += excess as u64;
        self.owed.extend(bytes);
    }
}
