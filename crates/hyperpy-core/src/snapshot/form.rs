//! States with a form of their own: a struct that is put back as it is, and the same as plain data for files and for
//! comparing. Plain data comes from outside: it is taken whole, or refused and told why. One that was made of it is one that its
//! device could have saved, so that [`check`] needs no other rules than what puts it back.

use std::any::Any;
use std::sync::Arc;

use super::{Saved, StateFault, Value};

/// A state that is also made of plain data.
pub trait Form: Saved + Sized {
    /// The same of plain data, all of which must be there and fit: one that could have been saved.
    ///
    /// # Errors
    /// [`StateFault::Misfit`]: what does not.
    fn of(value: &Value) -> Result<Self, StateFault>;
}

/// Gives `put` a state in its own form, whichever form it comes in. Of its own form nothing is allocated.
///
/// # Errors
/// It is not such a state.
pub fn with<T: Form, R>(state: &dyn Saved, put: impl FnOnce(&T) -> R) -> Result<R, StateFault> {
    let any: &dyn Any = state;
    if let Some(own) = any.downcast_ref::<T>() {
        return Ok(put(own));
    }
    let made = any.downcast_ref::<Value>().map_or_else(|| T::of(&state.value()), T::of)?;
    Ok(put(&made))
}

/// Whether [`with`] would take a state.
///
/// # Errors
/// It is not such a state.
pub fn check<T: Form>(state: &dyn Saved) -> Result<(), StateFault> {
    with(state, |_: &T| ())
}

/// A misfit, in words.
#[must_use]
pub fn misfit(what: impl Into<String>) -> StateFault {
    StateFault::Misfit(what.into())
}

/// Refuses a state unless this holds.
///
/// # Errors
/// It does not: `what` is wrong.
pub fn require(holds: bool, what: &str) -> Result<(), StateFault> {
    if holds { Ok(()) } else { Err(misfit(what)) }
}

/// Something that is plain data in one way.
pub trait Plain: Sized {
    /// As plain data.
    fn value(&self) -> Value;
    /// Of plain data; `None` if it is something else.
    fn of(value: &Value) -> Option<Self>;
}

macro_rules! plain_integers {
    ($($kind:ty)*) => {$(
        impl Plain for $kind {
            fn value(&self) -> Value {
                Value::Int((*self).into())
            }
            fn of(value: &Value) -> Option<Self> {
                value.int()
            }
        }
    )*};
}
plain_integers!(u8 u16 u32 u64 i64);

impl Plain for bool {
    fn value(&self) -> Value {
        Value::Bool(*self)
    }
    fn of(value: &Value) -> Option<Self> {
        value.bool()
    }
}

impl Plain for Value {
    fn value(&self) -> Value {
        self.clone()
    }
    fn of(value: &Value) -> Option<Self> {
        Some(value.clone())
    }
}

impl Plain for Box<[u8]> {
    fn value(&self) -> Value {
        Value::Bytes(self.clone())
    }
    fn of(value: &Value) -> Option<Self> {
        value.bytes().map(Into::into)
    }
}

impl Plain for Arc<[u8]> {
    fn value(&self) -> Value {
        Value::Bytes((**self).into())
    }
    fn of(value: &Value) -> Option<Self> {
        value.bytes().map(Into::into)
    }
}

impl<const N: usize> Plain for [u8; N] {
    fn value(&self) -> Value {
        Value::Bytes(self.as_slice().into())
    }
    fn of(value: &Value) -> Option<Self> {
        value.bytes()?.try_into().ok()
    }
}

impl<T: Plain> Plain for Option<T> {
    fn value(&self) -> Value {
        self.as_ref().map_or(Value::Nothing, Plain::value)
    }
    fn of(value: &Value) -> Option<Self> {
        if *value == Value::Nothing { Some(None) } else { T::of(value).map(Some) }
    }
}

impl<T: Plain> Plain for Vec<T> {
    fn value(&self) -> Value {
        Value::List(self.iter().map(Plain::value).collect())
    }
    fn of(value: &Value) -> Option<Self> {
        value.list()?.iter().map(T::of).collect()
    }
}

/// The entries of a map that is to have these and no others.
#[derive(Debug)]
pub struct Fields<'a>(&'a Value);

impl<'a> Fields<'a> {
    /// Looks at a map.
    ///
    /// # Errors
    /// It is none, or has something else.
    pub fn new(value: &'a Value, names: &[&str]) -> Result<Self, StateFault> {
        let Value::Map(entries) = value else { return Err(misfit("it is no map")) };
        let other = entries.iter().find(|(name, _)| !names.contains(&&**name));
        if let Some((name, _)) = other {
            return Err(misfit(format!("there is no {name:.60}")));
        }
        require(entries.len() <= names.len(), "a name is there twice")?;
        Ok(Self(value))
    }

    /// One of them.
    ///
    /// # Errors
    /// It is not there, or no such value.
    pub fn get<T: Plain>(&self, name: &str) -> Result<T, StateFault> {
        let value = self.0.get(name).ok_or_else(|| misfit(format!("{name} is missing")))?;
        T::of(value).ok_or_else(|| misfit(format!("{name} cannot have its value")))
    }
}

/// Makes a struct a state: its fields are [`Plain`], and their names those of a map. `check rules;` after it says what its fields
/// must be besides: a method that refuses.
#[macro_export]
macro_rules! state {
    (
        $(#[$meta:meta])* $vis:vis struct $name:ident {
            $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $kind:ty,)*
        }
        $(check $rules:ident;)?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $name {
            $($(#[$field_meta])* $field_vis $field: $kind,)*
        }

        impl $crate::snapshot::Saved for $name {
            fn value(&self) -> $crate::snapshot::Value {
                $crate::snapshot::Plain::value(self)
            }
        }

        impl $crate::snapshot::Form for $name {
            fn of(value: &$crate::snapshot::Value) -> Result<Self, $crate::snapshot::StateFault> {
                let fields = $crate::snapshot::Fields::new(value, &[$(stringify!($field)),*])?;
                let made = Self { $($field: fields.get(stringify!($field))?,)* };
                $(made.$rules()?;)?
                Ok(made)
            }
        }

        impl $crate::snapshot::Plain for $name {
            fn value(&self) -> $crate::snapshot::Value {
                $crate::snapshot::Value::map([$((stringify!($field), $crate::snapshot::Plain::value(&self.$field))),*])
            }
            fn of(value: &$crate::snapshot::Value) -> Option<Self> {
                $crate::snapshot::Form::of(value).ok()
            }
        }
    };
}

/// What there is to save of a device that has no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stateless;

impl Saved for Stateless {
    fn value(&self) -> Value {
        Value::Nothing
    }
}

impl Form for Stateless {
    fn of(value: &Value) -> Result<Self, StateFault> {
        require(*value == Value::Nothing, "the device has nothing to be saved, and it is something").map(|()| Self)
    }
}

#[cfg(test)]
#[path = "form_test.rs"]
mod tests;
