//! What `shm` leaves behind when a process is killed: its queues, 16 MiB of `/dev/shm` each. The library would
//! take them away by signal handlers, which do not help against SIGKILL and are not ours to have.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, geteuid, test_kill_process};

use crate::address::process_in_name;

/// Remove the queues of this user's processes that are no more. What cannot be removed stays.
pub(crate) fn remove(dir: &Path) {
    let user = geteuid().as_raw();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(process_in_name).and_then(Pid::from_raw);
        let ours = entry.metadata().is_ok_and(|meta| meta.is_file() && meta.uid() == user);
        if let Some(process) = process
            && ours
            && test_kill_process(process) == Err(Errno::SRCH)
        {
            // Another process may be at the same.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, id};

    use super::*;

    #[test]
    fn only_queues_of_processes_that_are_gone_are_removed() {
        let dir = tempfile::tempdir().expect("dir");
        let mut child = Command::new("true").spawn().expect("child");
        let gone = child.id();
        child.wait().expect("wait");
        let name = |process| format!("{process}:0:0");
        for name in [name(gone), name(id()), name(1), format!("{gone}:0"), format!("{gone}:0:x")] {
            fs::write(dir.path().join(name), "").expect("file");
        }
        remove(dir.path());
        assert!(!dir.path().join(name(gone)).exists());
        assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 4);
    }
}
