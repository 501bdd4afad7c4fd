use super::*;

fn vxlan() -> proto::Encap {
    proto::Encap {
        kind: Wire::Vxlan.into(),
        remote: "192.0.2.7".to_owned(),
        local: "192.0.2.1".to_owned(),
        vni: 7,
        udp_port: 0,
    }
}

#[test]
fn the_usual_port_is_written_out_as_the_switch_does() {
    let encap = Encap::from_proto(&vxlan()).expect("good");
    assert_eq!(encap.to_proto(), proto::Encap { udp_port: 4789, ..vxlan() });
    assert_eq!(encap.to_string(), "VXLAN 7 from 192.0.2.1 to 192.0.2.7");
    assert!(encap.kind.carries_frames());
    let gue = proto::Encap { kind: Wire::Gue.into(), vni: 0, ..vxlan() };
    let encap = Encap::from_proto(&gue).expect("good");
    assert_eq!(encap.to_proto().udp_port, 6080);
    assert!(!encap.kind.carries_frames());
    let six = proto::Encap {
        kind: Wire::Ipip.into(),
        remote: "2001:db8::7".to_owned(),
        local: "2001:DB8:0::1".to_owned(),
        ..proto::Encap::default()
    };
    let encap = Encap::from_proto(&six).expect("good");
    assert_eq!(encap.to_string(), "IPIP from 2001:db8::1 to 2001:db8::7");
    assert_eq!(Encap::from_proto(&encap.to_proto()), Ok(encap));
}

#[test]
fn what_does_not_go_together_names_the_field() {
    type Change = fn(&mut proto::Encap);
    let cases: [(Change, &str); 9] = [
        (|it| it.kind = 0, "kind: 0 is not a kind; say IPIP, GUE or VXLAN"),
        (|it| it.kind = 9, "kind: 9 is not a kind; say IPIP, GUE or VXLAN"),
        (|it| it.set_kind(Wire::Gue), "vni: 7 goes with VXLAN only"),
        (|it| it.vni = 1 << 24, "vni: 16777216 is too large; use at most 16777215"),
        (|it| it.udp_port = 65_536, "udp_port: 65536 is not a port"),
        (|it| (it.vni, it.udp_port, it.kind) = (0, 9, 1), "udp_port: 9 does not go with IPIP"),
        (|it| it.remote = String::new(), "remote: `` is not a unicast IP address"),
        (|it| it.remote = "2001:db8::7".to_owned(), "remote: 2001:db8::7 is of another IP family"),
        (|it| it.local = "192.0.2.7".to_owned(), "remote: 192.0.2.7 is the box's own"),
    ];
    for (change, says) in cases {
        let mut message = vxlan();
        change(&mut message);
        let error = Encap::from_proto(&message).expect_err(says).to_string();
        assert!(error.starts_with(&format!("destination_encap.{says}")), "{error}");
    }
}
