//! How targets take their bytes, and what holds them without a fuzzer. Both crates that have targets are given this file, since
//! what a crate has for its own tests another one's tests do not see.
#![allow(dead_code, unused_imports, unused_macros)] // neither crate uses all of it
#![allow(clippy::indexing_slicing)]

use std::path::Path;

use arbitrary::{Result, Unstructured};

use super::Value;

/// Any of these.
pub fn any_of<T: Clone>(u: &mut Unstructured<'_>, all: &[T]) -> Result<T> {
    u.choose(all).cloned()
}

/// A number near one of these: both sides of every limit are met early.
pub fn near(u: &mut Unstructured<'_>, limits: &[u64]) -> Result<u64> {
    Ok(match u.arbitrary::<u8>()? {
        0..200 => any_of(u, limits)?.wrapping_add_signed(i64::from(u.arbitrary::<i8>()?) / 4),
        _ => u.arbitrary()?,
    })
}

/// A file with some of its bytes written over, taken out, or put in; now and then one of bytes alone.
pub fn edited(u: &mut Unstructured<'_>, file: Vec<u8>) -> Result<Vec<u8>> {
    let mut file = file;
    for _ in 0..u.int_in_range(0..=8)? {
        let at = u.int_in_range(0..=file.len())?;
        match u.int_in_range(0..=11)? {
            0 => file.truncate(at),
            1 => drop(file.drain(at..(at + u.int_in_range(0..=64)?).min(file.len()))),
            2 => drop(file.splice(at..at, u.bytes(u.len().min(16))?.iter().copied())),
            3 => return u.bytes(u.len()).map(<[u8]>::to_vec),
            kind => {
                let word = near(u, &[0, 0x1000, 0x10_0000, 1 << 31, 1 << 32, 1 << 63])?.to_le_bytes();
                let word = word.into_iter().take(1 << (kind % 4));
                file.iter_mut().skip(at).zip(word).for_each(|(byte, new)| *byte = new);
            }
        }
    }
    Ok(file)
}

/// Changes one thing of plain data, somewhere.
pub fn changed(u: &mut Unstructured<'_>, value: &mut Value) -> Result<()> {
    match value {
        Value::Map(entries) if !entries.is_empty() && !u.ratio(1, 6)? => {
            let at = u.int_in_range(0..=entries.len() - 1)?;
            match u.int_in_range(0..=9)? {
                0 => drop(entries.remove(at)),
                1 => entries.push(entries[at].clone()),
                2 => entries.swap(0, at),
                _ => changed(u, &mut entries[at].1)?,
            }
        }
        Value::List(values) if !values.is_empty() && !u.ratio(1, 4)? => {
            let at = u.int_in_range(0..=values.len() - 1)?;
            match u.int_in_range(0..=5)? {
                0 => drop(values.remove(at)),
                1 => values.push(values[at].clone()),
                _ => changed(u, &mut values[at])?,
            }
        }
        other => *other = leaf(u)?,
    }
    Ok(())
}

/// The same with entries of maps by name: their order is no part of a state.
pub fn sorted(value: &Value) -> Value {
    match value {
        Value::Map(entries) => {
            let mut entries: Vec<_> = entries.iter().map(|(name, value)| (name.clone(), sorted(value))).collect();
            entries.sort_by(|one, other| one.0.cmp(&other.0));
            Value::Map(entries)
        }
        Value::List(values) => Value::List(values.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// Any plain data.
pub fn leaf(u: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match u.int_in_range(0..=8)? {
        0 => Value::Nothing,
        1 => Value::Bool(u.arbitrary()?),
        2 => Value::Float(u.arbitrary()?),
        3 => Value::Text(u.arbitrary::<&str>()?.into()),
        4 => Value::Bytes(u.arbitrary::<&[u8]>()?.into()),
        5 => Value::List(vec![Value::Int(u.arbitrary::<u8>()?.into()); u.int_in_range(0..=70)?]),
        6 => Value::Int(u.arbitrary()?),
        _ => Value::Int(near(u, &[0, 16, 256, 1 << 16, 1 << 32, 1 << 63])?.into()),
    })
}

/// What a target does with bytes; what the bytes are too few for has been tried.
pub fn with(data: &[u8], f: impl FnOnce(&mut Unstructured<'_>) -> Result<()>) {
    let _ = f(&mut Unstructured::new(data));
}

/// Holds a target to what was found by it and to some inputs of any bytes: this needs no fuzzer.
///
/// # Panics
/// It does not hold.
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub fn hold(name: &str, target: fn(&[u8])) {
    /// Inputs of any bytes.
    const INPUTS: u64 = 200;
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/regressions").join(name);
    for entry in found.read_dir().into_iter().flatten() {
        let path = entry.unwrap().path();
        target(&std::fs::read(path).unwrap());
    }
    target(&[]);
    (0..INPUTS).for_each(|seed| target(&any_bytes(seed)));
}

/// Bytes that look like any, the same each time.
fn any_bytes(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let len = next() % 400;
    // Many zeros, since these are the first choice of every target.
    (0..len).map(|_| if next() % 3 == 0 { 0 } else { next().to_le_bytes()[4] }).collect()
}

/// Makes targets of functions: their list, and a test of each.
macro_rules! targets {
    ($($name:ident = $body:path;)*) => {
        $(pub use $body as $name;)*

        /// All of them, by name.
        pub const ALL: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name)),*];

        $(#[cfg(test)]
        mod $name {
            #[test]
            fn test_target_given_what_was_found_and_any_short_inputs_holds() {
                $crate::targets::input::hold(stringify!($name), super::$name);
            }
        })*
    };
}

pub(crate) use targets;
