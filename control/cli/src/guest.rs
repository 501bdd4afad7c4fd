//! Commands to a host.

use tidegate_api::{
    endpoint::{self, Endpoint},
    host::{self as proto, host_client::HostClient},
};

use crate::{
    args::GuestCommand,
    domain::{
        Invalid,
        guest::{Guest, GuestSpec, Socket},
        protocol_name,
    },
    error::{Error, Exit},
    output::Output,
    table::{list, table},
};

/// Carry out `command`.
///
/// # Errors
/// [`Error`].
pub async fn run(
    host: &Endpoint,
    command: &GuestCommand,
    output: &mut Output,
) -> Result<Exit, Error> {
    // A mistake in the file is worth saying also when no host answers.
    let spec = match command {
        GuestCommand::Start { spec } => Some(GuestSpec::load(spec)?.into_proto()),
        _ => None,
    };
    let channel = endpoint::connect(host).await.map_err(|source| Error::Unreachable {
        source,
        process: "tidegate-hostd",
        option: "--host",
    })?;
    let mut client = HostClient::new(channel);
    match command {
        GuestCommand::Start { .. } => {
            let answer = client.start_guest(proto::StartGuestRequest { spec }).await?;
            show(&answer.into_inner().try_into()?, output)?;
        }
        GuestCommand::List => {
            let answer = client.list_guests(proto::ListGuestsRequest {}).await?.into_inner();
            let guests = answer.guests.into_iter().map(Guest::try_from);
            guests_table(&guests.collect::<Result<Vec<_>, Invalid>>()?, output)?;
        }
        GuestCommand::Show { name } => {
            let request = proto::GetGuestRequest { name: name.clone() };
            let answer = client.get_guest(request).await?;
            show(&answer.into_inner().try_into()?, output)?;
        }
        GuestCommand::Sockets { name, address } => {
            let request = proto::ListSocketsRequest {
                guest: name.clone(),
                addresses: address.iter().map(ToString::to_string).collect(),
                source: proto::SocketSource::Agent.into(),
            };
            let mut stream = client.list_sockets(request).await?.into_inner();
            let mut sockets = Vec::new();
            while let Some(socket) = stream.message().await? {
                sockets.push(Socket::try_from(socket)?);
            }
            sockets_table(&sockets, output)?;
        }
        GuestCommand::Delete { name, purge } => {
            let request = proto::DeleteGuestRequest { name: name.clone(), purge: *purge };
            client.delete_guest(request).await?;
            output.object(&serde_json::json!({ "deleted": name, "purged": purge }))?;
            output.text(&format!("guest {name} deleted\n"))?;
        }
    }
    Ok(Exit::Done)
}

fn guests_table(guests: &[Guest], output: &mut Output) -> Result<(), Error> {
    for guest in guests {
        output.object(guest)?;
    }
    let row = |guest: &Guest| {
        let macs: Vec<_> = guest.spec.nics.iter().map(|nic| nic.mac.as_str()).collect();
        let regions: Vec<_> = guest.spec.regions.iter().map(|it| it.name.as_str()).collect();
        [
            guest.name.clone(),
            guest.state.to_owned(),
            guest.pid.to_string(),
            guest.spec.memory_mib.to_string(),
            macs.join(","),
            regions.join(","),
        ]
    };
    let rows: Vec<_> = guests.iter().map(row).collect();
    output.text(&table(["GUEST", "STATE", "PID", "MIB", "MAC", "REGIONS"], &rows))?;
    Ok(())
}

fn sockets_table(sockets: &[Socket], output: &mut Output) -> Result<(), Error> {
    for socket in sockets {
        output.object(socket)?;
    }
    let row = |socket: &Socket| {
        [
            protocol_name(socket.protocol),
            end(&socket.local_address, socket.local_port),
            end(&socket.remote_address, socket.remote_port),
            socket.state.to_owned(),
        ]
    };
    let rows: Vec<_> = sockets.iter().map(row).collect();
    output.text(&table(["PROTO", "LOCAL", "REMOTE", "STATE"], &rows))?;
    Ok(())
}

fn end(address: &str, port: u32) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn show(guest: &Guest, output: &mut Output) -> Result<(), Error> {
    output.object(guest)?;
    let mut rows = vec![
        ("guest", guest.name.clone()),
        ("state", guest.state.to_owned()),
        ("process", guest.pid.to_string()),
        ("memory", format!("{} MiB", guest.spec.memory_mib)),
        ("RAM file", guest.ram_path.clone()),
        ("console", guest.console_path.clone()),
        ("QMP socket", guest.qmp_socket.clone()),
        ("guest agent", if guest.spec.guest_agent { "channel" } else { "none" }.to_owned()),
        ("kernel", guest.spec.kernel.clone()),
        ("command line", guest.spec.cmdline.clone()),
    ];
    for nic in &guest.spec.nics {
        rows.push(("network card", format!("{} at {}", nic.mac, nic.vhost_socket)));
    }
    for file in &guest.region_files {
        rows.push(("region", format!("{}, {} bytes, {}", file.name, file.size_bytes, file.path)));
    }
    output.text(&list(&rows))?;
    Ok(())
}
