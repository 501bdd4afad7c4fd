//! Explicit congestion notification across a tunnel's end (RFC 6040).

use super::super::{Address, ETHERNET_LEN, checksum::Delta};

const ECN: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// A router inside the tunnel met congestion, and the packet's transport would not understand being told: it has to be
/// dropped instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Congested;

/// Carry what happened inside the tunnel, as the traffic class `outer` says, over to the packet of family `A` in `frame`
/// that came out of it.
///
/// | inside \ outside | Not-ECT | ECT(0) | ECT(1) | CE |
/// |---|---|---|---|---|
/// | Not-ECT | Not-ECT | Not-ECT | Not-ECT | dropped |
/// | ECT(0) | ECT(0) | ECT(0) | ECT(1) | CE |
/// | ECT(1) | ECT(1) | ECT(1) | ECT(1) | CE |
/// | CE | CE | CE | CE | CE |
///
/// (Section 4.2; the DSCP inside stays as it is.)
///
/// # Errors
/// [`Congested`], for the one case that is dropped.
pub fn carry_out<A: Address>(frame: &mut [u8], outer: u8) -> Result<(), Congested> {
    let Some(ip) = frame.get_mut(ETHERNET_LEN..).filter(|ip| ip.len() >= A::HEADER_LEN) else {
        // Whoever reads the headers finds out.
        return Ok(());
    };
    let inner = A::traffic_class(ip);
    let marked = match (inner & ECN, outer & ECN) {
        (NOT_ECT, CE) => return Err(Congested),
        (ECT_0 | ECT_1, CE) => CE,
        (ECT_0, ECT_1) => ECT_1,
        (unchanged, _) => unchanged,
    };
    if marked == inner & ECN {
        return Ok(());
    }
    let before = u16::from_be_bytes([ip[0], ip[1]]);
    A::set_traffic_class(ip, inner & !ECN | marked);
    if let Some(at) = A::CHECKSUM {
        let after = u16::from_be_bytes([ip[0], ip[1]]);
        Delta::of_u16(before, after).apply_at(ip, at);
    }
    Ok(())
}
