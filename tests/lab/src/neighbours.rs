//! What the clients' link sees of the managed address: who answers for it, who announces it.

use std::{process::Command, thread, time::Duration};

use crate::{
    family::Family,
    lab::Lab,
    process::{output, run},
    switch_box::UPLINK,
};

/// Nobody's. An unsolicited neighbour advertisement changes what is known, and teaches nothing new (RFC 4861, section
/// 7.2.5).
const OUTDATED_MAC: &str = "02:00:00:00:ff:ff";
/// How long an answer may take, and between looks.
const ANSWER: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);

/// Ask, by ARP or neighbour solicitations, who has the managed address.
///
/// # Errors
/// When the probe cannot be run.
pub fn answered(lab: &Lab, family: Family) -> anyhow::Result<bool> {
    let address = family.managed();
    match family {
        Family::V4 => {
            let mut probe = lab.among_clients("busybox");
            // Once, and at most a second: who hosts an address answers at once.
            probe.args(["arping", "-f", "-c", "2", "-w", "2", "-I", UPLINK, address]);
            Ok(output(&mut probe)?.status.success())
        }
        Family::V6 => {
            forget(lab, address)?;
            // The kernel asks for what is said to be in use, whatever the route to it.
            run(lab.among_clients("ip").args(["neigh", "add", address, "dev", UPLINK, "use"]))?;
            for _ in 0..ANSWER.as_millis() / LOOK.as_millis() {
                if known(lab, family)?.is_some() {
                    return Ok(true);
                }
                thread::sleep(LOOK);
            }
            Ok(false)
        }
    }
}

/// Have the clients' kernel note when the address is announced unasked (gratuitous ARP, unsolicited neighbour
/// advertisement), or not, and forget what it knows of it.
///
/// # Errors
/// When the setting cannot be changed.
pub fn note_announcements(lab: &Lab, family: Family, note: bool) -> anyhow::Result<()> {
    let address = family.managed();
    forget(lab, address)?;
    match family {
        Family::V4 => {
            let value = u8::from(note);
            let setting = format!("echo {value} > /proc/sys/net/ipv4/conf/{UPLINK}/arp_accept");
            run(lab.among_clients("sh").args(["-c", &setting]))?;
        }
        Family::V6 if note => {
            let outdated = ["lladdr", OUTDATED_MAC, "dev", UPLINK, "nud", "stale"];
            run(lab.among_clients("ip").args(["neigh", "add", address]).args(outdated))?;
        }
        Family::V6 => {}
    }
    Ok(())
}

fn forget(lab: &Lab, address: &str) -> anyhow::Result<()> {
    // Nothing to forget is fine.
    output(lab.among_clients("ip").args(["neigh", "del", address, "dev", UPLINK])).map(drop)
}

/// The MAC address the clients' kernel knows for the managed address, if any.
///
/// # Errors
/// When the table cannot be read.
pub fn known(lab: &Lab, family: Family) -> anyhow::Result<Option<String>> {
    let mut command: Command = lab.among_clients("ip");
    let table = run(command.args(["neigh", "show", family.managed(), "dev", UPLINK]))?;
    let mut words = table.split_whitespace();
    Ok(words.find(|word| *word == "lladdr").and_then(|_| words.next()).map(str::to_owned))
}
