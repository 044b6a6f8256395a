//! The bindings' one file with unsafe code: the buffer protocol, and descriptors that come as numbers.
//!
//! A view exports guest memory itself: the guest may change it under the reader, as hardware would. Rust forms no
//! reference into it; Python reads it through the pointer of the `Py_buffer`.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use hyperpy_core::memory;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;

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

/// Calls `f` with the bytes of a contiguous buffer, without a copy.
pub(crate) fn with_bytes<T>(object: &Bound<'_, PyAny>, f: impl FnOnce(&[u8]) -> T) -> PyResult<T> {
    if let Ok(bytes) = object.cast::<pyo3::types::PyBytes>() {
        return Ok(f(bytes.as_bytes()));
    }
    let py = object.py();
    let view = PyMemoryView::from(object)?;
    if !view.getattr(intern!(py, "c_contiguous"))?.is_truthy()? {
        return Err(PyBufferError::new_err("buffer is not contiguous\n\nhint: make a copy with bytes(...)"));
    }
    if view.len()? == 0 || view.getattr(intern!(py, "nbytes"))?.extract::<usize>()? == 0 {
        return Ok(f(&[])); // what is empty cannot be cast
    }
    // Whatever its items are, its bytes are meant.
    let buffer = PyBuffer::<u8>::get(&view.call_method1(intern!(py, "cast"), ("B",))?)?;
    if buffer.readonly() {
        let start = buffer.buf_ptr().cast::<u8>();
        if start.is_null() {
            return Ok(f(&[]));
        }
        // SAFETY: a contiguous read-only buffer of `len_bytes` bytes that `buffer` keeps alive and in place until it is
        // dropped after the call; the interpreter stays attached, so no other Python code changes what backs it.
        return Ok(f(unsafe { std::slice::from_raw_parts(start, buffer.len_bytes()) }));
    }
    // A writable buffer may be changed by others while we look at it: it is copied first.
    Ok(f(&buffer.to_vec(py)?))
}

/// Whether a write to a file would be taken, after waiting for at most `milliseconds`. Pipes say yes when they have
/// room for PIPE_BUF (4096) bytes.
pub(crate) fn takes_writes(file: &File, milliseconds: c_int) -> bool {
    let mut wanted = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one valid pollfd, which outlives the call.
    unsafe { libc::poll(&raw mut wanted, 1, milliseconds) > 0 }
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
