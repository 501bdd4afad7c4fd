//! Migrations that cannot be, and that the source serves on.

use std::{fs, process::Command};

use tidegate_lab::{
    Mode, Rig,
    cloud::{CloudOptions, GuestFile, complaint},
    lab,
    migration::arguments,
    process::{output, run},
    rig::{Options, SOURCE},
    switch_box::MANAGED,
};

/// `tidegate migrate` with words replaced or added must fail and say all of `parts`.
fn refused(rig: &Rig, what: &str, replace: &[(&str, &str)], add: &[&str], parts: &[&str]) {
    let mut words = arguments(rig);
    for (option, value) in replace {
        let at = words.iter().position(|word| word == option).expect("the option is there");
        words[at + 1] = (*value).to_owned();
    }
    // There are two hosts here: the source's has to be said.
    words.extend(["--from-host", "h1"].map(str::to_owned));
    words.extend(add.iter().map(|word| (*word).to_owned()));
    let mut command = rig.cloud.tidegate(&words).expect("built");
    let output = output(&mut command).expect("runs");
    let message = complaint(&output);
    println!("{what}:\n{message}");
    assert!(!output.status.success(), "{what} was accepted:\n{message}");
    for part in parts {
        assert!(message.contains(part), "{what}: `{part}` is not in:\n{message}");
    }
    let mut clients = rig.clients().expect("clients");
    rig.answered_by(&mut clients, SOURCE, 1).expect(what);
}

#[test]
fn what_cannot_be_migrated_is_refused_and_serves_on() {
    // A little disk for twins, smaller than the guest's RAM.
    let root = std::env::var_os(lab::VARIABLE).map(std::path::PathBuf::from);
    let small = root.expect("run through `make test`").join("small");
    fs::create_dir_all(&small).expect("a directory");
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(&small))
        .expect("a small disk");
    let nobody = "unix:/run/lab/nobody.sock";
    let inventory = format!("\n[[host]]\nname = \"h2\"\nendpoint = \"{nobody}\"\n");
    let cloud = CloudOptions { twin_dir: Some(small.clone()), inventory };
    let rig = Rig::start(&Options { cloud, ..Options::new(Mode::L2) }).expect("a rig");
    let private =
        GuestFile { name: "vm-p", mode: Mode::L2, memory_shared: false, vhost_socket: None };
    rig.cloud.start_guest(&private).expect("a guest without a RAM file");

    refused(&rig, "unknown address", &[("--address", "10.9.0.200")], &[], &["10.9.0.200"]);
    refused(&rig, "destination is the source", &[("--to", SOURCE)], &[], &[SOURCE]);
    refused(&rig, "no RAM file", &[("--guest", "vm-p")], &[], &["vm-p", "memory_shared"]);
    refused(&rig, "unknown region", &[], &["--regions", "nothing"], &["nothing", "counters"]);
    refused(&rig, "host unreachable", &[], &["--to-host", "h2"], &["h2", "nobody.sock"]);
    refused(&rig, "disk full", &[], &[], &["small", "free"]);

    let address = rig.api.address(MANAGED).expect("the box answers");
    assert!(!address.hosted && address.destination.is_none(), "{address:?}");
    let delete = rig.cloud.tidegate(["guest", "delete", "vm-p"]).expect("built");
    run(&mut { delete }).expect("deleted");
    rig.stop().expect("everything ends well");
    run(Command::new("umount").arg(&small)).expect("unmounted");
}
