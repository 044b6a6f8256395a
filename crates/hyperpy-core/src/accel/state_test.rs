//! States as plain data.
