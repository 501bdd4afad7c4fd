//! Where a managed address speaks QUIC, checked.

use tidegate_dataplane::steering::{QUIC_PORTS, Quic};

/// Bytes of a connection ID in QUIC version 1 (RFC 9000, section 17.2). Without any, a connection cannot follow its client.
const LENGTHS: std::ops::RangeInclusive<u32> = 1..=20;

/// Where QUIC is spoken unless told otherwise: HTTP/3.
const HTTPS: u16 = 443;

/// What cannot be where an address speaks QUIC.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuic {
    /// Not a length.
    #[error(
        "quic.connection_id_length: {0} is out of range; give the bytes of the connection IDs that the service chooses, {least} to {most}",
        least = LENGTHS.start(), most = LENGTHS.end()
    )]
    Length(u32),
    /// Not a port.
    #[error("quic.ports: {0} is not a port; use 1 to 65535")]
    Port(u32),
    /// Too many.
    #[error("quic.ports: {0} are too many; name at most {QUIC_PORTS}")]
    Ports(usize),
}

/// QUIC at these UDP ports, or at 443 when there are none.
pub(crate) fn quic(connection_id_length: u32, ports: &[u32]) -> Result<Quic, InvalidQuic> {
    if !LENGTHS.contains(&connection_id_length) {
        return Err(InvalidQuic::Length(connection_id_length));
    }
    if ports.len() > QUIC_PORTS {
        return Err(InvalidQuic::Ports(ports.len()));
    }
    let mut spoken = [0; QUIC_PORTS];
    for (place, &port) in spoken.iter_mut().zip(ports) {
        let valid = u16::try_from(port).ok().filter(|port| *port != 0);
        *place = valid.ok_or(InvalidQuic::Port(port))?;
    }
    if ports.is_empty() {
        spoken[0] = HTTPS;
    }
    Ok(Quic { ports: spoken, connection_id_len: connection_id_length as u8 })
}
