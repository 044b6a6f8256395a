use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use proptest::prelude::*;

use super::*;

const LONG: Duration = Duration::from_secs(60);

#[test]
fn test_output_within_capacity_is_kept_whole() {
    let console = Console::new(8);
    console.write(b"abc");
    console.write(b"defgh");
    assert_eq!(console.read_from(0), (0, b"abcdefgh".to_vec()));
    assert_eq!((console.start(), console.end(), console.dropped()), (0, 8, 0));
}

#[test]
fn test_output_past_capacity_drops_the_oldest_and_counts() {
    for (chunks, start, kept) in [
        (vec!["abcdefgh", "i"], 1, "bcdefghi"),
        (vec!["abcdefgh", "ijk"], 3, "defghijk"),
        (vec!["abc", "0123456789"], 5, "23456789"),
        (vec!["", "abcdefghabcdefghxyz"], 11, "defghxyz"),
    ] {
        let console = Console::new(8);
        for chunk in &chunks {
            console.write(chunk.as_bytes());
        }
        assert_eq!(console.read_from(0), (start, kept.as_bytes().to_vec()), "{chunks:?}");
        assert_eq!(console.dropped(), start);
        assert_eq!(console.end(), start + 8);
    }
}

#[test]
fn test_read_from_position_of_each_reader() {
    let console = Console::new(8);
    console.write(b"0123456789");
    for (position, expected) in [(0, (2, "23456789")), (2, (2, "23456789")), (7, (7, "789")), (10, (10, ""))] {
        assert_eq!(console.read_from(position), (expected.0, expected.1.as_bytes().to_vec()));
    }
    assert_eq!(console.read_from(u64::MAX), (10, vec![]), "a position that is not reached yet");
}

// fault row 42
#[test]
fn test_read_some_gives_no_more_than_is_asked_for_wherever_it_lies() {
    let console = Console::new(8);
    console.write(b"0123456789ab"); // the ring has turned
    for start in 4..=12 {
        for max in 0..=9 {
            let from = usize::try_from(start).unwrap();
            let expected = &b"0123456789ab"[from..(from + max).min(12)];
            assert_eq!(console.read_some(start, max), (start, expected.to_vec()), "{start}, {max}");
        }
    }
    assert_eq!(console.read_some(0, 2), (4, b"45".to_vec()));
}

#[test]
fn test_follow_waits_also_when_closed_and_ends_with_output_or_a_wake() {
    let console = Arc::new(Console::new(8));
    console.close();
    let wakes = console.wakes();
    let follower = console.clone();
    let id = console.begin_follow();
    let following =
        thread::spawn(move || (follower.follow(id, wakes), follower.told(id, 9).1, follower.follow(id, wakes)));
    while lock(&console.output).waiters == 0 {
        thread::yield_now();
    }
    console.write(b"a");
    while lock(&console.output).waiters == 0 && !following.is_finished() {
        thread::yield_now();
    }
    console.wake();
    assert_eq!(following.join().unwrap(), (true, b"a".to_vec(), false));
    assert!(!console.follow(id, wakes), "the wake was before");
}

// fault row 42
#[test]
fn test_flood_costs_bounded_memory() {
    let console = Console::default();
    let chunk = [b'x'; 4096];
    for _ in 0..8192 {
        console.write(&chunk);
    }
    for _ in 0..100_000 {
        console.write(b"y");
    }
    let output = lock(&console.output);
    assert_eq!(output.end, 8192 * 4096 + 100_000);
    assert_eq!(output.bytes.len(), DEFAULT_CAPACITY);
    assert!(output.bytes.capacity() <= 2 * DEFAULT_CAPACITY, "{}", output.bytes.capacity());
}

#[test]
fn test_console_of_no_capacity_only_counts() {
    let console = Console::new(0);
    console.write(b"abc");
    assert_eq!(console.read_from(0), (3, vec![]));
    assert_eq!(console.dropped(), 3);
}

#[test]
fn test_wait_past_without_output_times_out() {
    let console = Console::new(8);
    console.write(b"ab");
    assert!(console.wait_past(1, Duration::ZERO));
    assert!(!console.wait_past(2, Duration::ZERO));
    assert!(!console.wait_past(2, Duration::from_millis(5)));
    assert_eq!(lock(&console.output).waiters, 0);
}

/// Starts a thread that waits past `position`, and returns once it does wait.
fn waiter(console: &Arc<Console>, position: u64, timeout: Duration) -> thread::JoinHandle<bool> {
    let theirs = console.clone();
    let before = lock(&console.output).waiters;
    let thread = thread::spawn(move || theirs.wait_past(position, timeout));
    // The count is made under the lock that the wait gives up: past it the thread cannot miss a wake-up.
    while lock(&console.output).waiters == before {
        thread::yield_now();
    }
    thread
}

#[test]
fn test_wait_past_is_woken_by_output() {
    let console = Arc::new(Console::new(8));
    // One with a timeout whose end no clock can express: it must wait for ever, not panic.
    let (one, other) = (waiter(&console, 2, LONG), waiter(&console, 0, Duration::MAX));
    console.write(b"a");
    assert!(other.join().unwrap());
    console.write(b"b");
    assert!(!one.is_finished(), "2 is not past 2");
    console.write(b"c");
    assert!(one.join().unwrap());
}

#[test]
fn test_wait_past_is_woken_by_close() {
    let console = Arc::new(Console::new(8));
    let thread = waiter(&console, 0, LONG);
    console.close();
    assert!(!thread.join().unwrap());
    assert!(console.is_closed());
    assert!(!console.wait_past(0, LONG), "a closed console is not waited for");
    console.write(b"late");
    assert!(console.wait_past(0, LONG), "what is there is found, closed or not");
    console.reopen();
    assert!(!console.is_closed());
    assert!(!console.wait_past(4, Duration::from_millis(1)));
}

#[test]
fn test_two_threads_reader_follows_writer_without_loss() {
    let console = Arc::new(Console::new(1 << 16));
    let writer = {
        let console = console.clone();
        thread::spawn(move || {
            for i in 0..20_000_u32 {
                console.write(&[i as u8]);
            }
            console.close();
        })
    };
    let (mut position, mut seen) = (0, Vec::new());
    while console.wait_past(position, LONG) {
        let (start, bytes) = console.read_from(position);
        assert_eq!(start, position);
        position = start + bytes.len() as u64;
        seen.extend(bytes);
    }
    writer.join().unwrap();
    assert_eq!(seen, (0..20_000_u32).map(|i| i as u8).collect::<Vec<_>>());
}

#[test]
fn test_tap_sees_every_chunk_in_the_order_of_the_buffer() {
    let console = Arc::new(Console::new(1 << 20));
    let (sender, receiver) = mpsc::channel();
    console.set_tap(Some(Box::new(move |chunk: &[u8]| sender.send(chunk.to_vec()).unwrap())));
    let writers = [b'a', b'b'].map(|byte| {
        let console = console.clone();
        thread::spawn(move || (1..200).for_each(|n| console.write(&vec![byte; n % 7])))
    });
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    console.set_tap(None);
    console.write(b"after");
    let tapped: Vec<u8> = receiver.into_iter().flatten().collect();
    assert_eq!([&tapped[..], b"after"].concat(), console.read_from(0).1);
}

#[test]
fn test_tap_may_read_wait_and_send() {
    let console = Arc::new(Console::new(64));
    let theirs = console.clone();
    console.set_tap(Some(Box::new(move |chunk| {
        assert!(theirs.wait_past(0, Duration::ZERO));
        assert!(theirs.read_from(0).1.ends_with(chunk));
        assert_eq!(theirs.send(chunk), chunk.len());
    })));
    console.write(b"echo");
    assert_eq!(console.take_input(64), b"echo");
    console.set_tap(None);
}

#[test]
fn test_input_past_capacity_is_refused_and_said_so() {
    let console = Console::new(8);
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    console.on_input(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    assert_eq!(console.send(&vec![1; INPUT_CAPACITY - 2]), INPUT_CAPACITY - 2);
    assert_eq!(console.send(&[2, 3, 4]), 2);
    assert_eq!(console.send(&[5]), 0);
    assert_eq!(console.input_len(), INPUT_CAPACITY);
    assert_eq!(console.take_input(INPUT_CAPACITY - 2).len(), INPUT_CAPACITY - 2);
    assert_eq!(console.take_input(100), [2, 3]);
    assert_eq!((console.input_len(), console.take_input(1)), (0, vec![]));
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

proptest! {
    /// Against the plainest model: all output ever, and its last `capacity` bytes.
    #[test]
    fn test_any_chunks_show_the_end_of_all_output(
        capacity in 0_usize..40,
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20),
        position in 0_u64..1500,
    ) {
        let console = Console::new(capacity);
        let mut all = Vec::new();
        for chunk in &chunks {
            console.write(chunk);
            all.extend_from_slice(chunk);
        }
        let start = all.len().saturating_sub(capacity);
        let from = (position as usize).clamp(start, all.len());
        prop_assert_eq!(console.read_from(position), (from as u64, all[from..].to_vec()));
        prop_assert_eq!((console.start(), console.end()), (start as u64, all.len() as u64));
    }
}
