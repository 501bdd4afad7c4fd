//! Who the clients with IPv4 are: a client's number and its address and port give each other.

/// Address of the first sixteen clients, 11.0.0.0.
const FIRST_ADDRESS: u32 = 0x0b00_0000;
/// Lowest port of a client.
const FIRST_PORT: u16 = 1024;
/// Clients that can be told apart.
pub const MOST: u32 = 1 << 28;

/// Address (host byte order) and port of client `number`; distinct for distinct numbers below [`MOST`].
#[inline]
#[must_use]
pub fn endpoint(number: u32) -> (u32, u16) {
    (FIRST_ADDRESS + (number >> 4), FIRST_PORT + (number & 0xf) as u16)
}

/// The client with this address and port, if it is one.
#[inline]
#[must_use]
pub fn number((address, port): (u32, u16)) -> Option<u32> {
    let block = address.checked_sub(FIRST_ADDRESS).filter(|&block| block < MOST >> 4)?;
    let within = port.checked_sub(FIRST_PORT).filter(|&within| within < 16)?;
    Some(block << 4 | u32::from(within))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_endpoints_give_each_other() {
        for client in [0, 1, 15, 16, 1_000_003, MOST - 1] {
            assert_eq!(number(endpoint(client)), Some(client));
        }
        let (address, port) = endpoint(MOST - 1);
        for strange in
            [(address + 1, port), (address, port + 1), (FIRST_ADDRESS - 1, port), (address, 80)]
        {
            assert_eq!(number(strange), None, "{strange:?}");
        }
    }
}
