//! Guest memory: capture, copy, diff and merge.
