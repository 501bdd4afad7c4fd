//! What fuzzing has found interesting is run again, of every crate with fuzz targets.

use std::{fs, path::Path};

type Target = fn(&[u8]);

/// Files a target's corpus has at least.
const LEAST: usize = 20;

/// Give each target the files of its folder in the crate's `corpus`.
pub(crate) fn replay(crate_dir: &str, targets: &[(&str, Target)]) {
    for (name, target) in targets {
        let folder = Path::new(crate_dir).join("corpus").join(name);
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
        assert!(count >= LEAST, "{name}: a corpus of {count} files is none");
    }
}
