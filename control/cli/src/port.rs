//! Commands about a switch box's ports.

use tidegate_api::{
    endpoint::{self, Endpoint},
    switch::{self as proto, switch_client::SwitchClient},
};

use crate::{
    args::{PortCommand, PortRole},
    domain::switch::{Port, Status},
    error::{Error, Exit},
    output::Output,
    table::table,
};

/// Carry out `command`.
///
/// # Errors
/// [`Error`].
pub async fn run(
    switch: &Endpoint,
    command: &PortCommand,
    output: &mut Output,
) -> Result<Exit, Error> {
    let channel = endpoint::connect(switch).await.map_err(|source| Error::Unreachable {
        source,
        process: "tidegated",
        option: "--switch",
    })?;
    let mut client = SwitchClient::new(channel);
    match command {
        PortCommand::Add { name, device, role, mac, addresses, mtu } => {
            let role = match role {
                PortRole::Uplink => proto::PortRole::Uplink,
                PortRole::Access => proto::PortRole::Access,
            };
            let request = proto::AddPortRequest {
                name: name.clone(),
                device: device.clone(),
                mac: mac.clone().unwrap_or_default(),
                addresses: addresses.clone(),
                role: role.into(),
                mtu: mtu.unwrap_or_default().into(),
            };
            let port = Port::try_from(client.add_port(request).await?.into_inner())?;
            output.object(&port)?;
            output.text(&port_table(&[port]))?;
        }
        PortCommand::Remove { name } => {
            let request = proto::RemovePortRequest { name: name.clone() };
            client.remove_port(request).await?;
            output.object(&serde_json::json!({ "removed": name }))?;
            output.text(&format!("port {name} removed\n"))?;
        }
        PortCommand::List => {
            let answer = client.get_status(proto::GetStatusRequest {}).await?;
            let Status { ports, .. } = Status::try_from(answer.into_inner())?;
            for port in &ports {
                output.object(port)?;
            }
            output.text(&port_table(&ports))?;
        }
    }
    Ok(Exit::Done)
}

/// Ports for people.
pub(crate) fn port_table(ports: &[Port]) -> String {
    let row = |port: &Port| {
        [
            port.name.clone(),
            port.role.to_owned(),
            if port.link_up { "up" } else { "down" }.to_owned(),
            port.mac.clone(),
            port.queues.to_string(),
            port.mtu.to_string(),
            port.addresses.join(","),
            port.device.clone(),
            port.vlan.clone(),
        ]
    };
    let rows: Vec<_> = ports.iter().map(row).collect();
    table(["PORT", "ROLE", "LINK", "MAC", "QUEUES", "MTU", "ADDRESSES", "DEVICE", "VLAN"], &rows)
}
