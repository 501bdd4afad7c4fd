//! The C header makes the same bytes as this crate.
//!
//! Needs a C compiler: `$CC`, or `cc`. Without one the test fails and says so.

use std::{env, fs, path::Path, process::Command};

use tidegate_region::{HEADER_BYTES, Header, MergeType, Range, log};

const SIZE: usize = 16384;

fn ran(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{:?} is needed: {error}", command.get_program()));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What the C program does, done here.
fn expected() -> Vec<u8> {
    let range =
        |offset, len_bytes, merge_type, width| Range { offset, len_bytes, merge_type, width };
    let ranges = [
        range(4096, 64, MergeType::Sum, 8),
        range(4160, 4, MergeType::Max, 4),
        range(4164, 2, MergeType::Min, 2),
        range(4166, 1, MergeType::Or, 1),
        range(4200, 5, MergeType::SourceWins, 1),
        range(4205, 5, MergeType::DestinationWins, 1),
        range(4210, 5, MergeType::Abort, 1),
        range(8192, 32, MergeType::AppendLog, 4),
    ];
    let mut bytes = vec![0; SIZE];
    let mut header = [0; HEADER_BYTES];
    Header::new(3, 7, SIZE as u64, &ranges).expect("valid").encode(&mut header);
    bytes[..HEADER_BYTES].copy_from_slice(&header);
    bytes[4104..4112].copy_from_slice(&77_u64.to_le_bytes());
    let log = &mut bytes[8192..8224];
    log::append(log, 4, b"firstone").expect("room");
    log::append(log, 4, b"two.").expect("room");
    bytes
}

#[test]
fn c_and_rust_write_the_same_region() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().expect("dir");
    let (program, file) = (dir.path().join("region"), dir.path().join("file"));
    // What a guest finds in fresh memory, or anything else.
    fs::write(&file, vec![0xaa; SIZE]).expect("file");
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    ran(Command::new(&compiler)
        .args(["-std=gnu99", "-O2", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(here.join("include"))
        .arg(here.join("tests/c/region.c"))
        .arg("-o")
        .arg(&program));
    // The header by itself is plain C99, and C++ takes it.
    for language in [["-std=c99", "-xc"], ["-std=c++11", "-xc++"]] {
        ran(Command::new(&compiler)
            .args(language)
            .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"])
            .arg(here.join("include/tidegate_region.h")));
    }
    ran(Command::new(&program).arg(&file));
    let found = fs::read(&file).expect("file");
    let expected = expected();
    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found, expected, "byte {at}");
    }
    let header = Header::parse(&found).expect("valid");
    assert_eq!((header.schema_version(), header.generation()), (3, 7));
}
