//! Mistakes in a box's configuration, while another box serves.

use tidegate_lab::{
    Mode, Rig,
    clients::Clients,
    rig::{Options, SOURCE},
    switch_box::{config, refusal},
};

/// A rig, and clients that see whether its source serves.
struct Bench {
    rig: Rig,
    clients: Clients,
    sessions: u32,
}

impl Bench {
    /// Run a box whose configuration is the lab's with one thing replaced; it must say all of `parts`.
    fn refused(&mut self, what: &str, from: &str, to: &str, parts: &[&str]) {
        let rig = &self.rig;
        let good = config(rig.lab.dir(), rig.mode);
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{what}: nothing to replace");
        // Own names for what the running box has, in case this one gets that far.
        let bad = bad
            .replace("tidegate-lab", "tidegate-refused")
            .replace("hugepages = true\nmemory_mib = 512", "hugepages = false\nmemory_mib = 128")
            .replace("tidegated.sock", "refused.sock");
        // Less memory than DPDK's route tables take.
        let bad = format!("{bad}\n[routes]\ntable = \"map\"\n");
        let message = refusal(&rig.lab, &bad).expect(what);
        println!("{what}:\n{message}");
        for part in parts {
            assert!(message.contains(part), "{what}: `{part}` is not in:\n{message}");
        }
        self.sessions += 1;
        rig.answered_by(&mut self.clients, SOURCE, self.sessions).expect(what);
    }
}

#[test]
fn mistakes_are_named_and_the_running_box_serves() {
    let rig = Rig::start(&Options::new(Mode::L2)).expect("a rig");
    let clients = rig.clients().expect("clients");
    let mut bench = Bench { rig, clients, sessions: 0 };
    bench.refused(
        "unknown key",
        "idle = \"sleep\"",
        "idel = \"sleep\"",
        &["refused.toml:8:1: unknown key `idel`; allowed here: `cpus`, `idle`, `sessions`"],
    );
    bench.refused(
        "port that does not open",
        "net_tap0,iface=tg-uplink",
        "net_pcap7,rx_pcap=/nowhere.pcap",
        &["port `uplink`", "`net_pcap7,rx_pcap=/nowhere.pcap`", "did not open", "check the device"],
    );
    let address = "[[address]]\naddress = \"10.9.0.100\"";
    let twice = format!(
        "{address}\nhome = {{ name = \"vm-c\", port = \"vm1\", mac = \"02:00:00:00:00:01\", rewrite = \"l2\" }}\n\n{address}"
    );
    bench.refused(
        "two addresses the same",
        address,
        &twice,
        &["refused.toml:45:11: 10.9.0.100 is already a managed address", "choose another"],
    );
    let Bench { rig, clients, .. } = bench;
    drop(clients);
    rig.stop().expect("everything ends well");
}
