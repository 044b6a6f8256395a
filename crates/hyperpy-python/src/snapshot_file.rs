//! Snapshot files for Python: what is in one, what is damaged, in what two differ; and writing one of parts, for tests and tools.

use std::io;
use std::path::PathBuf;

use hyperpy_core::snapshot::file::{
    self, Compress, Contents, LoadError, PAGE_SIZE, PageSink, PageSource, Region, SaveError, SnapshotFile as Core,
};
use pyo3::exceptions::{PyIndexError, PyOSError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::buffer::{filled, with_bytes};
use crate::errors::Raise;
use crate::snapshot_value::{from_python, to_python};

/// A snapshot's file that is open.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct SnapshotFile {
    file: Core,
    path: PathBuf,
}

/// (name, gpa, bytes).
type Place = (String, u64, u64);
/// (name of the region, gpa, pages).
type Pages = (String, u64, u64);
pub(crate) type Difference<'py> = (Vec<Pages>, Vec<Place>, Vec<Place>, Bound<'py, PyList>);

#[pymethods]
impl SnapshotFile {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let file = py.detach(|| Core::open(&path)).map_err(|error| load_error(py, &path, &error))?;
        Ok(Self { file, path })
    }

    /// What there is to know of it beside state and regions.
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let info = self.file.info();
        let dict = PyDict::new(py);
        dict.set_item("version", info.version)?;
        dict.set_item("schema", info.schema)?;
        dict.set_item("made_by", &*info.made_by)?;
        dict.set_item("created_ns", info.created_ns)?;
        dict.set_item("compress", info.is_compressed.then_some("zstd"))?;
        dict.set_item("file_bytes", info.file_len)?;
        dict.set_item("page_bytes", info.data_len)?;
        dict.set_item("state_bytes", info.tree_len)?;
        dict.set_item("pages", info.pages)?;
        dict.set_item("stored", info.stored)?;
        dict.set_item("identical", info.identical)?;
        dict.set_item("zero", info.zero)?;
        Ok(dict)
    }

    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, self.file.state())
    }

    /// (name, gpa, bytes, what else there is to know) of each region.
    fn regions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for region in self.file.regions() {
            list.append((&*region.name, region.gpa, region.len, to_python(py, &region.about)?))?;
        }
        Ok(list)
    }

    /// The bytes of a region.
    fn memory<'py>(&self, py: Python<'py>, region: usize) -> PyResult<Bound<'py, PyBytes>> {
        let Some(Region { len, .. }) = self.file.regions().get(region) else {
            return Err(PyIndexError::new_err("no such region\n\nhint: `regions()` has them"));
        };
        filled(py, usize::try_from(*len).unwrap_or(usize::MAX), |into| {
            into.fill(0);
            let poured = self.file.pour(&mut Into { region, into });
            poured.map_err(|error| Python::attach(|py| load_error(py, &self.path, &error)))
        })
    }

    /// Reads all pages, and their checksums.
    fn verify(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.file.verify()).map_err(|error| load_error(py, &self.path, &error))
    }

    /// Pages that differ; regions that only this one, and only the other one has; and (path, whether it has a value, that
    /// value, the same of the other) for each value of the state that differs.
    fn diff<'py>(&self, py: Python<'py>, other: &Self) -> PyResult<Difference<'py>> {
        let found = py
            .detach(|| file::diff(&self.file, &other.file))
            .map_err(|(which, error)| load_error(py, if which == 0 { &self.path } else { &other.path }, &error))?;
        difference(py, found)
    }
}

/// A difference for Python.
pub(crate) fn difference(py: Python<'_>, found: file::Diff) -> PyResult<Difference<'_>> {
    let pages = found.pages.into_iter().map(|range| (range.region.into(), range.gpa, range.count));
    let [old, new] =
        found.regions.map(|regions| regions.into_iter().map(|(name, gpa, len)| (name.into(), gpa, len)).collect());
    let changes = PyList::empty(py);
    for change in &found.state {
        let [old, new] =
            [&change.old, &change.new].map(|value| value.as_ref().map(|value| to_python(py, value)).transpose());
        changes.append((&change.path, change.old.is_some(), old?, change.new.is_some(), new?))?;
    }
    Ok((pages.collect(), old, new, changes))
}

/// One region's pages go into a buffer, the others nowhere.
struct Into<'a> {
    region: usize,
    into: &'a mut [u8],
}

impl PageSink for Into<'_> {
    fn put(&mut self, region: usize, first: u64, bytes: &[u8]) -> io::Result<()> {
        if region == self.region {
            let at = usize::try_from(first * PAGE_SIZE).unwrap_or(usize::MAX);
            let into = self.into.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len()));
            into.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(bytes);
        }
        Ok(())
    }
}

/// Memory as bytes of each region.
struct Given(Vec<Vec<u8>>);

impl PageSource for Given {
    fn next(&self, region: usize, from: u64) -> io::Result<Option<(u64, u64)>> {
        let pages = self.0.get(region).map_or(0, |bytes| bytes.len() as u64 / PAGE_SIZE);
        Ok((from < pages).then(|| (from, pages - from)))
    }

    fn read(&self, region: usize, first: u64, into: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(first * PAGE_SIZE).unwrap_or(usize::MAX);
        let bytes = self.0.get(region).and_then(|bytes| bytes.get(at..)?.get(..into.len()));
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::InvalidInput)?);
        Ok(())
    }
}

/// (name, gpa, bytes, what else there is to know).
type Written<'py> = (String, u64, Bound<'py, PyAny>, Bound<'py, PyAny>);

/// Writes a file of these parts.
#[pyfunction]
#[pyo3(signature = (path, state, regions, *, made_by, created_ns, schema, compress))]
#[allow(clippy::too_many_arguments)] // parts of a file, by name
pub fn save_snapshot(
    py: Python<'_>,
    path: PathBuf,
    state: &Bound<'_, PyAny>,
    regions: Vec<Written<'_>>,
    made_by: &str,
    created_ns: u64,
    schema: u32,
    compress: bool,
) -> PyResult<()> {
    let state = from_python(state)?;
    let (mut places, mut pages) = (Vec::new(), Vec::new());
    for (name, gpa, bytes, about) in regions {
        let bytes = with_bytes(&bytes, usize::MAX, <[u8]>::to_vec)?;
        places.push(Region { name: name.into(), gpa, len: bytes.len() as u64, about: from_python(&about)? });
        pages.push(bytes);
    }
    let pages = Given(pages);
    let compress = if compress { Compress::Zstd } else { Compress::No };
    py.detach(|| {
        let contents = Contents { made_by, created_ns, schema, state: &state, regions: &places, pages: &pages };
        file::save(&path, &contents, compress)
    })
    .map_err(|error| save_error(py, &path, &error))
}

/// What the host refuses is an `OSError` of the path, as from `open()`, with the hint as a note; the rest a `SnapshotError`.
pub(crate) fn load_error(py: Python<'_>, path: &std::path::Path, error: &LoadError) -> PyErr {
    match error {
        LoadError::Host(source) => host_error(py, path, source, &error.hint()),
        _ => Raise::new("SnapshotError", format!("{}: {error}", path.display()), error.hint()).into(),
    }
}

/// The same for writing.
pub(crate) fn save_error(py: Python<'_>, path: &std::path::Path, error: &SaveError) -> PyErr {
    match error {
        SaveError::Host { source, .. } => host_error(py, path, source, &error.hint()),
        _ => Raise::new("SnapshotError", format!("{}: {error}", path.display()), error.hint()).into(),
    }
}

fn host_error(py: Python<'_>, path: &std::path::Path, source: &io::Error, hint: &str) -> PyErr {
    let said = source
        .raw_os_error()
        .map_or_else(|| Ok(source.to_string()), |errno| py.import("os")?.call_method1("strerror", (errno,))?.extract());
    let error = said.map_or_else(
        |error| error,
        |said| PyOSError::new_err((source.raw_os_error().unwrap_or(libc::EIO), said, path.as_os_str().to_owned())),
    );
    match error.value(py).call_method1("add_note", (format!("hint: {hint}"),)) {
        Ok(_) => error,
        Err(other) => other,
    }
}
