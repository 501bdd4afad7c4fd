//! Why a step was refused, and what to do instead.

use std::net::IpAddr;

use tidegate_dataplane::steering::IpPrefix;

use super::{AddressState, PortClash};

/// A step that does not fit what is there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are what the messages show")]
pub enum Refused {
    /// Nobody added it.
    #[error("address {0} is not managed by this box; call AddAddress first")]
    UnknownAddress(IpAddr),
    /// It was added before.
    #[error("address {0} is managed already; call RemoveAddress first to configure it anew")]
    AddressExists(IpAddr),
    /// The box itself has it.
    #[error("address {address} is the box's own on port `{port}`; choose another")]
    OwnAddress { address: IpAddr, port: String },
    /// A port has the name.
    #[error("there is a port `{0}` already; call RemovePort first, or choose another name")]
    PortExists(String),
    /// A port cannot be beside the others.
    #[error(transparent)]
    Port(#[from] PortClash),
    /// A port's address is managed.
    #[error("{0} is a managed address; give the port another")]
    PortAddressManaged(IpAddr),
    /// A port's address is a guest's.
    #[error("{address} is the locator of a backend of {owner}; give the port another")]
    PortAddressIsLocator { address: IpAddr, owner: IpAddr },
    /// A port's address is a neighbour's.
    #[error("{0} is a [[neighbour]] in the configuration; give the port another address")]
    PortAddressIsNeighbour(IpAddr),
    /// A port's link has a route already.
    #[error(
        "there is a [[route]] to {0} already; give the port another address, or remove the route"
    )]
    PortPrefixRouted(IpPrefix),
    /// Nobody added it.
    #[error("there is no port `{name}`; ports here: {known}")]
    UnknownPort { name: String, known: String },
    /// Packets go there.
    #[error(
        "port `{port}` is where {address} has its backend `{backend}`; call RemoveAddress, or Release or Abort when it migrates"
    )]
    PortHasBackend { port: String, address: IpAddr, backend: String },
    /// Packets go there, says the configuration.
    #[error(
        "port `{port}` is needed by {what} in the configuration; remove that there and restart tidegated"
    )]
    PortIsConfigured { port: String, what: String },
    /// It is a backend's own address.
    #[error("address {address} is the locator of a backend of {owner}; choose another")]
    AddressIsLocator { address: IpAddr, owner: IpAddr },
    /// Another backend has the locator.
    #[error("locator {locator} is a backend of {owner} already; each guest needs its own")]
    LocatorTaken { locator: IpAddr, owner: IpAddr },
    /// The locator is a managed address.
    #[error("locator {0} is itself a managed address; give the guest's own address")]
    LocatorManaged(IpAddr),
    /// A migration is going on.
    #[error(
        "address {address} is {state} with a migration to `{destination}` in progress; \
         call Release or Abort first"
    )]
    MigrationInProgress { address: IpAddr, state: AddressState, destination: String },
    /// Source and destination are one.
    #[error(
        "the destination is where {address} already lives, its home `{home}`; name another guest"
    )]
    DestinationIsHome { address: IpAddr, home: String },
    /// Both are called the same.
    #[error("the home of {address} is called `{name}` too; give the destination another name")]
    DestinationName { address: IpAddr, name: String },
    /// Nothing tells the two VMs apart.
    #[error(
        "the destination is behind the same port as the home of {address}; with rewrite L2 the port \
         tells the two apart, put the destination behind another"
    )]
    DestinationPort { address: IpAddr },
    /// Cutover needs a hosted address.
    #[error("address {address} is {state}; call Takeover first")]
    NotHosted { address: IpAddr, state: AddressState },
    /// Its sessions are not recorded.
    #[error("address {address} is {state}: its sessions are not recorded; call Takeover first")]
    NotTracked { address: IpAddr, state: AddressState },
    /// There is no migration.
    #[error("address {address} is {state} and has no destination; call SetDestination first")]
    NoDestination { address: IpAddr, state: AddressState },
    /// Cutover has happened.
    #[error(
        "address {address} is {state}, cut over already; call Release or Abort to end the migration"
    )]
    AlreadyCutOver { address: IpAddr, state: AddressState },
    /// Cutover has not happened.
    #[error(
        "address {address} is {state} and not cut over; call Cutover first, or Abort to give up"
    )]
    NotCutOver { address: IpAddr, state: AddressState },
    /// Old sessions are left.
    #[error(
        "address {address} is {state}: old sessions are left; wait for DRAINED with WatchMigration, \
         or set force to forget them"
    )]
    NotDrained { address: IpAddr, state: AddressState },
    /// A guest with another address has not the source's sockets.
    #[error(
        "sessions of {address} cannot go over to its destination: with rewrite NAT a guest has an address of its own, and \
         other sockets; release without with_sessions, or use rewrite L2 on both sides"
    )]
    SessionsStay { address: IpAddr },
    /// There is nothing to give back.
    #[error(
        "address {address} is {state}: no migration to abort; call Takeover or SetDestination to begin one"
    )]
    NothingToAbort { address: IpAddr, state: AddressState },
    /// The tunnel is in use with another gateway.
    #[error(
        "the tunnel to {remote} is in use for guests that see another port as their gateway; name that port"
    )]
    TunnelGateway { remote: IpAddr },
    /// Nothing would tell packets of the two kinds apart.
    #[error(
        "encap.udp_port: {udp_port} to {remote} is in use for a tunnel of the other kind; choose another port"
    )]
    TunnelUdpPort { remote: IpAddr, udp_port: u16 },
    /// All numbers are in use.
    #[error("all {0} tunnels are in use; remove addresses behind some")]
    NoTunnel(usize),
    /// All slots are in use.
    #[error(
        "all {0} backend slots are in use; remove addresses, or retry once their sessions are forgotten"
    )]
    NoSlot(usize),
}
