//! Clocks put back: the time, and which timers are set.
#![allow(clippy::unwrap_used)]
