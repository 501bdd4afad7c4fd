//! Which interfaces the kernel has for the ports: a twin for each that names one, and on it one for each VLAN of the
//! device.

use tidegate_dataplane::packet::Tags;

use super::{MirroredPort, TwinInterface, Vlan};
use crate::config::{Carrier, Config, PortConfig};

/// The name of the kernel's interface for `port`, one of `ports`; `None` when the kernel has none.
#[must_use]
pub fn interface_name(port: &PortConfig, ports: &[PortConfig]) -> Option<String> {
    match port.carrier {
        Carrier::Device(_) => port.twin.clone(),
        Carrier::Vlan { on, tags } => {
            let device = ports.iter().find(|device| device.id == on)?;
            device.twin.as_ref().map(|twin| vlan_name(twin, tags))
        }
    }
}

fn vlan_name(on: &str, tags: Tags) -> String {
    format!("{on}.{tags}")
}

/// The interfaces to set up, in this order, and which port each stands for.
#[must_use]
pub fn interfaces(config: &Config) -> (Vec<TwinInterface>, Vec<MirroredPort>) {
    let (mut interfaces, mut mirrored): (Vec<TwinInterface>, Vec<_>) = Default::default();
    for port in &config.ports {
        let Some(name) = interface_name(port, &config.ports) else { continue };
        let vlan = match port.carrier {
            Carrier::Device(_) => None,
            Carrier::Vlan { on, tags } => {
                let device = config.ports.iter().find(|device| device.id == on);
                let twin = device.and_then(|device| device.twin.clone()).unwrap_or_default();
                let (vlan, below) = vlans(twin, tags, port);
                let is_new =
                    |below: &TwinInterface| interfaces.iter().all(|it| it.name != below.name);
                interfaces.extend(below.filter(is_new));
                Some(vlan)
            }
        };
        let addresses = port.addresses.iter().map(|own| (own.address, own.prefix_len)).collect();
        interfaces.push(TwinInterface { name: name.clone(), addresses, vlan });
        mirrored.push(MirroredPort { port: port.id, interface: name });
    }
    (interfaces, mirrored)
}

/// What makes an interface on `twin` that of `port`, and the one between them when it has two tags: the kernel has one
/// interface for each tag. The outer one's is named apart from that of a port with the same VLAN and no other.
fn vlans(twin: String, tags: Tags, port: &PortConfig) -> (Vlan, Option<TwinInterface>) {
    let (first, second) = tags.vlans();
    let of_port = |on, id| Vlan { on, id, is_service: false, mac: port.mac, mtu: Some(port.mtu) };
    let Some(inner) = second else { return (of_port(twin, first), None) };
    let name = format!("{twin}.s{first}");
    let between = Vlan { on: twin, id: first, is_service: true, mac: None, mtu: None };
    let below = TwinInterface { name: name.clone(), addresses: Vec::new(), vlan: Some(between) };
    (of_port(name, inner), Some(below))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn each_vlan_of_a_twin_has_an_interface() {
        let mut text = String::from("[api]\nlisten = [\"unix:/run/x.sock\"]\n");
        for (name, more) in [
            ("a", "device = \"net_null0\"\ntwin = \"ta\""),
            ("b", "device = \"net_null1\""),
            ("a5", "on = \"a\"\nvlan = \"5\"\naddresses = [\"10.5.0.1/24\"]\nmtu = 1400"),
            ("a5-7", "on = \"a\"\nvlan = \"5.7\""),
            ("a5-8", "on = \"a\"\nvlan = \"5.8\""),
            ("b5", "on = \"b\"\nvlan = \"5\""),
        ] {
            text += &format!("[[port]]\nname = \"{name}\"\nrole = \"access\"\n{more}\n");
        }
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        let config = config::load(file.path()).expect("valid");
        let (interfaces, mirrored) = interfaces(&config);
        let on = |it: &TwinInterface| {
            let vlan = it.vlan.as_ref()?;
            Some((vlan.on.clone(), vlan.id, vlan.is_service, vlan.mtu))
        };
        let made: Vec<_> = interfaces.iter().map(|it| (it.name.as_str(), on(it))).collect();
        let expected = [
            ("ta", None),
            ("ta.5", Some(("ta".to_owned(), 5, false, Some(1400)))),
            ("ta.s5", Some(("ta".to_owned(), 5, true, None))),
            ("ta.5.7", Some(("ta.s5".to_owned(), 7, false, Some(1500)))),
            ("ta.5.8", Some(("ta.s5".to_owned(), 8, false, Some(1500)))),
        ];
        assert_eq!(made, expected);
        assert_eq!(interfaces[1].addresses.len(), 1);
        let of = |name: &str| config.ports.iter().find(|port| port.name == name).expect("it").id;
        let stands = |name, interface: &str| MirroredPort {
            port: of(name),
            interface: interface.to_owned(),
        };
        let expected = [("a", "ta"), ("a5", "ta.5"), ("a5-7", "ta.5.7"), ("a5-8", "ta.5.8")];
        assert_eq!(mirrored, expected.map(|(name, interface)| stands(name, interface)));
    }
}
