//! The bindings' one file with unsafe code: the buffer protocol, descriptors that come as numbers, an exception for
//! another thread, and in a build for fuzzing the counters of stock devices' code.
//!
//! A view exports guest memory itself: the guest may change it under the reader, as hardware would. Rust forms no
//! reference into it; Python reads it through the pointer of the `Py_buffer`.

use std::ffi::{c_int, c_ulong, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::time::Instant;
use std::{ptr, slice};

use hyperpy_core::memory;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PySystemExit};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

use crate::errors::Raise;

/// Keeps a range of guest memory mapped and exports it as a buffer.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct View {
    pub(crate) view: memory::View,
}

#[pymethods]
impl View {
    /// Bytes, one dimension, contiguous.
    ///
    /// # Safety
    /// Python calls it with a buffer to fill.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, buffer: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let inner = slf.get();
        if buffer.is_null() {
            return Err(PyBufferError::new_err("no buffer to fill\n\nhint: memoryview(view) asks as it must"));
        }
        let start = inner.view.hva() as *mut c_void;
        let len = ffi::Py_ssize_t::try_from(inner.view.len())
            .map_err(|_| PyBufferError::new_err("view is too long\n\nhint: ask for a smaller one"))?;
        let readonly = c_int::from(!inner.view.is_writable());
        // SAFETY: `buffer` is valid by this function's contract. The memory stays mapped for as long as the exporting
        // object lives (`View` keeps its mapping), and PyBuffer_FillInfo makes the buffer keep that object.
        let result = unsafe { ffi::PyBuffer_FillInfo(buffer, slf.as_ptr(), start, len, readonly, flags) };
        if result == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

/// Calls `f` with the bytes of a contiguous buffer: those of a `bytes` object themselves, of any other a copy.
///
/// Whatever else has a buffer may change while `f` looks at it, read-only or not: a view of guest memory, a mapped file,
/// another view of a `bytearray`. With `apart` or more bytes other threads have the interpreter meanwhile.
pub(crate) fn with_bytes<T: Send>(
    object: &Bound<'_, PyAny>,
    apart: usize,
    f: impl FnOnce(&[u8]) -> T + Send,
) -> PyResult<T> {
    let py = object.py();
    if let Ok(bytes) = object.cast::<PyBytes>() {
        let bytes = bytes.as_bytes();
        return Ok(beside(py, bytes.len() >= apart, || f(bytes)));
    }
    let view = PyMemoryView::from(object)?;
    if !view.getattr(intern!(py, "c_contiguous"))?.is_truthy()? {
        return Err(PyBufferError::new_err("buffer is not contiguous\n\nhint: make a copy with bytes(...)"));
    }
    if view.len()? == 0 || view.getattr(intern!(py, "nbytes"))?.extract::<usize>()? == 0 {
        return Ok(f(&[])); // what is empty cannot be cast
    }
    // Whatever its items are, its bytes are meant.
    let buffer = PyBuffer::<u8>::get(&view.call_method1(intern!(py, "cast"), ("B",))?)?;
    let (start, len) = (buffer.buf_ptr().cast::<u8>(), buffer.len_bytes());
    if buffer.readonly() && !start.is_null() && view.getattr(intern!(py, "obj"))?.is_instance_of::<PyBytes>() {
        // SAFETY: a contiguous view of `len` bytes of a `bytes` object, which never change; `buffer` keeps it alive, and
        // in place, until it is dropped after the call.
        let bytes = unsafe { slice::from_raw_parts(start, len) };
        return Ok(beside(py, len >= apart, || f(bytes)));
    }
    let start = start.expose_provenance();
    let copied = beside(py, len >= apart, || {
        let mut copy = room(len)?;
        // SAFETY: `len` bytes of a contiguous buffer, which `buffer` keeps in place until it is dropped after the call, into
        // room for as many that nobody else has. Others may change them meanwhile: of each byte the copy has what was
        // there before or after. All are set then.
        unsafe {
            ptr::copy_nonoverlapping(ptr::with_exposed_provenance::<u8>(start), copy.as_mut_ptr(), len);
            copy.set_len(len);
        }
        Some(f(&copy))
    });
    copied.ok_or_else(|| no_memory(len))
}

/// Copies what `f` makes into a contiguous buffer of bytes that can be written, all of it; nothing if it fails. Other
/// threads have the interpreter meanwhile if it is [`LARGE`].
pub(crate) fn fill(object: &Bound<'_, PyAny>, f: impl FnOnce(&mut [u8]) -> PyResult<()> + Send) -> PyResult<()> {
    let buffer = PyBuffer::<u8>::get(object)?;
    if buffer.readonly() || !buffer.is_c_contiguous() {
        return Err(PyBufferError::new_err(
            "buffer cannot be written\n\nhint: a contiguous one, such as a bytearray, that is not read-only",
        ));
    }
    let (start, len) = (buffer.buf_ptr().expose_provenance(), buffer.len_bytes());
    beside(object.py(), len >= LARGE, || {
        let mut copy = room(len).ok_or_else(|| no_memory(len))?;
        copy.resize(len, 0);
        f(&mut copy)?;
        // SAFETY: `len` bytes of a contiguous buffer that can be written, which `buffer` keeps in place until it is dropped
        // after the call, from as many that nobody else has. Rust forms no reference to them: others may look at them, or
        // write them, meanwhile.
        unsafe { ptr::copy_nonoverlapping(copy.as_ptr(), ptr::with_exposed_provenance_mut::<u8>(start), len) };
        Ok(())
    })
}

/// Calls `f`; other threads have the interpreter meanwhile if it is `apart`.
fn beside<T: Send>(py: Python<'_>, apart: bool, f: impl FnOnce() -> T + Send) -> T {
    if apart { py.detach(f) } else { f() }
}

/// For `len` bytes, of which none is there yet; `None` if the host has no memory for them.
fn room(len: usize) -> Option<Vec<u8>> {
    let mut room = Vec::new();
    room.try_reserve_exact(len).ok()?;
    Some(room)
}

/// Bytes from which on a copy is worth giving up the interpreter: it may take a switch interval to get it back.
pub(crate) const LARGE: usize = 1 << 20;

fn no_memory(len: usize) -> PyErr {
    let hint = "copy less at a time";
    Raise::new("HostMemoryError", format!("the host gave no memory for a copy of {len} bytes"), hint)
        .errno(libc::ENOMEM)
        .into()
}

/// New `bytes` of `len` that `f` fills, zeros before; other threads have the interpreter meanwhile if they are [`LARGE`].
pub(crate) fn filled<'py>(
    py: Python<'py>,
    len: usize,
    f: impl FnOnce(&mut [u8]) -> PyResult<()> + Send,
) -> PyResult<Bound<'py, PyBytes>> {
    if len < LARGE {
        return PyBytes::new_with(py, len, f);
    }
    let size = ffi::Py_ssize_t::try_from(len).map_err(|_| no_memory(len))?;
    // SAFETY: with no bytes given it makes an object whose bytes are not set yet, or null and an exception.
    let made = unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyBytes_FromStringAndSize(ptr::null(), size)) };
    let Some(made) = made else {
        drop(PyErr::take(py)); // a MemoryError that says nothing
        return Err(no_memory(len));
    };
    let made = made.cast_into::<PyBytes>()?;
    // SAFETY: the object is `bytes`, as was just seen.
    let start = unsafe { ffi::PyBytes_AsString(made.as_ptr()) }.expose_provenance();
    py.detach(|| {
        let start = ptr::with_exposed_provenance_mut::<u8>(start);
        // SAFETY: `len` bytes of an object that nobody else has seen, and which lives until the call returns. They are
        // set before a slice of them is made.
        let bytes = unsafe {
            start.write_bytes(0, len);
            slice::from_raw_parts_mut(start, len)
        };
        f(bytes)
    })?;
    Ok(made)
}

/// Whether a write to a file would be taken, after waiting until `deadline` at most; signals do not shorten that. Pipes
/// say yes when they have room for PIPE_BUF (4096) bytes.
pub(crate) fn takes_writes(file: &File, deadline: Instant) -> bool {
    let mut wanted = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
        let milliseconds = c_int::try_from(left).unwrap_or(c_int::MAX);
        // SAFETY: one valid pollfd, which outlives the call.
        let ready = unsafe { libc::poll(&raw mut wanted, 1, milliseconds) };
        // The kernel does not begin it again after a handler, SA_RESTART or not (signal(7)).
        if ready >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return ready > 0;
        }
    }
}

/// Lets the Python code that a thread is in raise SystemExit, once it comes to a bytecode; whether there is such a thread.
#[pyfunction]
pub fn end_thread(py: Python<'_>, ident: c_ulong) -> bool {
    let exception = py.get_type::<PySystemExit>();
    // SAFETY: attached; a number that is no thread's is told by a 0; the call takes a reference of its own. C has the
    // argument unsigned, its declaration here may not: the bits are the same.
    unsafe { ffi::PyThreadState_SetAsyncExc(ident as _, exception.as_ptr()) > 0 }
}

/// A descriptor of our own for the same open file.
pub(crate) fn duplicate(descriptor: RawFd) -> io::Result<File> {
    // SAFETY: fcntl on any number is safe; it fails on one that is no descriptor.
    let copy = unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fcntl just made it, and nobody else owns it.
    Ok(unsafe { File::from_raw_fd(copy) })
}

/// Whether a file is open for writing.
pub(crate) fn is_writable(file: &File) -> io::Result<bool> {
    // SAFETY: F_GETFL touches no memory, and the descriptor is open.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 { Err(io::Error::last_os_error()) } else { Ok(flags & libc::O_ACCMODE != libc::O_RDONLY) }
}

/// Counters that the compiler puts into the code of stock devices (LLVM's SanitizerCoverage, inline 8-bit counters).
#[cfg(feature = "fuzz-coverage")]
pub(crate) mod sancov {
    use std::cell::RefCell;
    use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
    use std::sync::{Mutex, PoisonError};

    use hyperpy_core::fuzz::coverage::{Counters, slot_of};

    /// Address and number of those of each module.
    static ALL: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

    /// Called by each instrumented module when the library is loaded.
    ///
    /// # Safety
    /// The compiler calls it with the ends of an array that is there for ever.
    // SAFETY: the name is the compiler's own for this, and nothing else in the library has it.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
        let (start, stop) = (start as usize, stop as usize);
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        if start < stop && all.iter().all(|&(known, _)| known != start) {
            all.push((start, stop - start));
        }
    }

    /// How many there are.
    pub(crate) fn count() -> usize {
        ALL.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|&(_, len)| len).sum()
    }

    /// Comparisons of one input that are remembered.
    const MOST: usize = 256;

    thread_local! {
        /// What the devices' code on this thread has compared since an input began.
        static COMPARED: RefCell<Vec<(u64, u64)>> = const { RefCell::new(Vec::new()) };
    }

    /// Remembers two numbers that are not equal.
    fn note(there: u64, wanted: u64) {
        if there != wanted {
            // A thread that ends has none any more.
            let _ = COMPARED.try_with(|compared| {
                if let Ok(mut compared) = compared.try_borrow_mut()
                    && compared.len() < MOST
                {
                    compared.push((there, wanted));
                }
            });
        }
    }

    /// What was compared since an input began.
    pub(crate) fn compared() -> Vec<(u64, u64)> {
        COMPARED.take()
    }

    /// A comparison of two values: any of them may be the guest's.
    macro_rules! compares {
        ($($name:ident, $constant:ident: $kind:ty;)*) => {$(
            /// Called where code compares two values.
            // The name is the compiler's own for this, and nothing else in the library has it.
            #[unsafe(no_mangle)]
            pub extern "C" fn $name(one: $kind, other: $kind) {
                note(one.into(), other.into());
                note(other.into(), one.into());
            }

            /// Called where code compares a value with a constant.
            // As above.
            #[unsafe(no_mangle)]
            pub extern "C" fn $constant(constant: $kind, value: $kind) {
                note(value.into(), constant.into());
            }
        )*};
    }

    compares! {
        __sanitizer_cov_trace_cmp1, __sanitizer_cov_trace_const_cmp1: u8;
        __sanitizer_cov_trace_cmp2, __sanitizer_cov_trace_const_cmp2: u16;
        __sanitizer_cov_trace_cmp4, __sanitizer_cov_trace_const_cmp4: u32;
        __sanitizer_cov_trace_cmp8, __sanitizer_cov_trace_const_cmp8: u64;
    }

    /// Called where code chooses by a value: `cases` is how many there are, its bits, and each of them.
    ///
    /// # Safety
    /// The compiler calls it with an array of constants that is as long as its first number says, and two more.
    // SAFETY: the name is the compiler's own for this, and nothing else in the library has it.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn __sanitizer_cov_trace_switch(value: u64, cases: *const u64) {
        // SAFETY: the array has its first number.
        let count = usize::try_from(unsafe { cases.read() }).unwrap_or_default();
        for at in 0..count.min(MOST) {
            // SAFETY: within the array, by the number of its cases.
            note(value, unsafe { cases.add(2 + at).read() });
        }
    }

    /// Counters that are looked at at once.
    const WORD: usize = 8;

    /// Whether so many counters are 0: most are, and an input has not time for each.
    fn is_zero(address: usize) -> bool {
        // SAFETY: a multiple of 8, and 8 bytes within an array that its module gave; as for one counter.
        let word = unsafe { AtomicU64::from_ptr(address as *mut u64) };
        word.load(Ordering::Relaxed) == 0
    }

    /// Counts what ran since the last time, or forgets it, and with it what was compared.
    pub(crate) fn take(mut counters: Option<&mut Counters>) {
        if counters.is_none() {
            COMPARED.with_borrow_mut(Vec::clear);
        }
        let all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = 0;
        for &(start, len) in all.iter() {
            let end = start + len;
            let mut address = start;
            while address < end {
                if address.is_multiple_of(WORD) && end - address >= WORD && is_zero(address) {
                    address += WORD;
                    continue;
                }
                // SAFETY: within an array that its module gave; devices on other threads count with plain stores, of which one may be lost.
                let counter = unsafe { AtomicU8::from_ptr(address as *mut u8) };
                let times = counter.load(Ordering::Relaxed);
                if times != 0 {
                    counter.store(0, Ordering::Relaxed);
                    if let Some(counters) = &mut counters {
                        counters.add(slot_of(7 << 56 | (before + address - start) as u64), times);
                    }
                }
                address += 1;
            }
            before += len;
        }
    }
}
