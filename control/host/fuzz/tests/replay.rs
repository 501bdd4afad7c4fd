//! What fuzzing has found interesting is run again.

use std::{fs, path::Path};

use tidegate_host_fuzz::TARGETS;

#[test]
fn the_corpus_runs_through() {
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
        let mut count = 0;
        for file in files {
            let path = file.expect("readable").path();
            let bytes = fs::read(&path).expect("readable");
            // The name of the file stands above the panic, if there is one.
            eprintln!("{}", path.display());
            target(&bytes);
            count += 1;
        }
        assert!(count >= 20, "{name}: a corpus of {count} files is none");
    }
}
