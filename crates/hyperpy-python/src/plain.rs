//! Plain data between Python and the core: what a device's state is made of.
//!
//! Every value comes back as what it was, and no object of Python's is kept. What the core has no word for is a map of one entry
//! that says what it is: a tuple, a set, a bytearray, a dict whose keys are not all text, a timer of the device's clock. So a dict that
//! looks like one of these goes as such a dict, too.

use hyperpy_core::snapshot::Value;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple, PyType,
};

use crate::clock::Timer;

/// How deep plain data may be nested: deeper is something that contains itself.
const DEEPEST: usize = 64;
const TUPLE: &str = "tuple";
const SET: &str = "set";
const FROZENSET: &str = "frozenset";
const BYTEARRAY: &str = "bytearray";
const DICT: &str = "dict";
const TIMER: &str = "timer";
const MARKS: [&str; 6] = [TUPLE, SET, FROZENSET, BYTEARRAY, DICT, TIMER];

/// The class of timers, `hyperpy.clock.Timer`.
fn timer_class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "hyperpy.clock", "Timer")
}

/// As plain data; `path` says where it is, for the error that names it.
pub(crate) fn value_of(object: &Bound<'_, PyAny>, path: &str) -> PyResult<Value> {
    deep(object, path, DEEPEST)
}

fn marked(mark: &str, value: Value) -> Value {
    Value::map([(mark, value)])
}

fn deep(object: &Bound<'_, PyAny>, path: &str, left: usize) -> PyResult<Value> {
    let Some(left) = left.checked_sub(1) else {
        let hint = "it contains itself, or more than 64 others";
        return Err(PyValueError::new_err(format!("state is nested too deep: {path:.200}\n\nhint: {hint}")));
    };
    let items = |items: &Bound<'_, PyAny>| {
        let item = |(at, item): (usize, PyResult<Bound<'_, PyAny>>)| deep(&item?, &format!("{path}[{at}]"), left);
        Ok::<_, PyErr>(Value::List(items.try_iter()?.enumerate().map(item).collect::<PyResult<_>>()?))
    };
    if object.is_none() {
        Ok(Value::Nothing)
    } else if let Ok(flag) = object.cast_exact::<PyBool>() {
        Ok(Value::Bool(flag.is_true()))
    } else if object.is_exact_instance_of::<PyInt>() {
        let too_large = || {
            let hint = "an int of up to 128 bits, or keep it as bytes";
            PyValueError::new_err(format!("state has a number that is too large: {path:.200}\n\nhint: {hint}"))
        };
        object.extract::<i128>().map(Value::Int).map_err(|_| too_large())
    } else if let Ok(float) = object.cast_exact::<PyFloat>() {
        Ok(Value::Float(float.value()))
    } else if let Ok(text) = object.cast_exact::<PyString>() {
        let no_unicode = |_| {
            let hint = "text with lone surrogates cannot be kept: use bytes";
            PyValueError::new_err(format!("state has text that is no Unicode: {path:.200}\n\nhint: {hint}"))
        };
        Ok(Value::Text(text.to_cow().map_err(no_unicode)?.into()))
    } else if let Ok(bytes) = object.cast_exact::<PyBytes>() {
        Ok(Value::Bytes(bytes.as_bytes().into()))
    } else if let Ok(list) = object.cast_exact::<PyList>() {
        items(list)
    } else if let Ok(dict) = object.cast_exact::<PyDict>() {
        dict_value(dict, path, left)
    } else if object.is_exact_instance_of::<PyTuple>() {
        Ok(marked(TUPLE, items(object)?))
    } else if object.is_exact_instance_of::<PySet>() {
        Ok(marked(SET, sorted(items(object)?)))
    } else if object.is_exact_instance_of::<PyFrozenSet>() {
        Ok(marked(FROZENSET, sorted(items(object)?)))
    } else if let Ok(bytes) = object.cast_exact::<PyByteArray>() {
        Ok(marked(BYTEARRAY, Value::Bytes(bytes.to_vec().into())))
    } else if object.is_exact_instance(timer_class(object.py())?) {
        let timer = object.getattr(intern!(object.py(), "_native"))?.cast_into::<Timer>()?;
        Ok(marked(TIMER, timer.get().id().into()))
    } else {
        let hint = "plain data has none, bool, int, float, str, bytes, list, tuple, dict and set, and timers of the device's clock";
        let class = object.get_type().fully_qualified_name()?;
        Err(PyTypeError::new_err(format!(
            "state has something that is no plain data: {path:.200} is a {class}\n\nhint: {hint}"
        )))
    }
}

fn dict_value(dict: &Bound<'_, PyDict>, path: &str, left: usize) -> PyResult<Value> {
    let mut entries = Vec::with_capacity(dict.len());
    let mut is_text = true;
    for (key, value) in dict.iter() {
        let key = deep(&key, &format!("a key of {path}"), left)?;
        let shown = match &key {
            Value::Text(text) => format!("{path}[{text:?}]"),
            other => format!("{path}[{other:?}]"),
        };
        is_text &= matches!(key, Value::Text(_));
        entries.push((key, deep(&value, &shown, left)?));
    }
    let is_mark = |key: &Value| key.text().is_some_and(|text| MARKS.contains(&text));
    if is_text && !(entries.len() == 1 && entries.iter().any(|(key, _)| is_mark(key))) {
        let name = |(key, value): (Value, Value)| if let Value::Text(text) = key { Some((text, value)) } else { None };
        return Ok(Value::Map(entries.into_iter().filter_map(name).collect()));
    }
    let pairs = entries.into_iter().map(|(key, value)| Value::List(vec![key, value])).collect();
    Ok(marked(DICT, Value::List(pairs)))
}

/// The same set gives the same data.
fn sorted(list: Value) -> Value {
    let Value::List(mut items) = list else { return list };
    items.sort_by_cached_key(|item| format!("{item:?}"));
    Value::List(items)
}

/// As an object of Python's, new in all its parts. Timers are those of `clock`; without one they are shown by their numbers.
pub(crate) fn object_of<'py>(
    py: Python<'py>,
    value: &Value,
    clock: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let object = |value: &Value| object_of(py, value, clock);
    let list = |values: &[Value]| values.iter().map(object).collect::<PyResult<Vec<_>>>();
    Ok(match value {
        Value::Nothing => py.None().into_bound(py),
        Value::Bool(flag) => PyBool::new(py, *flag).to_owned().into_any(),
        Value::Int(number) => match i64::try_from(*number) {
            Ok(small) => small.into_pyobject(py)?.into_any(),
            Err(_) => number.into_pyobject(py)?.into_any(),
        },
        Value::Float(number) => PyFloat::new(py, *number).into_any(),
        Value::Text(text) => PyString::new(py, text).into_any(),
        Value::Bytes(bytes) => PyBytes::new(py, bytes).into_any(),
        Value::List(values) => PyList::new(py, list(values)?)?.into_any(),
        Value::Map(entries) => {
            if let [(mark, inner)] = entries.as_slice()
                && let Some(made) = unmarked(py, mark, inner, clock)?
            {
                return Ok(made);
            }
            let dict = PyDict::new(py);
            for (name, value) in entries {
                dict.set_item(&**name, object(value)?)?;
            }
            dict.into_any()
        }
    })
}

/// What a map of one entry stands for, if it is one of ours.
fn unmarked<'py>(
    py: Python<'py>,
    mark: &str,
    inner: &Value,
    clock: Option<&Bound<'py, PyAny>>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let objects = || {
        let values = inner.list().unwrap_or_default();
        values.iter().map(|value| object_of(py, value, clock)).collect::<PyResult<Vec<_>>>()
    };
    Ok(Some(match (mark, inner) {
        (TUPLE, Value::List(_)) => PyTuple::new(py, objects()?)?.into_any(),
        (SET, Value::List(_)) => PySet::new(py, objects()?)?.into_any(),
        (FROZENSET, Value::List(_)) => PyFrozenSet::new(py, objects()?)?.into_any(),
        (BYTEARRAY, Value::Bytes(bytes)) => PyByteArray::new(py, bytes).into_any(),
        (DICT, Value::List(pairs)) => {
            let dict = PyDict::new(py);
            for pair in pairs {
                let Some([key, value]) = pair.list() else { return Ok(None) };
                dict.set_item(object_of(py, key, clock)?, object_of(py, value, clock)?)?;
            }
            dict.into_any()
        }
        (TIMER, Value::Int(_)) => match (inner.int::<u64>(), clock) {
            (Some(id), Some(clock)) => clock.call_method1(intern!(py, "_timer"), (id,))?,
            _ => return Ok(None),
        },
        _ => return Ok(None),
    }))
}

/// Whether an object is what this stands for; false also where that costs more than to make it anew.
pub(crate) fn is_same(value: &Value, object: &Bound<'_, PyAny>) -> bool {
    match value {
        Value::Nothing => object.is_none(),
        Value::Bool(flag) => object.cast_exact::<PyBool>().is_ok_and(|it| it.is_true() == *flag),
        Value::Int(number) => {
            let is_it = || match i64::try_from(*number) {
                Ok(small) => object.extract::<i64>().is_ok_and(|it| it == small),
                Err(_) => object.extract::<i128>().is_ok_and(|it| it == *number),
            };
            object.is_exact_instance_of::<PyInt>() && is_it()
        }
        Value::Float(number) => object.cast_exact::<PyFloat>().is_ok_and(|it| it.value().to_bits() == number.to_bits()),
        Value::Text(text) => object.cast_exact::<PyString>().is_ok_and(|it| it.to_str().is_ok_and(|it| *it == **text)),
        Value::Bytes(bytes) => object.cast_exact::<PyBytes>().is_ok_and(|it| *it.as_bytes() == **bytes),
        Value::List(values) => object.cast_exact::<PyList>().is_ok_and(|list| {
            list.len() == values.len() && list.iter().zip(values).all(|(it, value)| is_same(value, &it))
        }),
        Value::Map(_) => value_of(object, "").is_ok_and(|it| it == *value),
    }
}

/// A copy of plain data that shares nothing with it, for `Device.save` and `Device.load`.
#[pyfunction]
pub(crate) fn plain<'py>(
    object: &Bound<'py, PyAny>,
    path: &str,
    clock: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    object_of(object.py(), &value_of(object, path)?, clock)
}
