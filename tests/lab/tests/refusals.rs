//! Migrations that cannot be, and that the source serves on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tidegate_lab::{
    Family, Mode, Rig,
    client::{Order, Record},
    clients::Clients,
    cloud::{CloudOptions, GuestFile, complaint},
    lab,
    migration::arguments,
    process::{output, run},
    rig::{DESTINATION, Options, SOURCE},
    switch_box::MANAGED,
};

/// Room for twins: enough for one at first.
const ROOM: &str = "size=512m";
const NO_ROOM: &str = "size=16m";
/// Number of the session that is open through all of it.
const WITNESS: u32 = 0;

/// A rig with a session that must not notice anything.
struct Bench {
    rig: Rig,
    clients: Clients,
    next: u32,
}

impl Bench {
    /// `tidegate migrate` with words replaced or added must fail for one reason, which says all of `parts`, and
    /// the source must serve all the while.
    fn refused(&mut self, what: &str, replace: &[(&str, &str)], add: &[&str], parts: &[&str]) {
        let mut words = arguments(&self.rig);
        for (option, value) in replace {
            let at = words.iter().position(|word| word == option).expect("the option is there");
            words[at + 1] = (*value).to_owned();
        }
        // There are two hosts here: the source's has to be said.
        words.extend(["--from-host", "h1"].map(str::to_owned));
        words.extend(add.iter().map(|word| (*word).to_owned()));
        let mut command = self.rig.cloud.tidegate(&words).expect("built");
        let output = output(&mut command).expect("runs");
        let message = complaint(&output);
        println!("{what}:\n{message}");
        assert!(!output.status.success(), "{what} was accepted:\n{message}");
        let is_reason = |line: &&str| line.starts_with("FAIL") || line.starts_with("tidegate:");
        let reasons: Vec<&str> = message.lines().filter(is_reason).collect();
        let [reason] = reasons[..] else { panic!("{what}: not one reason:\n{message}") };
        for part in parts {
            assert!(reason.contains(part), "{what}: `{part}` is not in: {reason}");
        }
        self.source_serves(what);
    }

    /// Nothing has begun: the session that was open goes on, a new one is answered, the box steers nothing.
    fn source_serves(&mut self, what: &str) {
        let before = self.witness();
        self.next += 1;
        self.rig.answered_by(&mut self.clients, SOURCE, self.next).expect(what);
        let now = self.witness();
        assert!(now.answered > before.answered && now.error.is_none(), "{what}: {now:?}");
        assert!(now.identities.keys().eq([SOURCE]) && now.doubled == 0, "{what}: {now:?}");
        let address = self.rig.api.address(MANAGED).expect("the box answers");
        let home = address.home.as_ref().map(|home| home.name.as_str());
        let untouched = !address.hosted && address.destination.is_none() && home == Some(SOURCE);
        assert!(untouched, "{what}: {address:?}");
        assert!(self.rig.api.guest(DESTINATION).expect("the host answers").is_none(), "{what}");
    }

    fn witness(&mut self) -> Record {
        let mut records = self.clients.report().expect("report").records.into_iter();
        records.find(|record| record.session == WITNESS).expect("the session that is open")
    }
}

/// A disk for twins.
fn mount(dir: &Path, options: &str) {
    run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir))
        .expect("a disk");
}

#[test]
fn what_cannot_be_migrated_is_refused_and_serves_on() {
    let root = std::env::var_os(lab::VARIABLE).map(PathBuf::from);
    let small = root.expect("run through `make test`").join("small");
    fs::create_dir_all(&small).expect("a directory");
    mount(&small, ROOM);
    let nobody = "unix:/run/lab/nobody.sock";
    let inventory = format!("\n[[host]]\nname = \"h2\"\nendpoint = \"{nobody}\"\n");
    let twin_dir = Some(small.clone());
    let cloud = CloudOptions { twin_dir, inventory, ..CloudOptions::default() };
    let rig = Rig::start(&Options { cloud, ..Options::new(Mode::L2) }).expect("a rig");
    let private = GuestFile {
        name: "vm-p",
        mode: Mode::L2,
        family: Family::V4,
        memory_shared: false,
        cmdline: "",
        vhost_socket: None,
    };
    rig.cloud.start_guest(&private).expect("a guest without a RAM file");
    let mut clients = rig.clients().expect("clients");
    clients
        .order(&Order::Open { first: WITNESS, count: 1, interval_ms: 20 })
        .expect("a session is open");
    let mut bench = Bench { rig, clients, next: WITNESS };

    bench.refused(
        "unknown address",
        &[("--address", "10.9.0.200")],
        &[],
        &["`edge`", "10.9.0.200", "configure it there"],
    );
    bench.refused(
        "destination is the source",
        &[("--to", SOURCE)],
        &[],
        &[SOURCE, "is the source itself", "a name of its own"],
    );
    bench.refused(
        "destination is where the source is",
        &[("--port", "vm0")],
        &[],
        &["port `vm0` is the source's", "behind another port"],
    );
    bench.refused(
        "no RAM file",
        &[("--guest", "vm-p")],
        &[],
        &["`vm-p`", "no shared RAM file", "memory_shared"],
    );
    bench.refused(
        "unknown region",
        &[],
        &["--regions", "nothing"],
        &[SOURCE, "no region `nothing`", "it has counters"],
    );
    bench.refused(
        "host unreachable",
        &[],
        &["--to-host", "h2"],
        &["`h2`", nobody, "see that tidegate-hostd runs there"],
    );
    mount(&small, &format!("remount,{NO_ROOM}"));
    let place = small.display().to_string();
    bench.refused("disk full", &[], &[], &["not enough room", &place, "make room there"]);

    let Bench { rig, clients, .. } = bench;
    drop(clients);
    let delete = rig.cloud.tidegate(["guest", "delete", "vm-p"]).expect("built");
    run(&mut { delete }).expect("deleted");
    rig.stop().expect("everything ends well");
    run(Command::new("umount").arg(&small)).expect("unmounted");
}
