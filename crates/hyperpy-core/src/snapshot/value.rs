//! Plain data with names: what of a device, a vCPU or a machine is neither memory nor code. It is what a file holds, what two
//! snapshots are compared by, and what a device in Python gives and gets.

use std::any::Any;
use std::sync::Arc;

/// A tree of plain data.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// No value.
    #[default]
    Nothing,
    /// Yes or no.
    Bool(bool),
    /// A number.
    Int(i128),
    /// A number that is not whole.
    Float(f64),
    /// Words.
    Text(Box<str>),
    /// Bytes.
    Bytes(Box<[u8]>),
    /// Values one after the other.
    List(Vec<Value>),
    /// Values by name, in the order in which they were put in; no name twice.
    Map(Vec<(Box<str>, Value)>),
}

impl Value {
    /// A map of these.
    pub fn map<const N: usize>(entries: [(&str, Value); N]) -> Self {
        Self::Map(entries.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }

    /// The value of this name in a map.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        let Self::Map(entries) = self else { return None };
        entries.iter().find(|(key, _)| **key == *name).map(|(_, value)| value)
    }

    /// A number that fits.
    #[must_use]
    pub fn int<T: TryFrom<i128>>(&self) -> Option<T> {
        if let Self::Int(value) = self { T::try_from(*value).ok() } else { None }
    }

    /// Yes or no.
    #[must_use]
    pub fn bool(&self) -> Option<bool> {
        if let Self::Bool(value) = self { Some(*value) } else { None }
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        if let Self::Bytes(value) = self { Some(value) } else { None }
    }

    /// Words.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(value) = self { Some(value) } else { None }
    }

    /// Values one after the other.
    #[must_use]
    pub fn list(&self) -> Option<&[Value]> {
        if let Self::List(values) = self { Some(values) } else { None }
    }
}

macro_rules! from_integers {
    ($($kind:ty)*) => {$(
        impl From<$kind> for Value {
            fn from(value: $kind) -> Self {
                Self::Int(value.into())
            }
        }
    )*};
}
from_integers!(u8 u16 u32 u64 i8 i16 i32 i64 i128);

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(value.into())
    }
}

/// A device's state as its owner keeps it: in whatever form it can be put back fastest, and as plain data for all others.
pub trait Saved: Any + Send + Sync {
    /// The same as plain data.
    fn value(&self) -> Value;
}

impl Saved for Value {
    fn value(&self) -> Value {
        self.clone()
    }
}

/// What a snapshot has of a device. Shared: a snapshot does not change.
pub type State = Arc<dyn Saved>;

/// Something of a machine that is neither on a bus nor in the core, and that snapshots keep: a console.
pub trait Keeper: Send + Sync {
    /// What a snapshot has of it, while the machine stands still.
    fn save(&self) -> State;
    /// Whether [`Self::load`] would take a state; changes nothing.
    ///
    /// # Errors
    /// It is no such state.
    fn check(&self, state: &dyn Saved) -> Result<(), StateFault>;
    /// Puts that back, or the same as plain data.
    ///
    /// # Errors
    /// It is no such state.
    fn load(&self, state: &dyn Saved) -> Result<(), StateFault>;
}

/// Why a device cannot be saved, or not be given a state: for a message that names the device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateFault {
    /// It has no way to be saved.
    #[error("it cannot be saved")]
    NotSaved,
    /// The state is of something else, or damaged: what of it.
    #[error("its state does not fit: {0}")]
    Misfit(String),
    /// It cannot be saved: why.
    #[error("it cannot be saved: {0}")]
    Unsaved(String),
    /// Its own method failed, and keeps why.
    #[error("its method raised")]
    Raised,
}

impl StateFault {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotSaved => {
                "define save(self) and load(self, state), or say stateless = True if there is nothing to save"
            }
            Self::Unsaved(_) => {
                "name the attributes that are state in its class: saved_attributes = (\"count\",), or () if none is"
            }
            Self::Misfit(_) => {
                "give a state that the same device has saved; a class that has changed can override `load`"
            }
            Self::Raised => "see what it raised",
        }
    }
}

#[cfg(test)]
#[path = "value_test.rs"]
mod tests;
