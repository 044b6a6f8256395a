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

// -- put back -----------------------------------------------------------------------------------------------------------

fn text(console: &Console) -> (u64, String) {
    let (start, bytes) = console.read_from(0);
    (start, String::from_utf8(bytes).unwrap())
}

#[test]
fn test_console_put_back_has_the_text_positions_and_input_of_then() {
    let console = Console::new(64);
    console.write(b"login: ");
    console.set_unread(5);
    assert_eq!(console.send(b"root\n"), 5);
    let kept = console.save();
    console.write(b"root\nwelcome");
    console.set_unread(19);
    let _ = console.take_input(64);
    let _ = console.send(b"more");
    for _ in 0..2 {
        console.load(&kept).unwrap();
        assert_eq!((text(&console), console.end(), console.unread()), ((0, "login: ".to_owned()), 7, 5));
        assert_eq!(console.take_input(64), b"root\n");
        assert_eq!(console.input_len(), 0);
        console.write(b"guest");
        assert_eq!(text(&console), (0, "login: guest".to_owned()));
    }
}

#[test]
fn test_console_put_back_after_more_than_it_keeps_has_all_of_the_text_again() {
    let console = Console::new(8);
    console.write(b"0123456789");
    let kept = console.save();
    console.write(b"abcdefghijklm");
    console.load(&kept).unwrap();
    assert_eq!((text(&console), console.dropped()), ((2, "23456789".to_owned()), 2));
    console.write(b"xyz");
    assert_eq!(text(&console), (5, "56789xyz".to_owned()));
    // A smaller one keeps the end of it.
    let small = Console::new(3);
    small.load(&kept).unwrap();
    assert_eq!((text(&small), small.end()), ((7, "789".to_owned()), 10));
}

#[test]
fn test_copy_of_a_console_begins_where_it_was_and_goes_its_own_way() {
    let (parent, child) = (Console::new(64), Console::new(64));
    parent.write(b"boot ");
    child.load(&parent.save()).unwrap();
    parent.write(b"parent");
    child.write(b"child");
    assert_eq!((text(&parent).1, text(&child).1), ("boot parent".to_owned(), "boot child".to_owned()));
    let kept = parent.save();
    assert!(Arc::ptr_eq(&kept.text, &parent.save().text), "nothing was said: nothing is copied");
}

#[test]
fn test_taps_and_followers_get_each_byte_once_whatever_is_put_back() {
    let (console, seen) = (Console::new(64), Arc::new(Mutex::new(Vec::new())));
    let tapped = seen.clone();
    console.set_tap(Some(Box::new(move |chunk| tapped.lock().unwrap().extend_from_slice(chunk))));
    let (quick, slow) = (console.begin_follow(), console.begin_follow());
    console.write(b"one ");
    let kept = console.save();
    let mut told = console.told(quick, 64).1;
    for word in [b"two ", b"2.. "] {
        console.write(word);
        told.extend(console.told(quick, 3).1);
        console.load(&kept).unwrap();
    }
    console.write(b"three");
    assert!(console.follow(slow, console.wakes()));
    for id in [quick, slow] {
        let mut all = if id == quick { told.clone() } else { Vec::new() };
        loop {
            match console.told(id, 5) {
                (0, bytes) if bytes.is_empty() => break,
                (lost, bytes) => {
                    assert_eq!(lost, 0);
                    all.extend(bytes);
                }
            }
        }
        assert_eq!(String::from_utf8(all).unwrap(), "one two 2.. three");
    }
    assert_eq!(seen.lock().unwrap().as_slice(), b"one two 2.. three");
    console.end_follow(slow);
    assert_eq!(console.told(slow, 5), (0, Vec::new()));
}

#[test]
fn test_follower_that_never_comes_is_owed_no_more_than_a_console_keeps() {
    let console = Console::new(8);
    let id = console.begin_follow();
    let kept = console.save();
    for _ in 0..100 {
        console.write(b"01234567");
        console.load(&kept).unwrap();
    }
    assert_eq!(console.told(id, 64), (99 * 8, b"01234567".to_vec()));
}

#[test]
fn test_console_state_that_cannot_be_is_refused_and_changes_nothing() {
    let console = Console::new(8);
    console.write(b"abc");
    let right = console.save();
    let wrong = [
        ConsoleState { end: 2, ..right.clone() },
        ConsoleState { unread: 4, ..right.clone() },
        ConsoleState { input: vec![0; INPUT_CAPACITY + 1].into(), ..right.clone() },
    ];
    for state in wrong {
        assert!(matches!(console.load(&state.value()), Err(StateFault::Misfit(_))), "{state:?}");
        assert_eq!(console.save(), right);
    }
    console.load(&right.value()).unwrap();
    assert_eq!(console.save(), right);
}
