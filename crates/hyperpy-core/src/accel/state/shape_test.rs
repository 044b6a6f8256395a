//! What differs, line by line.
