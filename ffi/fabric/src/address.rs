//! Endpoint addresses as the peer sends them: bytes of a format that the provider names. They come from outside,
//! and the library trusts what it is given, so their form is checked here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tidegate_fabric_sys as sys;

use crate::{Error, Provider};

/// Longest address.
pub const MAX_ADDRESS_BYTES: usize = 128;

/// `sockaddr_in` and `sockaddr_in6` of Linux: family (2), port (2), then the address at 4 or at 8.
const IN_BYTES: usize = 16;
const IN6_BYTES: usize = 28;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const SHM_PREFIX: &[u8] = b"fi_shm://";

/// The IP address in an address of a provider that has them.
///
/// # Errors
/// [`Error::Address`] when it is not such an address.
pub fn ip_of(provider: Provider, address: &[u8]) -> Result<IpAddr, Error> {
    let wrong = |reason: &str| Error::Address { provider, reason: reason.to_owned() };
    let family = address.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes));
    match (family, address.len()) {
        _ if !provider.has_ip() => Err(wrong("it has no IP addresses")),
        (Some(AF_INET), IN_BYTES) => {
            let bytes: [u8; 4] = address[4..8].try_into().map_err(|_| wrong("too short"))?;
            Ok(Ipv4Addr::from(bytes).into())
        }
        (Some(AF_INET6), IN6_BYTES) => {
            let bytes: [u8; 16] = address[8..24].try_into().map_err(|_| wrong("too short"))?;
            Ok(Ipv6Addr::from(bytes).into())
        }
        _ => Err(wrong("neither an IPv4 nor an IPv6 socket address")),
    }
}

/// Check that the bytes are of the format that an endpoint of this provider takes.
pub(crate) fn check(provider: Provider, format: u32, address: &[u8]) -> Result<(), Error> {
    let wrong = |reason: &str| Error::Address { provider, reason: reason.to_owned() };
    match format {
        sys::FI_SOCKADDR_IN if ip_of(provider, address)?.is_ipv4() => Ok(()),
        sys::FI_SOCKADDR_IN6 if ip_of(provider, address)?.is_ipv6() => Ok(()),
        sys::FI_SOCKADDR_IN | sys::FI_SOCKADDR_IN6 => {
            Err(wrong("it is of the other address family than ours"))
        }
        sys::FI_ADDR_STR => process_of(address)
            .map(|_| ())
            .ok_or_else(|| wrong("it is not fi_shm://PROCESS:USER:NUMBER with a zero behind it")),
        other => Err(wrong(&format!("addresses of format {other} are not supported"))),
    }
}

/// The process in an address of `shm`: `fi_shm://PROCESS:USER:NUMBER` and a zero.
pub(crate) fn process_of(address: &[u8]) -> Option<i32> {
    let name = address.strip_prefix(SHM_PREFIX)?.strip_suffix(&[0])?;
    let name = str::from_utf8(name).ok().filter(|_| address.len() <= MAX_ADDRESS_BYTES)?;
    let mut parts = name.split(':').map(|part| {
        part.parse::<u32>().ok().filter(|_| part.bytes().all(|byte| byte.is_ascii_digit()))
    });
    let (process, _user, _number) = (parts.next()??, parts.next()??, parts.next()??);
    let process = i32::try_from(process).ok().filter(|&process| process > 0)?;
    parts.next().is_none().then_some(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockaddr(family: u16, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        bytes[..2].copy_from_slice(&family.to_ne_bytes());
        bytes[4] = 127;
        bytes[7] = 1;
        bytes
    }

    #[test]
    fn socket_addresses() {
        let v4 = sockaddr(AF_INET, IN_BYTES);
        assert_eq!(ip_of(Provider::Tcp, &v4).expect("v4").to_string(), "127.0.0.1");
        check(Provider::Tcp, sys::FI_SOCKADDR_IN, &v4).expect("v4");
        check(Provider::Tcp, sys::FI_SOCKADDR_IN6, &sockaddr(AF_INET6, IN6_BYTES)).expect("v6");
        for bad in [
            sockaddr(AF_INET, IN_BYTES - 1),
            sockaddr(AF_INET, IN6_BYTES),
            sockaddr(AF_INET6, IN6_BYTES),
            sockaddr(1, IN_BYTES),
            vec![],
            vec![2],
        ] {
            check(Provider::Tcp, sys::FI_SOCKADDR_IN, &bad).expect_err("bad");
        }
        check(Provider::Tcp, 77, &v4).expect_err("format");
    }

    #[test]
    fn names_of_shared_memory() {
        assert_eq!(process_of(b"fi_shm://123:0:4\0"), Some(123));
        for bad in [
            &b"fi_shm://123:0:4"[..],
            b"fi_shm://123:0\0",
            b"fi_shm://123:0:4:5\0",
            b"fi_shm://../x:0:4\0",
            b"fi_shm://0:0:4\0",
            b"fi_shm://+1:0:4\0",
            b"fi_shm://4294967295:0:4\0",
            b"fi_ns://1:0:4\0",
            b"fi_shm://1:0:4\0\0",
            b"",
        ] {
            assert_eq!(process_of(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}
