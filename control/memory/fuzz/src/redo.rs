//! A redo file as a broken disk may give it back, under a digest that is right.

use tidegate_memory::fuzzing;

pub(crate) fn run(bytes: &[u8]) {
    fuzzing::redo(bytes);
}
