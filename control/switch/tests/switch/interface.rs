//! The interface around the RPCs: health, reflection, status, counters.

use tidegate_api::switch as proto;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::testbox::{TestBox, east};

const SERVICE: &str = "tidegate.switch.v1.Switch";

#[tokio::test]
async fn health_says_serving() {
    let tested = TestBox::start().await;
    let mut health = HealthClient::new(tested.channel.clone());
    for service in [SERVICE, ""] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.expect("health").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
    tested.stop().await;
}

#[tokio::test]
async fn reflection_lists_the_service() {
    let tested = TestBox::start().await;
    let mut reflection = ServerReflectionClient::new(tested.channel.clone());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers =
        reflection.server_reflection_info(tokio_stream::iter([request])).await.expect("reflection");
    let answer = answers.into_inner().message().await.expect("no error").expect("an answer");
    let Some(MessageResponse::ListServicesResponse(listed)) = answer.message_response else {
        panic!("not a list: {answer:?}");
    };
    let names: Vec<_> = listed.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&SERVICE) && names.contains(&"grpc.health.v1.Health"), "{names:?}");
    tested.stop().await;
}

#[tokio::test]
async fn status_describes_the_box() {
    let mut tested = TestBox::start().await;
    tested.drain(3).await;
    let status =
        tested.client.get_status(proto::GetStatusRequest {}).await.expect("status").into_inner();
    assert_eq!((status.workers, status.sessions_capacity, status.sessions), (2, 256, 3));
    assert_eq!((status.hosted_addresses, status.migrations), (1, 1));
    assert_eq!(
        (status.version.as_str(), status.dpdk_version.as_str()),
        (env!("CARGO_PKG_VERSION"), "none")
    );
    let port = &status.ports[1];
    assert_eq!(
        (port.name.as_str(), port.device.as_str(), port.mac.as_str()),
        ("east", "net_null1", "02:00:00:00:00:fe")
    );
    assert_eq!(
        (port.link_up, port.queues, port.addresses.as_slice()),
        (true, 1, &["10.8.0.1/24".to_owned()][..])
    );
    assert_eq!((port.vlan.as_str(), port.mtu), ("", 1500));
    tested.stop().await;
}

#[tokio::test]
async fn status_names_vlans_and_whose_device_they_share() {
    let vlan = "[[port]]\nname = \"uplink.5\"\non = \"uplink\"\nvlan = \"5\"\nmtu = 1400\nrole = \"access\"\n";
    let mut tested = TestBox::start_with(vlan).await;
    let request = proto::GetStatusRequest {};
    let status = tested.client.get_status(request).await.expect("status").into_inner();
    let port = &status.ports[3];
    assert_eq!((port.name.as_str(), port.vlan.as_str(), port.mtu), ("uplink.5", "5", 1400));
    assert_eq!((&port.device, &port.mac), (&status.ports[0].device, &status.ports[0].mac));
    let request = proto::GetCountersRequest {};
    let counters = tested.client.get_counters(request).await.expect("counters").into_inner();
    let ports: Vec<_> = counters.ports.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(ports, ["uplink", "east", "west"], "counters are the devices'");
    tested.stop().await;
}

#[tokio::test]
async fn counters_name_every_outcome_worker_and_port() {
    let mut tested = TestBox::start().await;
    tested.add(east()).await.expect("add");
    let counters = tested
        .client
        .get_counters(proto::GetCountersRequest {})
        .await
        .expect("counters")
        .into_inner();
    let to_source =
        counters.outcomes.iter().find(|outcome| outcome.name == "to_source").expect("named");
    assert!(!to_source.drop && !to_source.help.is_empty());
    assert_eq!(counters.workers.iter().map(|worker| worker.worker).collect::<Vec<_>>(), [0, 1]);
    let ports: Vec<_> =
        counters.ports.iter().map(|port| (port.name.as_str(), port.rx_packets)).collect();
    assert_eq!(ports, [("uplink", 1), ("east", 2), ("west", 3)]);
    tested.stop().await;
}

#[tokio::test]
async fn addresses_are_listed_in_order() {
    let mut tested = TestBox::start().await;
    for address in ["10.8.0.101", "10.8.0.99"] {
        let request = proto::AddAddressRequest {
            address: address.to_owned(),
            home: Some(east()),
            quic: None,
        };
        tested.client.add_address(request).await.expect("add");
    }
    let listed = tested
        .client
        .list_addresses(proto::ListAddressesRequest {})
        .await
        .expect("list")
        .into_inner();
    let listed: Vec<_> = listed.addresses.iter().map(|address| address.address.as_str()).collect();
    assert_eq!(listed, ["10.8.0.99", "10.8.0.101"]);
    tested.stop().await;
}
