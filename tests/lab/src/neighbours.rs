//! What the clients' link sees of the managed address: who answers for it, who announces it.

use std::process::Command;

use crate::{
    lab::Lab,
    process::{output, run},
    switch_box::UPLINK,
};

/// Ask once, by ARP, who has `address`.
///
/// # Errors
/// When the probe cannot be run.
pub fn answered(lab: &Lab, address: &str) -> anyhow::Result<bool> {
    let mut probe = lab.among_clients("busybox");
    // Once, and at most a second: who hosts an address answers at once.
    probe.args(["arping", "-f", "-c", "2", "-w", "2", "-I", UPLINK, address]);
    Ok(output(&mut probe)?.status.success())
}

/// Have the clients' kernel note addresses that are announced unasked (gratuitous ARP), or not, and forget what it
/// knows of `address`.
///
/// # Errors
/// When the setting cannot be changed.
pub fn note_announcements(lab: &Lab, address: &str, note: bool) -> anyhow::Result<()> {
    let value = u8::from(note);
    let setting = format!("echo {value} > /proc/sys/net/ipv4/conf/{UPLINK}/arp_accept");
    run(lab.among_clients("sh").args(["-c", &setting]))?;
    // Nothing to forget is fine.
    let _ = output(lab.among_clients("ip").args(["neigh", "del", address, "dev", UPLINK]));
    Ok(())
}

/// The MAC address the clients' kernel knows for `address`, if any.
///
/// # Errors
/// When the table cannot be read.
pub fn known(lab: &Lab, address: &str) -> anyhow::Result<Option<String>> {
    let mut command: Command = lab.among_clients("ip");
    let table = run(command.args(["neigh", "show", address, "dev", UPLINK]))?;
    let mut words = table.split_whitespace();
    Ok(words.find(|word| *word == "lladdr").and_then(|_| words.next()).map(str::to_owned))
}
