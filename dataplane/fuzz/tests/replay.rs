//! What fuzzing has found interesting is run again.

mod corpus;

use tidegate_fuzz::TARGETS;

#[test]
fn the_corpus_runs_through() {
    corpus::replay(env!("CARGO_MANIFEST_DIR"), &TARGETS);
}
