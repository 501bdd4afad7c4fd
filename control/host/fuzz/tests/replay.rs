//! What fuzzing has found interesting is run again.

#[path = "../../../../dataplane/fuzz/tests/corpus/mod.rs"]
mod corpus;

use tidegate_host_fuzz::TARGETS;

#[test]
fn the_corpus_runs_through() {
    corpus::replay(env!("CARGO_MANIFEST_DIR"), &TARGETS);
}
