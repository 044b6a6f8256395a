//! What a snapshot has of a device in Python.
//!
//! One that has a `save` and a `load` of its own is asked by these: what they give is kept as plain data. Of any other it is the
//! declared registers, in the core's form, and the attributes that its class names in `saved_attributes`; no method of it is called for these.
//! Attributes that are not named and not hyperpy's could be state too, so one that has some is refused until its class says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyperpy_core::regfile::Image;
use hyperpy_core::snapshot::{Fields, Saved, State, StateFault, Stateless, Value, check, misfit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyString, PyType};

use crate::device::PyDevice;
use crate::plain::{is_same, object_of, value_of};
use crate::signals::attach;

/// What is kept of a device by its declaration.
struct Kept {
    /// Of the device: another class may have other attributes, or methods of its own.
    class: Py<PyType>,
    schema: i64,
    registers: Option<Image>,
    /// Those that its class names.
    attributes: Vec<Attribute>,
    /// Its class names none: how many attributes it has, all of them hyperpy's, when it was last looked at.
    unnamed: Option<AtomicUsize>,
}

struct Attribute {
    name: Box<str>,
    /// The same for Python. Text is never changed, so that a snapshot may share it.
    key: Py<PyString>,
    value: Value,
}

impl Saved for Kept {
    fn value(&self) -> Value {
        let registers = self.registers.as_ref().map_or(Value::Map(Vec::new()), Image::registers);
        let mut entries = vec![("schema".into(), self.schema.into()), ("registers".into(), registers)];
        if !self.attributes.is_empty() {
            let attributes = self.attributes.iter().map(|it| (it.name.clone(), it.value.clone()));
            entries.push(("attributes".into(), Value::Map(attributes.collect())));
        }
        Value::Map(entries)
    }
}

/// How a device is saved.
enum Way<'py> {
    /// By its own `save` and `load`.
    Own,
    /// It says that there is nothing.
    Stateless,
    /// By what its class declares: the attributes that it names, if it names any.
    Declared(Option<Vec<Bound<'py, PyString>>>),
    /// Nobody knows.
    None,
}

fn base(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "hyperpy.device", "Device")
}

/// Whether a class has a method of its own in place of what `Device` has.
fn overrides(class: &Bound<'_, PyType>, name: &Bound<'_, PyString>) -> PyResult<bool> {
    Ok(!class.getattr(name)?.is(&base(class.py())?.getattr(name)?))
}

fn way<'py>(object: &Bound<'py, PyAny>, has_registers: bool) -> PyResult<Way<'py>> {
    let py = object.py();
    let class = object.get_type();
    let (save, load) = (intern!(py, "save"), intern!(py, "load"));
    let is_stateless = object.getattr_opt(intern!(py, "stateless"))?.is_some_and(|it| it.is_truthy().unwrap_or(false));
    if !class.is_subclass(base(py)?)? {
        let has = |name| Ok::<_, PyErr>(object.getattr_opt(name)?.is_some_and(|it| it.is_callable()));
        return Ok(if has(save)? && has(load)? {
            Way::Own
        } else if is_stateless {
            Way::Stateless
        } else {
            Way::None
        });
    }
    if overrides(&class, save)? || overrides(&class, load)? {
        return Ok(Way::Own);
    }
    if is_stateless {
        return Ok(Way::Stateless);
    }
    let named = class.getattr(intern!(py, "saved_attributes"))?;
    let named = if named.is_none() { None } else { Some(named.extract::<Vec<Bound<'py, PyString>>>()?) };
    Ok(if has_registers || named.is_some() { Way::Declared(named) } else { Way::None })
}

/// The attributes of an instance that hyperpy did not put there, if there are some.
fn own_names(object: &Bound<'_, PyAny>, dict: &Bound<'_, PyDict>) -> PyResult<Option<String>> {
    let py = object.py();
    let names = py
        .import(intern!(py, "hyperpy._register_state"))?
        .call_method1(intern!(py, "own_attributes"), (object, dict))?;
    let names = names.cast_into::<PyList>()?;
    if names.is_empty() {
        Ok(None)
    } else {
        Ok(Some(names.iter().map(|it| it.to_string()).collect::<Vec<_>>().join(", ")))
    }
}

impl PyDevice {
    fn failed(&self, py: Python<'_>, error: PyErr, verb: &str) -> StateFault {
        self.report.raised_in(py, error, &self.name, verb);
        StateFault::Raised
    }

    /// What a snapshot has of it.
    pub(crate) fn save_state(&self) -> Result<State, StateFault> {
        attach(|py| {
            let Some(object) = self.object(py) else { return Err(StateFault::NotSaved) };
            self.saved(object.bind(py)).unwrap_or_else(|error| Err(self.failed(py, error, "save")))
        })
    }

    fn saved(&self, object: &Bound<'_, PyAny>) -> PyResult<Result<State, StateFault>> {
        let py = object.py();
        let named = match way(object, self.file.is_some())? {
            Way::None => return Ok(Err(StateFault::NotSaved)),
            Way::Stateless => return Ok(Ok(Arc::new(Stateless))),
            Way::Own => {
                let state = object.call_method0(intern!(py, "save"))?;
                return Ok(Ok(Arc::new(value_of(&state, "state")?)));
            }
            Way::Declared(named) => named,
        };
        let mut attributes = Vec::new();
        for key in named.iter().flatten() {
            let Some(held) = object.getattr_opt(key)? else {
                return Ok(Err(StateFault::Unsaved(format!("it has no attribute {key}"))));
            };
            let value = value_of(&held, &format!("{}.{key}", self.name))?;
            attributes.push(Attribute { name: key.to_cow()?.into(), key: key.clone().unbind(), value });
        }
        let mut unnamed = None;
        if named.is_none()
            && let Some(dict) = dict_of(object)?
        {
            if let Some(names) = own_names(object, &dict)? {
                return Ok(Err(StateFault::Unsaved(format!("its class does not say whether this is state: {names}"))));
            }
            unnamed = Some(dict.len().into());
        }
        let (registers, schema) = match &self.file {
            Some(file) => (Some(file.save()), file.layout().schema()),
            None => (None, object.get_type().getattr(intern!(py, "schema"))?.extract()?),
        };
        let class = object.get_type().unbind();
        Ok(Ok(Arc::new(Kept { class, schema, registers, attributes, unnamed })))
    }

    /// Puts it back. Of one that is declared nothing is called, and what has not changed is left alone.
    pub(crate) fn load_state(&self, state: &dyn Saved) -> Result<(), StateFault> {
        let any: &dyn std::any::Any = state;
        if let Some(kept) = any.downcast_ref::<Kept>()
            && let Some(done) = self.load_kept(kept)
        {
            return done;
        }
        attach(|py| {
            let Some(object) = self.object(py) else { return Err(StateFault::NotSaved) };
            self.loaded(object.bind(py), state).unwrap_or_else(|error| Err(self.failed(py, error, "load")))
        })
    }

    /// `None`: it is of another declaration, or another class.
    fn load_kept(&self, kept: &Kept) -> Option<Result<(), StateFault>> {
        if kept.class.as_ptr() as usize != self.class {
            return None;
        }
        match (&self.file, &kept.registers) {
            (Some(file), Some(image)) if Arc::ptr_eq(file.layout(), image.layout()) => {}
            (None, None) => {}
            _ => return None,
        }
        if !kept.attributes.is_empty() || kept.unnamed.is_some() {
            let done = attach(|py| {
                let object = self.object(py)?;
                let done = self.put_attributes(object.bind(py), kept);
                Some(done.unwrap_or_else(|error| Err(self.failed(py, error, "load"))))
            })?;
            if done.is_err() {
                return Some(done);
            }
        }
        Some(match (&self.file, &kept.registers) {
            (Some(file), Some(image)) => file.load(image),
            _ => Ok(()),
        })
    }

    fn put_attributes(&self, object: &Bound<'_, PyAny>, kept: &Kept) -> PyResult<Result<(), StateFault>> {
        if let (Some(count), Some(dict)) = (&kept.unnamed, dict_of(object)?)
            && dict.len() != count.load(Ordering::Relaxed)
        {
            if let Some(names) = own_names(object, &dict)? {
                let what = format!("its class does not say whether this is state, and it is new: {names}");
                return Ok(Err(misfit(what)));
            }
            count.store(dict.len(), Ordering::Relaxed);
        }
        for Attribute { key, value, .. } in &kept.attributes {
            put(object, key.bind(object.py()), value)?;
        }
        Ok(Ok(()))
    }

    /// Whether it would take a state of another machine's device. Of one with a `load` of its own nobody knows.
    pub(crate) fn check_state(&self, state: &dyn Saved) -> Result<(), StateFault> {
        let any: &dyn std::any::Any = state;
        if any.downcast_ref::<Kept>().is_some_and(|kept| kept.class.as_ptr() as usize == self.class) {
            return Ok(());
        }
        attach(|py| {
            let Some(object) = self.object(py) else { return Err(StateFault::NotSaved) };
            self.fits(object.bind(py), state).unwrap_or_else(|error| Err(self.failed(py, error, "load")))
        })
    }

    fn fits(&self, object: &Bound<'_, PyAny>, state: &dyn Saved) -> PyResult<Result<(), StateFault>> {
        let named = match way(object, self.file.is_some())? {
            Way::None => return Ok(Err(StateFault::NotSaved)),
            Way::Stateless => return Ok(check::<Stateless>(state)),
            Way::Own => return Ok(Ok(())),
            Way::Declared(named) => named.unwrap_or_default(),
        };
        let value = state.value();
        Ok(self
            .made(object, &value, &named)?
            .and_then(|_| self.file.as_ref().map_or(Ok(()), |file| file.check_value(&registers_of(&value)))))
    }

    /// The attributes of a state in plain data, as objects of Python's, in the order of their names.
    fn made<'py>(
        &self,
        object: &Bound<'py, PyAny>,
        value: &Value,
        named: &[Bound<'py, PyString>],
    ) -> PyResult<Result<Vec<Bound<'py, PyAny>>, StateFault>> {
        let attributes = match self.checked(object, value, named)? {
            Ok(attributes) => attributes,
            Err(fault) => return Ok(Err(fault)),
        };
        let clock = clock_of(object)?;
        Ok(attributes.into_iter().map(|it| object_from(object.py(), it, clock.as_ref())).collect())
    }

    /// From plain data, as in a file, or of another class.
    fn loaded(&self, object: &Bound<'_, PyAny>, state: &dyn Saved) -> PyResult<Result<(), StateFault>> {
        let py = object.py();
        let named = match way(object, self.file.is_some())? {
            Way::None => return Ok(Err(StateFault::NotSaved)),
            Way::Stateless => return Ok(check::<Stateless>(state)),
            Way::Own => {
                let state = match object_from(py, &state.value(), clock_of(object)?.as_ref()) {
                    Ok(state) => state,
                    Err(fault) => return Ok(Err(fault)),
                };
                object.call_method1(intern!(py, "load"), (state,))?;
                return Ok(Ok(()));
            }
            Way::Declared(named) => named.unwrap_or_default(),
        };
        let value = state.value();
        // All that is made of it is made before anything changes.
        let made = match self.made(object, &value, &named)? {
            Ok(made) => made,
            Err(fault) => return Ok(Err(fault)),
        };
        if let Some(file) = &self.file
            && let Err(fault) = file.load_value(&registers_of(&value))
        {
            return Ok(Err(fault));
        }
        for (key, value) in named.iter().zip(made) {
            object.setattr(key, value)?;
        }
        Ok(Ok(()))
    }

    /// The attributes of a state in plain data, in the order of their names; all else but registers is right.
    fn checked<'a>(
        &self,
        object: &Bound<'_, PyAny>,
        value: &'a Value,
        named: &[Bound<'_, PyString>],
    ) -> PyResult<Result<Vec<&'a Value>, StateFault>> {
        let schema: i64 = object.get_type().getattr(intern!(object.py(), "schema"))?.extract()?;
        Ok(self.attributes(schema, value, named))
    }

    fn attributes<'a>(
        &self,
        schema: i64,
        value: &'a Value,
        named: &[Bound<'_, PyString>],
    ) -> Result<Vec<&'a Value>, StateFault> {
        let fields = Fields::new(value, &["schema", "registers", "attributes"])?;
        let given: i64 = fields.get("schema")?;
        if given != schema {
            return Err(misfit(format!("it is of schema {given}, not {schema}")));
        }
        if self.file.is_none() && fields.get::<Value>("registers")? != Value::Map(Vec::new()) {
            return Err(misfit("it has registers, and the device has none"));
        }
        let entries = match value.get("attributes") {
            Some(Value::Map(entries)) => entries.as_slice(),
            Some(_) => return Err(misfit("its attributes are no map")),
            None => &[],
        };
        let names: Vec<_> = named.iter().map(ToString::to_string).collect();
        if let Some((odd, _)) = entries.iter().find(|(name, _)| !names.iter().any(|it| **it == **name)) {
            return Err(misfit(format!("it has other attributes: {odd:.60}")));
        }
        let find = |name: &String| {
            let found = entries.iter().find(|(it, _)| **it == **name).map(|(_, value)| value);
            found.ok_or_else(|| misfit(format!("it is without the attribute {name}")))
        };
        names.iter().map(find).collect()
    }
}

/// What a register file takes of a device's state.
fn registers_of(state: &Value) -> Value {
    let part = |name| state.get(name).cloned().unwrap_or_default();
    Value::map([("schema", part("schema")), ("registers", part("registers"))])
}

/// As an object of Python's; what cannot be one, such as a set of lists, is a state that does not fit.
fn object_from<'py>(
    py: Python<'py>,
    value: &Value,
    clock: Option<&Bound<'py, PyAny>>,
) -> Result<Bound<'py, PyAny>, StateFault> {
    object_of(py, value, clock).map_err(|error| misfit(format!("it has what Python cannot: {}", error.value(py))))
}

/// The attributes of an instance; `None`: it has only slots.
fn dict_of<'py>(object: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyDict>>> {
    let dict = object.getattr_opt(intern!(object.py(), "__dict__"))?;
    Ok(dict.and_then(|dict| dict.cast_into::<PyDict>().ok()))
}

fn clock_of<'py>(object: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = object.py();
    let clock = object.getattr_opt(intern!(py, "clock"))?;
    Ok(clock.filter(|it| it.hasattr(intern!(py, "_timer")).unwrap_or(false)))
}

/// Makes an attribute what it was, unless it is.
fn put(object: &Bound<'_, PyAny>, key: &Bound<'_, PyString>, value: &Value) -> PyResult<()> {
    if object.getattr_opt(key)?.is_some_and(|held| is_same(value, &held)) {
        return Ok(());
    }
    object.setattr(key, object_of(object.py(), value, clock_of(object)?.as_ref())?)
}
