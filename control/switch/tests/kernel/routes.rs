//! Routes: what the kernel uses is what is told.

use tidegate_dataplane::steering::NextHop;
use tidegate_switch::kernel::KernelRoute;

use crate::rig::{A, B, Links, Told, add_link, prefix, run, via};

const ON_LINK: Option<KernelRoute> = Some(KernelRoute::Next(NextHop { port: A, via: None }));

#[test]
fn of_several_routes_the_one_with_the_least_metric_counts() {
    let _links = Links::new();
    run("ip route add 10.50.0.0/16 via 10.1.0.5");
    let (_mirror, mut told) = Told::start();
    told.leads("10.1.0.0/24", ON_LINK);
    told.leads("2001:db8:1::/64", ON_LINK);
    told.leads("10.50.0.0/16", via("10.1.0.5"));

    run("ip route replace 10.50.0.0/16 via 10.1.0.6");
    told.leads("10.50.0.0/16", via("10.1.0.6"));
    run("ip route add 10.50.0.0/16 via 10.1.0.7 metric 9");
    run("ip route add 10.51.0.0/16 via 10.1.0.7 metric 9");
    told.leads("10.51.0.0/16", via("10.1.0.7"));
    told.leads("10.50.0.0/16", via("10.1.0.6"));
    run("ip route del 10.50.0.0/16 via 10.1.0.6");
    told.leads("10.50.0.0/16", via("10.1.0.7"));
    run("ip route flush 10.50.0.0/16");
    told.leads("10.50.0.0/16", None);
    // What counts for some packets only is not for workers.
    run("ip route add 10.57.0.0/16 via 10.1.0.6 tos 8");
    run("ip route add 10.57.0.0/16 via 10.1.0.7 metric 9");
    told.leads("10.57.0.0/16", via("10.1.0.7"));
}

#[test]
fn several_next_hops() {
    let _links = Links::new();
    let (_mirror, mut told) = Told::start();
    run("ip -6 route add 2001:db8:50::/48 via 2001:db8:1::5");
    told.leads("2001:db8:50::/48", via("2001:db8:1::5"));
    run("ip -6 route append 2001:db8:50::/48 via 2001:db8:1::6");
    run("ip -6 route append 2001:db8:50::/48 via 2001:db8:1::7");
    run("ip -6 route del 2001:db8:50::/48 via 2001:db8:1::5");
    told.leads("2001:db8:50::/48", via("2001:db8:1::6"));

    run("ip addr add 10.2.0.1/24 dev tgb");
    run("ip route add 10.52.0.0/16 nexthop via 10.1.0.9 weight 1 nexthop via 10.2.0.8 weight 2");
    told.leads("10.52.0.0/16", via("10.1.0.9"));
    // The first one's link goes down: the kernel keeps the route, and says nothing of it.
    run("ip link set tga down");
    let by_b = KernelRoute::Next(NextHop { port: B, via: Some([10, 2, 0, 8].into()) });
    told.leads("10.52.0.0/16", Some(by_b));
}

#[test]
fn next_hop_objects() {
    let _links = Links::new();
    let (_mirror, mut told) = Told::start();
    run("ip nexthop add id 7 via 10.1.0.9 dev tga");
    run("ip route add 10.53.0.0/16 nhid 7");
    told.leads("10.53.0.0/16", via("10.1.0.9"));
    run("ip nexthop replace id 7 via 10.1.0.10 dev tga");
    told.leads("10.53.0.0/16", via("10.1.0.10"));
    // Its IPv4 routes go with it, of which nobody tells.
    run("ip nexthop del id 7");
    told.leads("10.53.0.0/16", None);
}

#[test]
fn other_kinds_of_routes() {
    let _links = Links::new();
    let (_mirror, mut told) = Told::start();
    run("ip route add 10.56.0.0/16 via inet6 2001:db8:1::7 dev tga");
    told.leads("10.56.0.0/16", via("2001:db8:1::7"));
    run("ip route add blackhole 10.54.0.0/16");
    run("ip route add 10.55.0.0/16 dev lo");
    run("ip -6 route add unreachable 2001:db8:54::/48");
    told.leads("10.54.0.0/16", Some(KernelRoute::Blackhole));
    told.leads("10.55.0.0/16", Some(KernelRoute::Unreachable));
    told.leads("2001:db8:54::/48", Some(KernelRoute::Unreachable));
    told.leads("10.1.0.1/32", Some(KernelRoute::Host));
    told.leads("2001:db8:1::1/128", Some(KernelRoute::Host));
    run("ip addr add 10.255.0.1/32 dev lo");
    told.leads("10.255.0.1/32", Some(KernelRoute::Host));
    // One's own address comes before any route to it.
    run("ip route add 10.255.0.1/32 via 10.1.0.5");
    run("ip addr del 10.255.0.1/32 dev lo");
    told.leads("10.255.0.1/32", via("10.1.0.5"));
    run("ip route del 10.255.0.1/32");
    told.leads("10.255.0.1/32", None);
    run("ip route del 10.54.0.0/16");
    run("ip route del 10.55.0.0/16");
    run("ip -6 route del unreachable 2001:db8:54::/48");
    told.leads("10.54.0.0/16", None);
    told.leads("10.55.0.0/16", None);
    told.leads("2001:db8:54::/48", None);
}

#[test]
fn links_go_down_and_are_made_anew() {
    let _links = Links::new();
    let (_mirror, mut told) = Told::start();
    run("ip route add 10.51.0.0/16 via 10.1.0.7");
    told.leads("10.51.0.0/16", via("10.1.0.7"));
    // IPv4's routes go with it, of which nobody tells.
    run("ip link set tga down");
    told.until("no routes", |told| !told.routes.contains_key(&prefix("10.51.0.0/16")));
    told.until("no routes", |told| !told.routes.contains_key(&prefix("2001:db8:1::/64")));
    run("ip link set tga up");
    told.leads("10.1.0.0/24", ON_LINK);
    // An interface that is made anew is the same port.
    run("ip link del tga");
    told.until("no link", |told| !told.routes.contains_key(&prefix("10.1.0.0/24")));
    add_link("tga");
    run("ip addr add 10.1.0.1/24 dev tga");
    run("ip link set tga up");
    told.leads("10.1.0.0/24", ON_LINK);
    // And one that takes its name is it, too.
    run("ip link set tga down");
    run("ip link set tga name other");
    told.until("no link", |told| !told.routes.contains_key(&prefix("10.1.0.0/24")));
    run("ip link set other name tga");
    run("ip link set tga up");
    told.leads("10.1.0.0/24", ON_LINK);
}
