//! The test program again, as another process that plays one part.

use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{self, ChildStdin, ChildStdout, Command, Stdio};

const PART: &str = "TIDEGATE_FABRIC_TEST_PART";

pub(crate) struct Child {
    process: process::Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Child {
    pub(crate) fn start(part: &str, environment: &[(&str, &str)]) -> Self {
        let mut process = Command::new(env::current_exe().expect("own program"))
            .args(["--exact", "processes::play", "--ignored", "--nocapture", "--quiet"])
            .env(PART, part)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start");
        let input = process.stdin.take().expect("input");
        let output = BufReader::new(process.stdout.take().expect("output"));
        Self { process, input, output }
    }

    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("say");
    }

    /// The next line that is ours: the test harness prints some of its own.
    pub(crate) fn line(&mut self, begins: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).expect("read");
            assert!(read > 0, "the other process ended before it said {begins:?}");
            if let Some(at) = line.find(begins) {
                return line[at + begins.len()..].trim().to_owned();
            }
        }
    }

    pub(crate) fn expect_line(&mut self, text: &str) {
        assert_eq!(self.line(text), "");
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("kill");
        self.process.wait().expect("wait");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "a part that other tests start as a process"]
fn play() {
    match env::var(PART).as_deref() {
        Ok("count_handlers") => crate::signals::count_handlers(),
        Ok(part) => crate::rig::play(part),
        Err(_) => panic!("{PART} says which part to play"),
    }
}
