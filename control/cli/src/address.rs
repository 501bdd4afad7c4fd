//! Steering by hand: what the manager does for a migration, one step at a time.

use std::net::IpAddr;

use serde::Serialize;
use tidegate_api::{
    endpoint::Endpoint,
    switch::{self as proto, Rewrite},
};

use crate::{
    args::{AddressCommand, BackendArgs, EncapKind, Policy, TunnelArgs},
    domain::{
        Invalid,
        switch::{Address, MigrationEvent},
    },
    error::{Error, Exit},
    output::Output,
    switch::{Client, addresses_table, connect},
    table::list,
};

/// Carry out `command`.
///
/// # Errors
/// [`Error`].
pub async fn run(
    switch: &Endpoint,
    command: &AddressCommand,
    output: &mut Output,
) -> Result<Exit, Error> {
    let mut client = connect(switch).await?;
    let changed = match command {
        AddressCommand::Add { address, home, quic_connection_id_length, quic_ports } => {
            let address = address.to_string();
            let ports = quic_ports.iter().copied().map(u32::from).collect();
            let quic = quic_connection_id_length
                .map(|connection_id_length| proto::Quic { connection_id_length, ports });
            let request = proto::AddAddressRequest { address, home: Some(home.backend()), quic };
            client.add_address(request).await?.into_inner()
        }
        AddressCommand::Remove { address } => {
            let address = address.to_string();
            client.remove_address(proto::RemoveAddressRequest { address }).await?;
            return Ok(Exit::Done);
        }
        AddressCommand::Show { address } => {
            let address = address.to_string();
            client.get_address(proto::GetAddressRequest { address }).await?.into_inner()
        }
        AddressCommand::Takeover { address } => {
            let address = address.to_string();
            client.takeover(proto::TakeoverRequest { address }).await?.into_inner()
        }
        AddressCommand::Destination { address, destination } => {
            let address = address.to_string();
            let destination = Some(destination.backend());
            let request = proto::SetDestinationRequest { address, destination };
            client.set_destination(request).await?.into_inner()
        }
        AddressCommand::Cutover { address, policies } => {
            let request = proto::CutoverRequest {
                address: address.to_string(),
                unknown_tcp: policies.unknown_tcp.wire().into(),
                unknown_quic: policies.unknown_quic.wire().into(),
                datagram_max_age_s: policies.datagram_max_age,
                ignore_begun_by_source: policies.ignore_begun_by_source,
            };
            cut_over(client.cutover(request).await?.into_inner(), output)?;
            return Ok(Exit::Done);
        }
        AddressCommand::Watch { address, interval_ms } => {
            let request = proto::WatchMigrationRequest {
                address: address.to_string(),
                interval_ms: *interval_ms,
            };
            return watch(&mut client, request, output).await;
        }
        AddressCommand::Abort { address } => {
            let address = address.to_string();
            client.abort(proto::AbortRequest { address }).await?.into_inner()
        }
        AddressCommand::Release { address, keep_tracking, force, with_sessions } => {
            let request = proto::ReleaseRequest {
                address: address.to_string(),
                keep_tracking: *keep_tracking,
                force: *force,
                with_sessions: *with_sessions,
            };
            released(client.release(request).await?.into_inner(), output)?;
            return Ok(Exit::Done);
        }
    };
    addresses_table(&[changed.try_into()?], output)?;
    Ok(Exit::Done)
}

/// What a cutover answers.
#[derive(Serialize)]
struct CutOver {
    epoch: u32,
    old_sessions: u64,
    workers: u32,
    elapsed_ns: u64,
}

fn cut_over(answer: proto::CutoverResponse, output: &mut Output) -> Result<(), Error> {
    let proto::CutoverResponse { epoch, old_sessions, workers, elapsed_ns } = answer;
    output.object(&CutOver { epoch, old_sessions, workers, elapsed_ns })?;
    output.text(&list(&[
        ("epoch", epoch.to_string()),
        ("old sessions", old_sessions.to_string()),
        ("workers", workers.to_string()),
        ("took", format!("{} us", elapsed_ns / 1000)),
    ]))?;
    Ok(())
}

/// What a release answers.
#[derive(Serialize)]
struct Released {
    #[serde(flatten)]
    address: Address,
    forgotten_sessions: u64,
    kept_sessions: u64,
    cut_sessions: u64,
}

fn released(answer: proto::ReleaseResponse, output: &mut Output) -> Result<(), Error> {
    let missing = Invalid::Missing { message: "ReleaseResponse", field: "address" };
    let proto::ReleaseResponse { address, forgotten_sessions, kept_sessions, cut_sessions } =
        answer;
    let address: Address = address.ok_or(missing)?.try_into()?;
    output.text(&format!("{forgotten_sessions} session(s) forgotten\n"))?;
    if kept_sessions + cut_sessions > 0 {
        output.text(&format!(
            "{kept_sessions} session(s) go on at the destination, {cut_sessions} of its own cut\n"
        ))?;
    }
    output.object(&Released { address, forgotten_sessions, kept_sessions, cut_sessions })?;
    Ok(())
}

/// Show events until the migration has ended.
async fn watch(
    client: &mut Client,
    request: proto::WatchMigrationRequest,
    output: &mut Output,
) -> Result<Exit, Error> {
    let mut events = client.watch_migration(request).await?.into_inner();
    while let Some(event) = events.message().await? {
        let event = MigrationEvent::try_from(event)?;
        output.text(&format!(
            "{}: {} old session(s), {} new\n",
            event.state, event.old_sessions, event.new_sessions
        ))?;
        output.object(&event)?;
    }
    Ok(Exit::Done)
}

impl BackendArgs {
    fn backend(&self) -> proto::Backend {
        let rewrite = if self.locator.is_some() { Rewrite::Nat } else { Rewrite::L2 };
        proto::Backend {
            name: self.name.clone(),
            port: self.port.clone(),
            mac: self.mac.clone(),
            rewrite: rewrite.into(),
            locator: self.locator.map(|it| it.to_string()).unwrap_or_default(),
            encap: self.tunnel.encap(),
        }
    }
}

impl TunnelArgs {
    /// The API's form of it.
    pub(crate) fn encap(&self) -> Option<proto::Encap> {
        let text = |address: Option<IpAddr>| address.map(|it| it.to_string()).unwrap_or_default();
        self.encap.map(|kind| proto::Encap {
            kind: kind.wire().into(),
            remote: text(self.remote),
            local: text(self.local),
            vni: self.vni,
            udp_port: self.udp_port.into(),
        })
    }
}

impl EncapKind {
    fn wire(self) -> proto::EncapKind {
        match self {
            Self::Ipip => proto::EncapKind::Ipip,
            Self::Gue => proto::EncapKind::Gue,
            Self::Vxlan => proto::EncapKind::Vxlan,
        }
    }
}

impl Policy {
    /// The API's form of it.
    pub(crate) fn wire(self) -> proto::Unknown {
        match self {
            Self::Source => proto::Unknown::Source,
            Self::Destination => proto::Unknown::Destination,
            Self::Drop => proto::Unknown::Drop,
        }
    }
}
