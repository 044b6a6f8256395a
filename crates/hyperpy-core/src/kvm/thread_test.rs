//! Seats, ticks and kicks on the host's real timers and signals, and what a forked child sees.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::*;

#[derive(Debug, Default)]
struct Flag(AtomicU8);

impl ExitFlag for Flag {
    fn byte(&self) -> &AtomicU8 {
        &self.0
    }
}

const PERIOD: Duration = Duration::from_millis(20);

fn kick() -> (Arc<dyn ExitFlag>, Kick) {
    let flag: Arc<dyn ExitFlag> = Arc::new(Flag::default());
    let kick = Kick::new(&flag).unwrap();
    (flag, kick)
}

fn is_set(flag: &Arc<dyn ExitFlag>) -> bool {
    flag.byte().load(Ordering::SeqCst) != 0
}

fn timers_and_signals() -> (usize, i32) {
    let timers = std::fs::read_to_string("/proc/self/timers").unwrap().matches("notify:").count();
    // SAFETY: zeroed sets are valid; the calls only read this thread's mask.
    let blocked = unsafe {
        let mut mask = zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, null_mut(), &raw mut mask);
        libc::sigismember(&raw const mask, signal().unwrap())
    };
    (timers, blocked)
}

#[test]
fn test_sit_ticks_its_own_thread_and_leaves_nothing_behind() {
    let (flag, kick) = kick();
    block_signals();
    let before = timers_and_signals();
    assert_eq!(before.1, 1);
    let sitting = kick.sit(PERIOD).unwrap();
    assert_eq!(timers_and_signals(), (before.0 + 1, 0));
    let began = Instant::now();
    for _ in 0..3 {
        while !is_set(&flag) {
            std::hint::spin_loop();
        }
        kick.clear();
        assert!(kick.take_tick());
        assert!(!kick.take_tick());
    }
    assert!(began.elapsed() >= 2 * PERIOD, "{:?}", began.elapsed());
    assert!(kick.elapsed() > 0);
    drop(sitting);
    assert_eq!(timers_and_signals(), before);
    assert_eq!(kick.elapsed(), 0);
}

#[test]
fn test_kick_interrupts_a_system_call_and_is_no_tick() {
    let (flag, kick) = kick();
    let seated = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            let _sitting = kick.sit(Duration::from_secs(60)).unwrap();
            seated.store(true, Ordering::SeqCst);
            // poll(2) is never restarted, whatever SA_RESTART says.
            // SAFETY: no descriptors are given.
            let result = unsafe { libc::poll(null_mut(), 0, 20_000) };
            (result, io::Error::last_os_error().raw_os_error(), kick.take_tick())
        });
        while !seated.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        while !sleeper.is_finished() {
            kick.clear(); // the one before may have come before the call
            kick.kick();
            std::thread::yield_now();
        }
        assert_eq!(sleeper.join().unwrap(), (-1, Some(libc::EINTR), false));
    });
    assert!(is_set(&flag));
}

#[test]
fn test_kicks_of_a_thread_that_has_not_heard_the_first_queue_one_signal() {
    let (flag, kick) = kick();
    let _sitting = kick.sit(Duration::from_secs(60)).unwrap();
    let signal = signal().unwrap();
    // SAFETY: the set is initialised before use; the calls are of this thread's mask and pending signals.
    let (set, take) = unsafe {
        let mut set = MaybeUninit::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        let set = set.assume_init();
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, null_mut());
        (set, |set: &libc::sigset_t| libc::sigtimedwait(set, null_mut(), &timespec(Duration::ZERO)))
    };
    for _ in 0..2 {
        for _ in 0..10_000 {
            kick.kick();
        }
        assert_eq!(take(&set), signal);
        assert_eq!(take(&set), -1);
        assert!(is_set(&flag));
        kick.clear();
    }
}

#[test]
fn test_kick_of_a_vcpu_that_is_gone_does_nothing() {
    let (flag, kick) = kick();
    let weak = Arc::downgrade(&flag);
    drop(flag);
    // The kick does not keep what the flag lies in.
    assert!(weak.upgrade().is_none());
    kick.kick();
    kick.arm();
    kick.clear();
}

#[test]
fn test_seats_are_used_again() {
    let (_flag, first) = kick();
    let index = first.index;
    drop(first);
    let many: Vec<_> = (0..600).map(|_| kick()).collect();
    assert!(many.iter().any(|(_, kick)| kick.index == index));
    let highest = many.iter().map(|(_, kick)| kick.index).max().unwrap();
    drop(many);
    let again: Vec<_> = (0..600).map(|_| kick()).collect();
    assert!(again.iter().all(|(_, kick)| kick.index <= highest));
}

#[test]
fn test_two_vcpus_on_one_thread_each_get_their_tick() {
    // As when a signal handler runs a second machine.
    let ((outer_flag, outer), (inner_flag, inner)) = (kick(), kick());
    let _outer = outer.sit(PERIOD).unwrap();
    let sitting = inner.sit(PERIOD).unwrap();
    while !(is_set(&outer_flag) && is_set(&inner_flag)) {
        std::hint::spin_loop();
    }
    drop(sitting);
    outer.clear();
    while !is_set(&outer_flag) {
        std::hint::spin_loop();
    }
}

/// Runs `f` in the child of a fork; whether it came back, and within some seconds. Else a signal ends the child.
pub(crate) fn ends_in_child(f: impl FnOnce()) -> bool {
    // SAFETY: the child touches what it has a copy of, allocates at most (which fork(3) keeps usable), and ends by _exit.
    let status = unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::alarm(5);
            f();
            libc::_exit(0);
        }
        let mut status = -1;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        status
    };
    libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

// fault row 34
#[test]
fn test_fork_generation_differs_in_the_child() {
    let mine = fork_generation();
    assert!(ends_in_child(|| assert_ne!(fork_generation(), mine)));
    assert_eq!(fork_generation(), mine);
}

// fault row 34
#[test]
fn test_kick_dropped_in_the_child_waits_for_no_lock_that_the_parent_held() {
    let (_flag, kick) = kick();
    let mut kick = Some(kick);
    let held = FREE.lock().unwrap();
    assert!(ends_in_child(|| drop(kick.take())));
    drop(held);
}
