//! Commands to a switch box.

use tidegate_api::{
    Channel,
    endpoint::{self, Endpoint},
    switch::{self as proto, switch_client::SwitchClient},
};

use crate::{
    args::SwitchCommand,
    domain::{
        protocol_name,
        switch::{Address, Backend, Counters, Session, Status},
    },
    error::{Error, Exit},
    output::Output,
    port::port_table,
    table::{list, table},
};

/// A client of a switch box.
pub(crate) type Client = SwitchClient<Channel>;

pub(crate) async fn connect(switch: &Endpoint) -> Result<Client, Error> {
    let channel = endpoint::connect(switch).await.map_err(|source| Error::Unreachable {
        source,
        process: "tidegated",
        option: "--switch",
    })?;
    Ok(SwitchClient::new(channel))
}

/// Carry out `command`.
///
/// # Errors
/// [`Error`].
pub async fn run(
    switch: &Endpoint,
    command: &SwitchCommand,
    output: &mut Output,
) -> Result<Exit, Error> {
    let mut client = connect(switch).await?;
    match command {
        SwitchCommand::Status => {
            let answer = client.get_status(proto::GetStatusRequest {}).await?;
            status(&Status::try_from(answer.into_inner())?, output)?;
        }
        SwitchCommand::Addresses => {
            let answer = client.list_addresses(proto::ListAddressesRequest {}).await?;
            let addresses = answer.into_inner().addresses.into_iter().map(Address::try_from);
            addresses_table(&addresses.collect::<Result<Vec<_>, _>>()?, output)?;
        }
        SwitchCommand::Sessions { address, limit } => {
            let address = address.map(|address| address.to_string()).unwrap_or_default();
            let request = proto::ListSessionsRequest { address, limit: *limit };
            let mut stream = client.list_sessions(request).await?.into_inner();
            let mut sessions = Vec::new();
            while let Some(session) = stream.message().await? {
                sessions.push(Session::try_from(session)?);
            }
            sessions_table(&sessions, output)?;
        }
        SwitchCommand::Counters { all } => {
            let answer = client.get_counters(proto::GetCountersRequest {}).await?;
            counters(&answer.into_inner().into(), *all, output)?;
        }
    }
    Ok(Exit::Done)
}

fn status(status: &Status, output: &mut Output) -> Result<(), Error> {
    output.object(status)?;
    let rows = [
        ("version", status.version.clone()),
        ("DPDK", status.dpdk_version.clone()),
        ("workers", status.workers.to_string()),
        ("sessions", status.sessions.to_string()),
        ("capacity per worker, IPv4", status.sessions_capacity.to_string()),
        ("capacity per worker, IPv6", status.sessions_capacity_ipv6.to_string()),
        ("hosted addresses", status.hosted_addresses.to_string()),
        ("migrations", status.migrations.to_string()),
    ];
    let ports = port_table(&status.ports);
    output.text(&format!("{}\n{ports}", list(&rows)))?;
    Ok(())
}

pub(crate) fn addresses_table(addresses: &[Address], output: &mut Output) -> Result<(), Error> {
    for address in addresses {
        output.object(address)?;
    }
    let backend = |backend: &Backend, sessions: u64| {
        let at = if backend.locator.is_empty() { &backend.port } else { &backend.locator };
        let by = backend.encap.as_ref().map(|it| format!(", {} to {}", it.kind, it.remote));
        let by = by.unwrap_or_default();
        format!("{} ({} {at}{by}): {sessions} session(s)", backend.name, backend.rewrite)
    };
    let row = |address: &Address| {
        let destination = address.destination.as_ref();
        [
            address.address.clone(),
            address.state.to_owned(),
            if address.hosted { "yes" } else { "no" }.to_owned(),
            address.epoch.to_string(),
            backend(&address.home, address.home_sessions),
            destination.map(|it| backend(it, address.destination_sessions)).unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = addresses.iter().map(row).collect();
    output.text(&table(["ADDRESS", "STATE", "HOSTED", "EPOCH", "HOME", "DESTINATION"], &rows))?;
    Ok(())
}

/// An address and a port as one writes them together.
fn end(address: &str, port: u32) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// The address that the client talks to.
fn named(session: &Session) -> &str {
    if session.locator.is_empty() { &session.address } else { &session.locator }
}

fn sessions_table(sessions: &[Session], output: &mut Output) -> Result<(), Error> {
    for session in sessions {
        output.object(session)?;
    }
    let row = |session: &Session| {
        [
            protocol_name(session.protocol),
            end(&session.client, session.client_port),
            end(named(session), session.address_port),
            session.owner.clone(),
            session.birth_epoch.to_string(),
            if session.old { "old" } else { "" }.to_owned(),
            session.state.to_owned(),
            session.idle_ms.to_string(),
            session.worker.to_string(),
        ]
    };
    let rows: Vec<_> = sessions.iter().map(row).collect();
    let headings =
        ["PROTO", "CLIENT", "ADDRESS", "OWNER", "EPOCH", "OLD", "STATE", "IDLE MS", "WORKER"];
    output.text(&table(headings, &rows))?;
    Ok(())
}

fn counters(counters: &Counters, all: bool, output: &mut Output) -> Result<(), Error> {
    output.object(counters)?;
    let mut outcomes: Vec<_> = counters
        .outcomes
        .iter()
        .filter(|outcome| all || outcome.packets > 0)
        .map(|outcome| {
            let drop = if outcome.drop { "drop" } else { "" };
            [
                outcome.name.clone(),
                outcome.packets.to_string(),
                drop.to_owned(),
                outcome.help.clone(),
            ]
        })
        .collect();
    outcomes.push([
        "received".to_owned(),
        counters.received.to_string(),
        String::new(),
        "all of them".to_owned(),
    ]);
    let ports: Vec<_> = counters
        .ports
        .iter()
        .map(|port| {
            [
                port.name.clone(),
                port.rx_packets.to_string(),
                port.tx_packets.to_string(),
                port.rx_bytes.to_string(),
                port.tx_bytes.to_string(),
                port.tx_full_drops.to_string(),
            ]
        })
        .collect();
    let workers: Vec<_> = counters
        .workers
        .iter()
        .map(|worker| {
            [
                worker.worker.into(),
                worker.received,
                worker.redirected,
                worker.sessions,
                worker.polls,
                worker.idle_sleeps,
                worker.half_open_evicted,
                worker.quic_moved,
                worker.quic_unknown,
            ]
            .map(|count: u64| count.to_string())
        })
        .collect();
    output.text(&format!(
        "{}\n{}\n{}",
        table(["OUTCOME", "PACKETS", "DROP", "MEANING"], &outcomes),
        table(["PORT", "RX", "TX", "RX BYTES", "TX BYTES", "TX FULL"], &ports),
        table(
            [
                "WORKER",
                "RECEIVED",
                "REDIRECTED",
                "SESSIONS",
                "POLLS",
                "SLEEPS",
                "EVICTED",
                "QUIC MOVED",
                "QUIC UNKNOWN",
            ],
            &workers
        ),
    ))?;
    Ok(())
}
