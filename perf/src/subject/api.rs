//! What the harness asks of a box.

use tidegate_api::{
    Channel,
    endpoint::{Endpoint, connect},
    switch::{
        AbortRequest, AddPortRequest, AddressState, Backend, Counters, CutoverRequest,
        CutoverResponse, GetAddressRequest, GetCountersRequest, ListSessionsRequest, PortRole,
        RemovePortRequest, Rewrite, SetDestinationRequest, TakeoverRequest,
        switch_client::SwitchClient,
    },
};
use tokio::runtime::Runtime;

/// The managed address.
const MANAGED: &str = "10.9.0.100";

/// Name of the port a flood comes from.
pub const FLOOD: &str = "flood";
/// MAC of all uplinks, as captures have it.
const UPLINK_MAC: &str = "02:00:00:00:01:01";

/// A connection to a box's API.
pub struct Api {
    runtime: Runtime,
    client: SwitchClient<Channel>,
}

/// Counters that matter here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Received.
    pub received: u64,
    /// Sent to the home backend.
    pub to_source: u64,
    /// Sent to the destination.
    pub to_destination: u64,
    /// Dropped, whatever the reason but the next.
    pub dropped: u64,
    /// Dropped because the ring to another worker was full: more is offered than two workers can do.
    pub ring_full: u64,
    /// Sessions in the tables.
    pub sessions: u64,
    /// Ended in any outcome.
    pub ended: u64,
    /// Sessions only begun that made room for others.
    pub evicted: u64,
    /// Dropped because no session could be begun for them, or none is known that they speak of.
    pub refused: u64,
    /// Received by the port [`FLOOD`].
    pub flood: u64,
}

impl Totals {
    fn of(counters: &Counters) -> Self {
        let outcome = |name: &str| {
            counters.outcomes.iter().find(|it| it.name == name).map_or(0, |it| it.packets)
        };
        let dropped: u64 = counters.outcomes.iter().filter(|it| it.drop).map(|it| it.packets).sum();
        Self {
            received: counters.received,
            to_source: outcome("to_source"),
            to_destination: outcome("to_destination"),
            dropped: dropped - outcome("ring_full"),
            ring_full: outcome("ring_full"),
            sessions: counters.workers.iter().map(|it| it.sessions).sum(),
            ended: counters.outcomes.iter().map(|it| it.packets).sum(),
            evicted: counters.workers.iter().map(|it| it.half_open_evicted).sum(),
            refused: outcome("half_open_limited")
                + outcome("table_full")
                + outcome("icmp_unmatched"),
            flood: counters.ports.iter().find(|it| it.name == FLOOD).map_or(0, |it| it.rx_packets),
        }
    }
}

impl Api {
    /// Connect to `endpoint`.
    ///
    /// # Errors
    /// When nobody answers there.
    pub fn connect(endpoint: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint: Endpoint = endpoint.parse()?;
        let channel = runtime.block_on(connect(&endpoint))?;
        Ok(Self { runtime, client: SwitchClient::new(channel) })
    }

    /// Its counters now.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn totals(&mut self) -> anyhow::Result<Totals> {
        let asked = self.client.get_counters(GetCountersRequest {});
        Ok(Totals::of(&self.runtime.block_on(asked)?.into_inner()))
    }

    /// Open a device as a port.
    ///
    /// # Errors
    /// When the box refuses.
    pub fn add_port(&mut self, name: &str, device: &str, role: PortRole) -> anyhow::Result<()> {
        let request = AddPortRequest {
            name: name.to_owned(),
            device: device.to_owned(),
            mac: UPLINK_MAC.to_owned(),
            role: role.into(),
            ..Default::default()
        };
        self.runtime.block_on(self.client.add_port(request))?;
        Ok(())
    }

    /// Close a port that was added; what came by it has its outcome then.
    ///
    /// # Errors
    /// When the box refuses.
    pub fn remove_port(&mut self, name: &str) -> anyhow::Result<()> {
        let request = RemovePortRequest { name: name.to_owned() };
        self.runtime.block_on(self.client.remove_port(request))?;
        Ok(())
    }

    /// Host the managed address and name a destination for it, behind `port`.
    ///
    /// # Errors
    /// When the box refuses.
    pub fn prepare_cutover(&mut self, port: &str) -> anyhow::Result<()> {
        let destination = Backend {
            name: "destination".to_owned(),
            port: port.to_owned(),
            mac: "02:00:00:00:0a:02".to_owned(),
            rewrite: Rewrite::Nat.into(),
            locator: "10.8.0.12".to_owned(),
            encap: None,
        };
        self.prepare_cutover_of(MANAGED, destination)
    }

    /// Host `address` and name a destination for it.
    ///
    /// # Errors
    /// When the box refuses.
    pub fn prepare_cutover_of(
        &mut self,
        address: &str,
        destination: Backend,
    ) -> anyhow::Result<()> {
        let address = address.to_owned();
        let takeover = TakeoverRequest { address: address.clone() };
        self.runtime.block_on(self.client.takeover(takeover))?;
        let request = SetDestinationRequest { address, destination: Some(destination) };
        self.runtime.block_on(self.client.set_destination(request))?;
        Ok(())
    }

    /// Cut the managed address over.
    ///
    /// # Errors
    /// When the box refuses, or a worker does not acknowledge.
    pub fn cutover(&mut self) -> anyhow::Result<CutoverResponse> {
        self.cutover_of(MANAGED)
    }

    /// Cut `address` over.
    ///
    /// # Errors
    /// When the box refuses, or a worker does not acknowledge.
    pub fn cutover_of(&mut self, address: &str) -> anyhow::Result<CutoverResponse> {
        let request = CutoverRequest { address: address.to_owned(), ..Default::default() };
        Ok(self.runtime.block_on(self.client.cutover(request))?.into_inner())
    }

    /// Have all sessions listed, and say how many there were.
    ///
    /// # Errors
    /// When the box refuses.
    pub fn dump(&mut self) -> anyhow::Result<u64> {
        self.runtime.block_on(async {
            let request = ListSessionsRequest { address: MANAGED.to_owned(), limit: 0 };
            let mut sessions = self.client.list_sessions(request).await?.into_inner();
            let mut listed = 0;
            while sessions.message().await?.is_some() {
                listed += 1;
            }
            Ok(listed)
        })
    }

    /// Whether the source's last session is over.
    ///
    /// # Errors
    /// When the box does not answer.
    pub fn is_drained(&mut self) -> anyhow::Result<bool> {
        let request = GetAddressRequest { address: MANAGED.to_owned() };
        let address = self.runtime.block_on(self.client.get_address(request))?.into_inner();
        Ok(address.state() == AddressState::Drained && address.home_sessions == 0)
    }

    /// Give everything back to the source.
    ///
    /// # Errors
    /// When the box refuses.
    pub fn abort(&mut self) -> anyhow::Result<()> {
        let request = AbortRequest { address: MANAGED.to_owned() };
        self.runtime.block_on(self.client.abort(request))?;
        Ok(())
    }
}
