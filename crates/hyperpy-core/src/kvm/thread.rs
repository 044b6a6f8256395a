//! What a vCPU's thread needs of the host: the kick, the tick, the signal masks, and its processor time.
//!
//! One real-time signal serves both. A *kick* comes from another thread: it sets the vCPU's exit flag and then signals,
//! so that the vCPU leaves the guest now, or the next KVM_RUN returns at once. A *tick* comes from a timer to the
//! vCPU's own thread; its handler sets that thread's exit flag, so that a tick that arrives outside KVM_RUN is not lost
//! either. Both therefore end as "KVM_RUN was interrupted", and the exit path itself checks nothing.
//!
//! The handler touches only atomics in `Seat`s, which are never freed; a signal that comes late finds a seat of
//! another thread and leaves it alone.

use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use crate::accel::ExitFlag;

/// A place for one vCPU in the table that the signal handler reads.
#[derive(Debug)]
struct Seat {
    /// The thread that drives the vCPU now, or 0.
    tid: AtomicI32,
    /// The byte that makes KVM_RUN return, or null. Only the thread `tid` sets it and the handler on that thread reads it.
    flag: AtomicPtr<u8>,
    /// The thread that was signalled since the flag was last cleared, or 0: it gets no second signal before.
    signalled: AtomicI32,
    ticked: AtomicBool,
    /// Processor time of that thread when it sat down, in nanoseconds.
    since: AtomicU64,
}

impl Seat {
    const fn empty() -> Self {
        Self {
            tid: AtomicI32::new(0),
            flag: AtomicPtr::new(null_mut()),
            signalled: AtomicI32::new(0),
            ticked: AtomicBool::new(false),
            since: AtomicU64::new(0),
        }
    }
}

const CHUNK: usize = 256;
const CHUNKS: usize = 256;

type Seats = [Seat; CHUNK];

/// Chunks of seats, made when needed and never freed: the handler may read them at any time.
static TABLE: [AtomicPtr<Seats>; CHUNKS] = [const { AtomicPtr::new(null_mut()) }; CHUNKS];

static FREE: Mutex<FreeSeats> = Mutex::new(FreeSeats { returned: Vec::new(), next: 0 });

struct FreeSeats {
    returned: Vec<usize>,
    next: usize,
}

fn seat(index: usize) -> Option<&'static Seat> {
    let chunk = TABLE.get(index / CHUNK)?.load(Ordering::Acquire);
    // SAFETY: a non-null entry is a leaked Box<Seats>, shared and never freed or mutated but through atomics.
    unsafe { chunk.as_ref() }?.get(index % CHUNK)
}

fn take_seat() -> io::Result<usize> {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(index) = free.returned.pop() {
        return Ok(index);
    }
    let index = free.next;
    let slot = TABLE
        .get(index / CHUNK)
        .ok_or_else(|| io::Error::other("more than 65536 vcpus in one process: close machines"))?;
    if slot.load(Ordering::Acquire).is_null() {
        slot.store(Box::leak(Box::new([const { Seat::empty() }; CHUNK])), Ordering::Release);
    }
    free.next += 1;
    Ok(index)
}

/// The handler: see the module. Async-signal-safe: atomics, gettid, errno put back.
extern "C" fn on_signal(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo_t to an SA_SIGINFO handler.
    let (code, value) = unsafe { ((*info).si_code, (*info).si_value().sival_ptr as usize) };
    if code != libc::SI_TIMER {
        return; // a kick: the kicker has set the flag, the signal itself has done its work
    }
    let Some(seat) = seat(value) else { return };
    // SAFETY: errno is this thread's own; gettid cannot fail. Restored because the handler may interrupt anything.
    let here = unsafe {
        let errno = *libc::__errno_location();
        let tid = libc::gettid();
        *libc::__errno_location() = errno;
        tid
    };
    if seat.tid.load(Ordering::Relaxed) != here {
        return;
    }
    seat.ticked.store(true, Ordering::Relaxed);
    let flag = seat.flag.load(Ordering::Relaxed);
    if !flag.is_null() {
        // SAFETY: this thread put the pointer there in `sit` and takes it away in `Sitting::drop`; in between it drives the
        // vCPU, which owns the page; the handler runs on this thread, so it cannot see the pointer after that. The byte is
        // only touched as an atomic.
        unsafe { AtomicU8::from_ptr(flag) }.store(1, Ordering::SeqCst);
    }
}

/// The signal that carries kicks and ticks, with its handler installed at the first use.
///
/// # Errors
/// Every real-time signal is in use, or the host refuses the handler.
fn signal() -> io::Result<libc::c_int> {
    static SIGNAL: OnceLock<Result<libc::c_int, i32>> = OnceLock::new();
    SIGNAL
        .get_or_init(|| install().map_err(|error| error.raw_os_error().unwrap_or(libc::EAGAIN)))
        .map_err(io::Error::from_raw_os_error)
}

fn install() -> io::Result<libc::c_int> {
    // SAFETY: a zeroed sigaction is a valid value: default disposition, no flags, empty mask.
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = on_signal as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
    // From the middle of the range: its ends are where libraries look for one of their own.
    for number in libc::SIGRTMIN() + 8..=libc::SIGRTMAX() {
        // SAFETY: both structures are valid for the calls; a null new action only asks.
        unsafe {
            let mut old: libc::sigaction = zeroed();
            if libc::sigaction(number, null_mut(), &raw mut old) != 0 || old.sa_sigaction != libc::SIG_DFL {
                continue;
            }
            if libc::sigaction(number, &raw const action, null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        return Ok(number);
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}

/// Makes one vCPU leave the guest, from any thread.
pub struct Kick {
    index: usize,
    /// Weak: the page that holds the flag keeps KVM's vCPU and, by it, the whole VM alive in the kernel, and statistics
    /// keep the kick long after the machine is closed.
    /// A reset gives the vCPU a new one.
    flag: Mutex<Weak<dyn ExitFlag>>,
    /// The process that it belongs to.
    forks: u64,
}

impl std::fmt::Debug for Kick {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kick({})", self.index)
    }
}

impl Kick {
    /// A kick for the vCPU with this exit flag.
    ///
    /// # Errors
    /// There are 65,536 vCPUs already.
    pub fn new(flag: &Arc<dyn ExitFlag>) -> io::Result<Self> {
        Ok(Self { index: take_seat()?, flag: Mutex::new(Arc::downgrade(flag)), forks: fork_generation() })
    }

    /// Kicks the vCPU with this exit flag from now on. Nobody drives the one before, nor will.
    pub(crate) fn rebind(&self, flag: &Arc<dyn ExitFlag>) {
        *self.flag.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(flag);
    }

    fn flag(&self) -> Option<Arc<dyn ExitFlag>> {
        self.flag.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    fn set_flag(&self, value: u8) {
        if let Some(flag) = self.flag() {
            flag.byte().store(value, Ordering::SeqCst);
        }
    }

    /// Makes the present KVM_RUN, or else the next, return at once. Store what you want of the vCPU before.
    ///
    /// A thread gets one signal until it has cleared the flag: the kernel queues every real-time signal, and callers
    /// that kick faster than one is handled would keep it in the handler, and use up what its user may have pending.
    pub fn kick(&self) {
        self.set_flag(1);
        let Some(seat) = seat(self.index) else { return };
        let tid = seat.tid.load(Ordering::SeqCst);
        if tid <= 0 || seat.signalled.swap(tid, Ordering::SeqCst) == tid {
            return;
        }
        if let Ok(signal) = signal() {
            // SAFETY: plain system call. A thread that is gone gives ESRCH; one that took its number meanwhile runs a
            // handler that does nothing.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal) };
        }
    }

    /// Sets the flag without a signal, on the vCPU's own thread: the next KVM_RUN completes a pending access and returns.
    pub fn arm(&self) {
        self.set_flag(1);
    }

    /// Whether the flag is set: someone wants the vCPU to leave, or its tick came.
    pub fn is_set(&self) -> bool {
        self.flag().is_some_and(|flag| flag.byte().load(Ordering::SeqCst) != 0)
    }

    /// Clears the flag. The vCPU's own thread calls it, and then looks for requests, and then enters the guest: a
    /// request made after the look has set the flag again, and one whose kick still found the thread signalled was made
    /// before it.
    pub fn clear(&self) {
        if let Some(seat) = seat(self.index) {
            seat.signalled.store(0, Ordering::SeqCst);
        }
        self.set_flag(0);
        fence(Ordering::SeqCst);
    }

    /// Whether the tick came since the last call.
    #[must_use]
    pub fn take_tick(&self) -> bool {
        seat(self.index).is_some_and(|seat| seat.ticked.swap(false, Ordering::Relaxed))
    }

    /// Processor time that the thread which drives the vCPU now has used since it sat down, in nanoseconds; 0 while
    /// nobody drives it.
    #[must_use]
    pub fn elapsed(&self) -> u64 {
        let Some(seat) = seat(self.index) else { return 0 };
        let tid = seat.tid.load(Ordering::SeqCst);
        let now = if tid > 0 { thread_time(tid).unwrap_or(0) } else { 0 };
        now.saturating_sub(seat.since.load(Ordering::SeqCst))
    }

    /// The calling thread drives the vCPU until the result is dropped; it gets a tick every `period`.
    ///
    /// # Errors
    /// The host has no timer or signal left.
    pub(crate) fn sit(&self, period: Duration) -> io::Result<Sitting<'_>> {
        let signal = signal()?;
        let seat = seat(self.index).ok_or_else(|| io::Error::other("no such seat"))?;
        // SAFETY: the set is initialised before use; pthread_sigmask writes the old one.
        let old_mask = unsafe {
            let mut set = MaybeUninit::uninit();
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), signal);
            let mut old: libc::sigset_t = zeroed();
            libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), &raw mut old);
            (libc::sigismember(&raw const old, signal) == 1).then_some(old)
        };
        // SAFETY: gettid cannot fail.
        let tid = unsafe { libc::gettid() };
        let flag = self.flag().map_or(null_mut(), |flag| flag.byte().as_ptr());
        seat.ticked.store(false, Ordering::Relaxed);
        seat.signalled.store(0, Ordering::SeqCst);
        seat.flag.store(flag, Ordering::Relaxed);
        seat.since.store(thread_time(tid).unwrap_or(0), Ordering::SeqCst);
        seat.tid.store(tid, Ordering::SeqCst);
        let mut sitting = Sitting { kick: self, seat, old_mask, timer: None };
        sitting.timer = Some(sitting.make_timer(signal, tid)?);
        sitting.tick_in(period, period);
        Ok(sitting)
    }
}

impl Drop for Kick {
    fn drop(&mut self) {
        // In the child of a fork nobody may hold the lock any more; a seat more or less does not matter there.
        if self.forks != fork_generation() {
            return;
        }
        FREE.lock().unwrap_or_else(PoisonError::into_inner).returned.push(self.index);
    }
}

/// A thread that drives a vCPU: while it lives, kicks and ticks reach it. It lives no longer than the vCPU is driven.
pub(crate) struct Sitting<'a> {
    kick: &'a Kick,
    seat: &'static Seat,
    /// What this thread had blocked before, if the signal was among it.
    old_mask: Option<libc::sigset_t>,
    /// The first timer of a process has the number 0, which is a null `timer_t`.
    timer: Option<libc::timer_t>,
}

impl Sitting<'_> {
    fn make_timer(&self, signal: libc::c_int, tid: libc::pid_t) -> io::Result<libc::timer_t> {
        // SAFETY: a zeroed sigevent is valid; the kernel copies it, and writes the timer's id.
        unsafe {
            let mut event: libc::sigevent = zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = signal;
            event.sigev_notify_thread_id = tid;
            event.sigev_value.sival_ptr = self.kick.index as *mut libc::c_void;
            let mut timer = null_mut();
            if libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(timer)
        }
    }

    /// The next tick comes in `first`, the later ones every `period`.
    pub(crate) fn tick_in(&self, first: Duration, period: Duration) {
        let spec =
            libc::itimerspec { it_value: timespec(first.max(Duration::from_nanos(1))), it_interval: timespec(period) };
        if let Some(timer) = self.timer {
            // SAFETY: the timer is this thread's own and lives until drop; the old setting is not asked for.
            unsafe { libc::timer_settime(timer, 0, &raw const spec, null_mut()) };
        }
    }
}

impl Drop for Sitting<'_> {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            // SAFETY: made in `sit` by this thread, deleted once. A tick that is still pending finds the seat empty.
            unsafe { libc::timer_delete(timer) };
        }
        self.seat.flag.store(null_mut(), Ordering::Relaxed);
        self.seat.tid.store(0, Ordering::SeqCst);
        if let Some(old_mask) = &self.old_mask {
            // SAFETY: the mask is the one that this thread had before.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const *old_mask, null_mut()) };
        }
    }
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// CLOCK_MONOTONIC in nanoseconds, as Python's `time.monotonic_ns()` tells it. No system call.
pub(crate) fn monotonic_ns() -> u64 {
    read_clock(libc::CLOCK_MONOTONIC).unwrap_or(0)
}

/// Processor time of this thread, in nanoseconds.
pub(crate) fn own_time() -> u64 {
    read_clock(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or(0)
}

/// Processor time of a thread of this process, in nanoseconds; `None` once it is gone.
fn thread_time(tid: libc::pid_t) -> Option<u64> {
    // clock_getcpuclockid(3) for threads: the complement of the thread id, shifted by 3, with CPUCLOCK_PERTHREAD (4)
    // and CPUCLOCK_SCHED (2).
    read_clock((!tid) << 3 | 6)
}

fn read_clock(clock: libc::clockid_t) -> Option<u64> {
    // SAFETY: a zeroed timespec is valid; the call writes it or fails.
    let time = unsafe {
        let mut time: libc::timespec = zeroed();
        (libc::clock_gettime(clock, &raw mut time) == 0).then_some(time)
    }?;
    let seconds = u64::try_from(time.tv_sec).ok()?;
    let nanos = u64::try_from(time.tv_nsec).ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// Blocks every asynchronous signal on this thread: one of hyperpy's own, that Python's signals must not interrupt.
/// The kick's signal is let through while the thread drives a vCPU (`Kick::sit`).
pub fn block_signals() {
    // SAFETY: the set is initialised before use.
    unsafe {
        let mut set = MaybeUninit::uninit();
        libc::sigfillset(set.as_mut_ptr());
        for synchronous in
            [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGABRT, libc::SIGSYS]
        {
            libc::sigdelset(set.as_mut_ptr(), synchronous);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), null_mut());
    }
}

/// How many times this process image has been forked off: a machine made before the last fork belongs to the parent.
#[must_use]
pub fn fork_generation() -> u64 {
    static REGISTERED: OnceLock<()> = OnceLock::new();
    REGISTERED.get_or_init(|| {
        // SAFETY: the child handler only bumps an atomic.
        unsafe { libc::pthread_atfork(None, None, Some(forked)) };
    });
    FORKS.load(Ordering::Relaxed)
}

static FORKS: AtomicU64 = AtomicU64::new(0);

extern "C" fn forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
#[path = "thread_test.rs"]
pub(crate) mod tests;
