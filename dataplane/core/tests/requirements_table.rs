//! REQUIREMENTS.md names tests that exist, and each of them cites what it holds.

use std::{fs, path::PathBuf};

const TABLE: &str = include_str!("REQUIREMENTS.md");

/// The file that `pipeline/…`, `blackbox/…` or the session's tests are in.
fn file(name: &str) -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    match name.split_once('/') {
        Some(("pipeline", _)) => here.join("tests").join(name),
        Some(("blackbox", name)) => here.join("../../tests/blackbox/scenarios").join(name),
        _ => here.join("src/session").join(name),
    }
}

#[test]
fn each_test_exists_and_cites_its_requirement() {
    let held = TABLE.split("## ").find(|part| part.starts_with("Held")).expect("a section");
    let mut tests = 0;
    for row in held.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [_, rfc, requirement, _, held_by, _] = cells[..] else { panic!("cells of {row}") };
        let citation = format!("RFC {rfc}, {requirement}");
        for named in held_by.split(", ") {
            let (name, test) = named.trim_matches('`').split_once("::").expect("file::test");
            let path = file(name);
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            let found =
                ["fn ", "def "].iter().find_map(|word| text.find(&format!("{word}{test}(")));
            let at = found.unwrap_or_else(|| panic!("{path:?} has no test {test}"));
            // Beside the test: in the comment before it, or among its first lines.
            let before: Vec<_> = text[..at].rsplit('\n').take(8).collect();
            let after: Vec<_> = text[at..].lines().take(4).collect();
            let cited = before.iter().chain(&after).any(|line| cites(line, &citation));
            assert!(cited, "{path:?}: {test} does not cite {citation}");
            tests += 1;
        }
    }
    assert!(tests > 30, "only {tests} tests are named");
}

/// Whether `line` has `citation`, and not that of a longer number.
fn cites(line: &str, citation: &str) -> bool {
    line.match_indices(citation).any(|(at, _)| {
        !line[at + citation.len()..].starts_with(|next: char| next.is_ascii_alphanumeric())
    })
}
