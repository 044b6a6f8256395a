//! What a state is made of, three ways: as plain data with names, back from it, and as bytes of a hash that stays the same from
//! one version to the next. A structure says its fields once, in [`plain!`].
//!
//! What comes back from plain data may be anything: a name that is not there, a number that does not fit and a name too many
//! are each a [`StateFault`] that says where.

use std::hash::Hasher;

use twox_hash::XxHash3_64;

use crate::snapshot::{StateFault, Value};

/// A part of a state.
pub(crate) trait Plain: Sized {
    fn value(&self) -> Value;
    /// `at` is what it is called, for the error.
    fn from_value(value: &Value, at: &str) -> Result<Self, StateFault>;
    fn feed(&self, hash: &mut XxHash3_64);
}

/// It is not what belongs there.
pub(crate) fn misfit(at: &str, wanted: &str) -> StateFault {
    StateFault::Misfit(format!("{at} is not {wanted}"))
}

/// The part of a map that has a name.
pub(crate) fn part<T: Plain>(map: &Value, at: &str, name: &str) -> Result<T, StateFault> {
    let at = if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
    let found = map.get(name).ok_or_else(|| StateFault::Misfit(format!("{at} is missing")))?;
    T::from_value(found, &at)
}

/// Refuses a map that has more than these names.
pub(crate) fn no_more(map: &Value, at: &str, names: &[&str]) -> Result<(), StateFault> {
    let Value::Map(entries) = map else { return Err(misfit(at, "a map")) };
    match entries.iter().find(|(name, _)| !names.contains(&&**name)) {
        Some((name, _)) => Err(StateFault::Misfit(format!("{at} has something unknown: {name}"))),
        None if entries.len() > names.len() => Err(StateFault::Misfit(format!("{at} has a name twice"))),
        None => Ok(()),
    }
}

macro_rules! integers {
    ($($kind:ty)*) => {$(
        impl Plain for $kind {
            fn value(&self) -> Value {
                (*self).into()
            }
            fn from_value(value: &Value, at: &str) -> Result<Self, StateFault> {
                value.int().ok_or_else(|| misfit(at, concat!("a number that fits into ", stringify!($kind))))
            }
            fn feed(&self, hash: &mut XxHash3_64) {
                hash.write(&self.to_le_bytes());
            }
        }
    )*};
}
integers!(u8 u16 u32 u64 i64);

impl Plain for bool {
    fn value(&self) -> Value {
        (*self).into()
    }
    fn from_value(value: &Value, at: &str) -> Result<Self, StateFault> {
        value.bool().ok_or_else(|| misfit(at, "true or false"))
    }
    fn feed(&self, hash: &mut XxHash3_64) {
        hash.write(&[u8::from(*self)]);
    }
}

impl<T: Plain + Default + Copy, const N: usize> Plain for [T; N] {
    fn value(&self) -> Value {
        Value::List(self.iter().map(Plain::value).collect())
    }
    fn from_value(value: &Value, at: &str) -> Result<Self, StateFault> {
        let found = value.list().filter(|list| list.len() == N);
        let found = found.ok_or_else(|| misfit(at, &format!("a list of {N}")))?;
        let mut parts = [T::default(); N];
        for (n, (into, from)) in parts.iter_mut().zip(found).enumerate() {
            *into = T::from_value(from, &format!("{at}[{n}]"))?;
        }
        Ok(parts)
    }
    fn feed(&self, hash: &mut XxHash3_64) {
        self.iter().for_each(|part| part.feed(hash));
    }
}

impl<T: Plain> Plain for Option<T> {
    fn value(&self) -> Value {
        self.as_ref().map_or(Value::Nothing, Plain::value)
    }
    fn from_value(value: &Value, at: &str) -> Result<Self, StateFault> {
        if *value == Value::Nothing { Ok(None) } else { T::from_value(value, at).map(Some) }
    }
    fn feed(&self, hash: &mut XxHash3_64) {
        hash.write(&[u8::from(self.is_some())]);
        if let Some(part) = self {
            part.feed(hash);
        }
    }
}

impl<T: Plain> Plain for Box<T> {
    fn value(&self) -> Value {
        (**self).value()
    }
    fn from_value(value: &Value, at: &str) -> Result<Self, StateFault> {
        T::from_value(value, at).map(Box::new)
    }
    fn feed(&self, hash: &mut XxHash3_64) {
        (**self).feed(hash);
    }
}

impl Plain for Box<[u8]> {
    fn value(&self) -> Value {
        (&**self).into()
    }
    fn from_value(value: &Value, at: &str) -> Result<Self, StateFault> {
        value.bytes().map(Into::into).ok_or_else(|| misfit(at, "bytes"))
    }
    fn feed(&self, hash: &mut XxHash3_64) {
        hash.write(&(self.len() as u64).to_le_bytes());
        hash.write(self);
    }
}

/// Makes a structure plain data: each field by its own name, or by the one that is given.
macro_rules! plain {
    ($kind:ident { $($field:ident $(: $name:literal)?),* $(,)? }) => {
        impl $crate::accel::state::plain::Plain for $kind {
            fn value(&self) -> $crate::snapshot::Value {
                $crate::snapshot::Value::map([
                    $(($crate::accel::state::plain::name!($field $($name)?), self.$field.value())),*
                ])
            }
            fn from_value(
                value: &$crate::snapshot::Value,
                at: &str,
            ) -> Result<Self, $crate::snapshot::StateFault> {
                let names = [$($crate::accel::state::plain::name!($field $($name)?)),*];
                $crate::accel::state::plain::no_more(value, at, &names)?;
                Ok(Self {
                    $($field: $crate::accel::state::plain::part(
                        value, at, $crate::accel::state::plain::name!($field $($name)?),
                    )?),*
                })
            }
            fn feed(&self, hash: &mut twox_hash::XxHash3_64) {
                $(self.$field.feed(hash);)*
            }
        }
    };
}
pub(crate) use plain;

/// The name that is given, else the field's.
macro_rules! name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $name:literal) => {
        $name
    };
}
pub(crate) use name;
