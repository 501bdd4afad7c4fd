//! Ports that come and go by request.

use tidegate_api::switch::{self as proto, AddPortRequest, Port, PortRole};
use tidegate_dataplane::{
    pipeline::{Outcome, Verdict},
    steering::PortId,
};
use tonic::{Code, Status};

use crate::{
    refusals::refused,
    testbox::{TestBox, backend, east, west},
    wire::{EAST, Tcp, UPLINK},
};

fn north() -> AddPortRequest {
    AddPortRequest {
        name: "north".to_owned(),
        device: "net_vhost3,iface=/run/north.sock".to_owned(),
        mac: "02:00:00:00:00:fe".to_owned(),
        addresses: vec!["10.8.0.1/24".to_owned()],
        role: PortRole::Access.into(),
        mtu: 0,
    }
}

impl TestBox {
    async fn add_port(&mut self, request: AddPortRequest) -> Result<Port, Status> {
        self.client.add_port(request).await.map(tonic::Response::into_inner)
    }

    async fn remove_port(&mut self, name: &str) -> Result<(), Status> {
        let request = proto::RemovePortRequest { name: name.to_owned() };
        self.client.remove_port(request).await.map(drop)
    }

    async fn hold_port(&mut self, name: &str, deadline_ms: u32) -> Result<(), Status> {
        let request = proto::HoldPortRequest { name: name.to_owned(), deadline_ms };
        self.client.hold_port(request).await.map(drop)
    }

    async fn release_port(&mut self, name: &str) -> Result<u64, Status> {
        let request = proto::ReleasePortRequest { name: name.to_owned() };
        Ok(self.client.release_port(request).await?.into_inner().held_packets)
    }

    async fn ports(&mut self) -> Vec<Port> {
        let status = self.client.get_status(proto::GetStatusRequest {}).await;
        status.expect("status").into_inner().ports
    }
}

#[tokio::test]
async fn a_port_is_held_for_a_time_that_is_said() {
    let mut tested = TestBox::start().await;
    tested.hold_port("east", 500).await.expect("held");
    assert_eq!(tested.release_port("east").await.expect("released"), 1);
    assert_eq!(tested.release_port("east").await.expect("again"), 0);
    refused(tested.hold_port("north", 500).await, Code::NotFound, &["`north`", "`east`"]);
    refused(tested.release_port("north").await, Code::NotFound, &["`north`", "`east`"]);
    for wrong in [0, 60_001] {
        let answer = tested.hold_port("east", wrong).await;
        refused(answer, Code::InvalidArgument, &["deadline_ms", "1 to 60000"]);
    }
}

#[tokio::test]
async fn a_destination_gets_its_port_while_the_box_runs() {
    let mut tested = TestBox::start().await;
    tested.add(east()).await.expect("added");
    tested.takeover().await.expect("hosted");
    let destination = backend("green", "north", 0x0c);
    let early = tested.set_destination(destination.clone()).await;
    refused(early, Code::NotFound, &["`north`", "`west`"]);

    let port = tested.add_port(north()).await.expect("added");
    assert_eq!((port.name.as_str(), port.mac.as_str()), ("north", "02:00:00:00:00:fe"));
    assert_eq!(
        (port.addresses.as_slice(), port.role()),
        (&["10.8.0.1/24".to_owned()][..], PortRole::Access)
    );
    let names: Vec<_> = tested.ports().await.into_iter().map(|port| port.name).collect();
    assert_eq!(names, ["uplink", "east", "west", "north"]);
    let counters =
        tested.client.get_counters(proto::GetCountersRequest {}).await.expect("counters");
    let counters = counters.into_inner().ports;
    assert_eq!((counters[3].name.as_str(), counters[3].rx_packets), ("north", 4));

    tested.tcp(1).open();
    let set = tested.set_destination(destination).await.expect("known now");
    assert_eq!(set.destination.expect("one").port, "north");
    tested.cutover().await.expect("cut over");
    assert_eq!(tested.tcp(1).talk(), Ok(EAST));
    assert_eq!(tested.tcp(2).open(), PortId(3));
    tested.stop().await;
}

#[tokio::test]
async fn a_port_is_not_removed_under_a_backend() {
    let mut tested = TestBox::start().await;
    tested.add(east()).await.expect("added");
    tested.takeover().await.expect("hosted");
    tested.set_destination(west()).await.expect("destination");
    let held = tested.remove_port("east").await;
    refused(held, Code::FailedPrecondition, &["`east`", "10.8.0.100", "`blue`", "RemoveAddress"]);
    let held = tested.remove_port("west").await;
    refused(held, Code::FailedPrecondition, &["`west`", "`green`", "Abort"]);
    let held = tested.remove_port("uplink").await;
    refused(held, Code::FailedPrecondition, &["`uplink`", "[[neighbour]] 10.9.0.2"]);
    refused(tested.remove_port("north").await, Code::NotFound, &["`north`", "`uplink`, `east`"]);
    tested.abort().await.expect("aborted");
    tested.remove_port("west").await.expect("nothing is behind it");
    assert_eq!(tested.tcp(1).open(), EAST, "the others' link is as it was");
    tested.stop().await;
}

#[tokio::test]
async fn a_number_goes_to_the_next_port_with_nothing_of_the_last() {
    let mut tested = TestBox::start().await;
    tested.add(east()).await.expect("added");
    // The first of those that share a prefix goes; another stands for the link.
    tested.add_port(north()).await.expect("added");
    tested.remove_port("west").await.expect("removed");
    assert_eq!(tested.tcp(1).open(), EAST);
    let south = AddPortRequest {
        name: "south".to_owned(),
        device: "net_null9".to_owned(),
        mac: String::new(),
        addresses: vec!["10.7.0.1/24".to_owned()],
        ..north()
    };
    tested.add_port(south).await.expect("added");
    let names: Vec<_> = tested.ports().await.into_iter().map(|port| port.name).collect();
    assert_eq!(names, ["uplink", "east", "south", "north"], "in the place that was free");
    // A client's packet to the new link has somewhere to go, which only has to be found.
    let to_south = Tcp { address: [10, 7, 0, 9], ..tested.tcp(1) }.talk();
    assert_eq!(to_south, Err(Verdict::Drop(Outcome::NeighbourUnknown)));
    tested.remove_port("south").await.expect("removed");
    let to_south = Tcp { address: [10, 7, 0, 9], ..tested.tcp(1) }.talk();
    assert_eq!(to_south, Ok(UPLINK), "the client is told that there is no route");
    tested.stop().await;
}

#[tokio::test]
async fn ports_follow_the_rules_of_the_configuration() {
    let mut tested = TestBox::start().await;
    tested.add(east()).await.expect("added");
    let with = |change: fn(&mut AddPortRequest)| {
        let mut request = north();
        change(&mut request);
        request
    };
    let cases: [(AddPortRequest, Code, &[&str]); 19] = [
        (with(|it| it.name = "a b".into()), Code::InvalidArgument, &["name: ", "`a b`"]),
        (with(|it| it.name = "east".into()), Code::AlreadyExists, &["`east`", "RemovePort"]),
        (with(|it| it.device.clear()), Code::InvalidArgument, &["device: ", "net_tap0"]),
        (
            with(|it| it.device = "net_null0,x=1".into()),
            Code::AlreadyExists,
            &["`uplink`", "its own"],
        ),
        (with(|it| it.device = "broken0".into()), Code::FailedPrecondition, &["`broken0`"]),
        (with(|it| it.mac = "02:00".into()), Code::InvalidArgument, &["mac: ", "`02:00`"]),
        (with(|it| it.role = 0), Code::InvalidArgument, &["role: 0", "PORT_ROLE_ACCESS"]),
        (with(|it| it.role = 7), Code::InvalidArgument, &["role: 7"]),
        (with(|it| it.mtu = 100), Code::InvalidArgument, &["mtu: 100", "576 to 9600"]),
        (with(|it| it.mtu = 70_000), Code::InvalidArgument, &["mtu: 70000"]),
        (
            with(|it| it.addresses = vec!["10.8.0.1".into()]),
            Code::InvalidArgument,
            &["addresses[0]: "],
        ),
        (
            with(|it| it.addresses.push("224.0.0.1/4".into())),
            Code::InvalidArgument,
            &["addresses[1]: ", "unicast"],
        ),
        (
            with(|it| it.addresses = vec!["10.7.0.1/33".into()]),
            Code::InvalidArgument,
            &["addresses[0]"],
        ),
        (with(|it| it.mac.clear()), Code::AlreadyExists, &["10.8.0.1/24", "`east`", "same mac"]),
        (
            with(|it| it.addresses = vec!["10.8.0.2/24".into()]),
            Code::AlreadyExists,
            &["`east`", "one link"],
        ),
        (
            with(|it| it.addresses = vec!["10.7.0.1/24".into(), "10.7.0.1/24".into()]),
            Code::AlreadyExists,
            &["10.7.0.1/24", "`north`"],
        ),
        (with(|it| it.addresses = vec!["10.8.0.100/32".into()]), Code::AlreadyExists, &["managed"]),
        (
            with(|it| it.addresses = vec!["10.9.0.2/32".into()]),
            Code::AlreadyExists,
            &["[[neighbour]]"],
        ),
        (
            with(|it| it.addresses = vec!["10.66.0.1/16".into()]),
            Code::AlreadyExists,
            &["[[route]] to 10.66.0.0/16"],
        ),
    ];
    for (request, code, says) in cases {
        refused(tested.add_port(request).await, code, says);
    }
    assert_eq!(tested.ports().await.len(), 3, "nothing has changed");
    tested.add_port(north()).await.expect("added");
    let fifth = with(|it| (it.name, it.device) = ("fifth".into(), "net_null5".into()));
    tested.add_port(fifth).await.expect("added");
    let sixth = with(|it| (it.name, it.device) = ("sixth".into(), "net_null6".into()));
    refused(tested.add_port(sixth).await, Code::ResourceExhausted, &["5 ports"]);
    tested.stop().await;
}

#[tokio::test]
async fn an_uplink_that_comes_hears_of_what_is_hosted() {
    let mut tested = TestBox::start().await;
    tested.add(east()).await.expect("added");
    tested.takeover().await.expect("hosted");
    let announced = async |tested: &TestBox, port| {
        for _ in 0..500 {
            if tested.shards.take_sent().iter().any(|(sent, _)| *sent == port) {
                return true;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        false
    };
    assert!(announced(&tested, PortId(0)).await);
    let uplink = AddPortRequest { addresses: vec![], role: PortRole::Uplink.into(), ..north() };
    tested.add_port(uplink).await.expect("added");
    assert!(announced(&tested, PortId(3)).await);
    tested.stop().await;
}

#[tokio::test]
async fn a_port_workers_do_not_take_up_is_not_there() {
    let mut tested = TestBox::start().await;
    tested.shards.stick(true);
    refused(tested.add_port(north()).await, Code::Unavailable, &["did not answer"]);
    refused(tested.remove_port("west").await, Code::Unavailable, &["did not answer"]);
    tested.shards.stick(false);
    let names: Vec<_> = tested.ports().await.into_iter().map(|port| port.name).collect();
    assert_eq!(names, ["uplink", "east", "west"]);
    tested.remove_port("west").await.expect("removed");
    tested.add_port(north()).await.expect("added");
    tested.stop().await;
}

#[tokio::test]
async fn a_device_is_not_removed_under_its_vlans() {
    let vlan = "[[port]]\nname = \"rack\"\non = \"west\"\nvlan = \"100\"\nrole = \"access\"\n";
    let mut tested = TestBox::start_with(vlan).await;
    let held = tested.remove_port("west").await;
    refused(held, Code::FailedPrecondition, &["`west`", "`rack`"]);
    tested.add_port(north()).await.expect("added");
    let names: Vec<_> = tested.ports().await.into_iter().map(|port| port.name).collect();
    assert_eq!(names, ["uplink", "east", "west", "north", "rack"]);
    tested.remove_port("rack").await.expect("removed");
    tested.remove_port("west").await.expect("nothing is on it");
    tested.stop().await;
}

#[tokio::test]
async fn a_port_stays_while_a_tunnel_ends_there() {
    let mut tested = TestBox::start().await;
    let underlay = AddPortRequest {
        name: "underlay".to_owned(),
        addresses: vec!["192.0.2.1/24".to_owned()],
        ..north()
    };
    tested.add_port(underlay).await.expect("added");
    let encap = proto::Encap {
        kind: proto::EncapKind::Vxlan.into(),
        remote: "192.0.2.7".to_owned(),
        local: "192.0.2.1".to_owned(),
        ..proto::Encap::default()
    };
    tested.add(proto::Backend { encap: Some(encap), ..west() }).await.expect("added");
    let needed = tested.remove_port("underlay").await;
    refused(needed, Code::FailedPrecondition, &["`underlay`", "`green`"]);
    let request = proto::RemoveAddressRequest { address: "10.8.0.100".to_owned() };
    tested.client.remove_address(request).await.expect("removed");
    tested.remove_port("underlay").await.expect("nothing needs it");
    tested.stop().await;
}
