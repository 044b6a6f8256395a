//! Plain data of snapshots between Rust and Python: None, bool, int, float, str, bytes, list and dict.

use hyperpy_core::snapshot::Value;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

/// Lists and dicts inside of each other: a file takes 63 of them below its own.
const MOST_LEVELS: usize = 63;

/// As Python has it.
pub(crate) fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::Nothing => py.None().into_bound(py),
        Value::Bool(is) => PyBool::new(py, *is).to_owned().into_any(),
        Value::Int(number) => number.into_pyobject(py)?.into_any(),
        Value::Float(number) => PyFloat::new(py, *number).into_any(),
        Value::Text(text) => PyString::new(py, text).into_any(),
        Value::Bytes(bytes) => PyBytes::new(py, bytes).into_any(),
        Value::List(values) => {
            let list = PyList::empty(py);
            for value in values {
                list.append(to_python(py, value)?)?;
            }
            list.into_any()
        }
        Value::Map(entries) => {
            let dict = PyDict::new(py);
            for (name, value) in entries {
                dict.set_item(&**name, to_python(py, value)?)?;
            }
            dict.into_any()
        }
    })
}

/// From what Python has; a tuple becomes a list, a bytearray bytes.
pub(crate) fn from_python(object: &Bound<'_, PyAny>) -> PyResult<Value> {
    value(object, 0)
}

fn value(object: &Bound<'_, PyAny>, level: usize) -> PyResult<Value> {
    if level >= MOST_LEVELS {
        return Err(PyValueError::new_err(format!(
            "state is nested too deeply: more than {MOST_LEVELS} levels\n\nhint: fewer lists and dicts inside of each other"
        )));
    }
    let each = |object: Bound<'_, PyAny>| value(&object, level + 1);
    if object.is_none() {
        Ok(Value::Nothing)
    } else if let Ok(is) = object.cast::<PyBool>() {
        Ok(Value::Bool(is.is_true()))
    } else if let Ok(number) = object.cast::<PyInt>() {
        number.extract().map(Value::Int).map_err(|_| {
            PyValueError::new_err("state has a number of more than 128 bits\n\nhint: give it as bytes or str")
        })
    } else if let Ok(number) = object.cast::<PyFloat>() {
        Ok(Value::Float(number.extract()?))
    } else if let Ok(text) = object.cast::<PyString>() {
        Ok(Value::Text(text.extract::<String>()?.into()))
    } else if let Ok(bytes) = object.cast::<PyBytes>() {
        Ok(bytes.as_bytes().into())
    } else if let Ok(bytes) = object.cast::<PyByteArray>() {
        Ok(bytes.to_vec().as_slice().into())
    } else if let Ok(list) = object.cast::<PyList>() {
        Ok(Value::List(list.iter().map(each).collect::<PyResult<_>>()?))
    } else if let Ok(tuple) = object.cast::<PyTuple>() {
        Ok(Value::List(tuple.iter().map(each).collect::<PyResult<_>>()?))
    } else if let Ok(dict) = object.cast::<PyDict>() {
        let entry = |(name, object): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
            let name = name.extract::<String>().map_err(|_| unfit(&name))?;
            Ok((name.into(), each(object)?))
        };
        Ok(Value::Map(dict.iter().map(entry).collect::<PyResult<_>>()?))
    } else {
        Err(unfit(object))
    }
}

fn unfit(object: &Bound<'_, PyAny>) -> PyErr {
    let kind = object.get_type().name().map_or_else(|_| "something".into(), |name| name.to_string());
    PyTypeError::new_err(format!(
        "state has a value that cannot be saved: {kind}\n\nhint: None, bool, int, float, str, bytes, lists, and dicts by str"
    ))
}
