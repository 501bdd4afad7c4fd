//! IPv6: `rte_lpm6`. (<https://doc.dpdk.org/guides-22.11/prog_guide/lpm6_lib.html>)

use std::net::Ipv6Addr;
use std::ptr::NonNull;
use std::sync::Arc;

use tidegate_dpdk_sys as sys;

use super::{AT_ONCE, FibConfig, NO_ROUTE, check_hop, route_error};
use crate::eal::{Eal, Inner};
use crate::error::{Errno, Error, c_string};

const MAX_LENGTH: u8 = 128;

/// A table of IPv6 prefixes. Many threads may look addresses up; who changes it has it alone (`&mut`). Freed when dropped.
pub struct Fib6 {
    raw: NonNull<sys::rte_lpm6>,
    name: String,
    max_routes: u32,
    routes: u32,
    /// Where the default route leads, which DPDK does not take.
    default: Option<u16>,
    /// Keeps EAL, and with it the table's memory, alive.
    _inner: Arc<Inner>,
}

// SAFETY: the table is memory of the process, tied to no thread; it has one owner.
unsafe impl Send for Fib6 {}
// SAFETY: what takes `&self` only reads the table: `rte_lpm6_lookup_bulk_func` and `rte_lpm6_is_rule_present` write nothing
// but their answers; every change takes `&mut self`.
unsafe impl Sync for Fib6 {}

impl Eal {
    /// Creates a table of IPv6 prefixes. The name is unique in the process, at most 20 bytes. (`rte_lpm6_create`)
    ///
    /// # Errors
    /// [`Error::Call`]: `EEXIST` for a name in use, `ENOMEM` when EAL's memory is short, `EINVAL` for a number out of
    /// range. [`Error::NulByte`].
    pub fn create_fib6(&self, name: &str, config: &FibConfig) -> Result<Fib6, Error> {
        const ANY_SOCKET: i32 = -1;
        let c_name = c_string("table name", name)?;
        let fail = |errno| {
            let on = format!("table {name:?} ({config:?})");
            Error::Call { call: "rte_lpm6_create", on, errno }
        };
        if config.tbl8s == 0 {
            return Err(fail(Errno::EINVAL));
        }
        let (max_rules, number_tbl8s) = (config.max_routes, config.tbl8s);
        let conf = sys::rte_lpm6_config { max_rules, number_tbl8s, flags: 0 };
        // SAFETY: EAL is initialised (`self`); the NUL-terminated name and the configuration outlive the call, which copies
        // them and checks the numbers.
        let raw = unsafe { sys::rte_lpm6_create(c_name.as_ptr(), ANY_SOCKET, &raw const conf) };
        let raw = NonNull::new(raw).ok_or_else(|| fail(Errno::last()))?;
        let (name, inner) = (name.to_owned(), Arc::clone(&self.inner));
        let max_routes = config.max_routes;
        Ok(Fib6 { raw, name, max_routes, routes: 0, default: None, _inner: inner })
    }
}

impl Fib6 {
    /// Routes in the table.
    pub fn routes(&self) -> u32 {
        self.routes
    }

    /// Leads the prefix of `length` bits of `bits` (host byte order; further bits are not looked at) to `hop`, wherever it
    /// led before. Length 0 is the default route. (`rte_lpm6_add`)
    ///
    /// A prefix of length `n` writes 2^(24 - n) entries, but for the default route, which costs nothing.
    ///
    /// # Errors
    /// [`Error::PrefixLength`], [`Error::NextHop`]; [`Error::Call`]: `ENOSPC` when the routes or the tbl8s are used up.
    /// Nothing has changed then.
    pub fn insert(&mut self, bits: u128, length: u8, hop: u16) -> Result<(), Error> {
        let bits = masked(bits, length)?;
        check_hop(hop)?;
        let new = !self.contains(bits, length);
        if new && self.routes >= self.max_routes {
            return Err(self.error("rte_lpm6_add", Errno::ENOSPC, bits, length));
        }
        if length == 0 {
            self.default = Some(hop);
        } else {
            let prefix = bits.to_be_bytes();
            // SAFETY: the table is alive (freed only in `drop`) and nobody else looks at it (`&mut self`); the prefix has the
            // 16 bytes of an address.
            let answer = unsafe {
                sys::rte_lpm6_add(self.raw.as_ptr(), prefix.as_ptr(), length, hop.into())
            };
            if answer != 0 {
                return Err(self.error(
                    "rte_lpm6_add",
                    Errno(answer.saturating_neg()),
                    bits,
                    length,
                ));
            }
        }
        self.routes += u32::from(new);
        Ok(())
    }

    /// Removes a prefix; its addresses go where the next shorter one leads. (`rte_lpm6_delete`)
    ///
    /// # Errors
    /// [`Error::PrefixLength`]; [`Error::Call`]: `ENOENT` when it is not there.
    pub fn remove(&mut self, bits: u128, length: u8) -> Result<(), Error> {
        let bits = masked(bits, length)?;
        if !self.contains(bits, length) {
            return Err(self.error("rte_lpm6_delete", Errno::ENOENT, bits, length));
        }
        if length == 0 {
            self.default = None;
        } else {
            let prefix = bits.to_be_bytes();
            // SAFETY: as in `insert`.
            let answer =
                unsafe { sys::rte_lpm6_delete(self.raw.as_ptr(), prefix.as_ptr(), length) };
            if answer != 0 {
                let errno = Errno(answer.saturating_neg());
                return Err(self.error("rte_lpm6_delete", errno, bits, length));
            }
        }
        self.routes -= 1;
        Ok(())
    }

    /// Where each address (host byte order) leads: the hop of the longest prefix it is in, 0 without one or where a route leads to 0.
    /// (`rte_lpm6_lookup_bulk_func`)
    ///
    /// # Panics
    /// When there are not as many places for hops as addresses.
    #[inline]
    pub fn find_all(&self, addresses: &[u128], hops: &mut [u16]) {
        assert_eq!(addresses.len(), hops.len(), "one place for each address's hop");
        let elsewhere = self.default.unwrap_or(NO_ROUTE);
        for (addresses, hops) in addresses.chunks(AT_ONCE).zip(hops.chunks_mut(AT_ONCE)) {
            let mut bytes = [[0; 16]; AT_ONCE];
            for (bytes, address) in bytes.iter_mut().zip(addresses) {
                *bytes = address.to_be_bytes();
            }
            let mut found = [0_i32; AT_ONCE];
            // SAFETY: the table is alive and does not change (`&self`); there are at least as many addresses and places for
            // hops (`chunks`). It fails only for pointers that are NULL.
            unsafe {
                sys::rte_lpm6_lookup_bulk_func(
                    self.raw.as_ptr(),
                    bytes.as_mut_ptr(),
                    found.as_mut_ptr(),
                    addresses.len() as u32,
                );
            }
            for (hop, found) in hops.iter_mut().zip(found) {
                // Negative where no route is.
                *hop = u16::try_from(found).unwrap_or(elsewhere);
            }
        }
    }

    fn contains(&self, bits: u128, length: u8) -> bool {
        if length == 0 {
            return self.default.is_some();
        }
        let (prefix, mut hop) = (bits.to_be_bytes(), 0);
        // SAFETY: the table is alive and does not change (`&self`); the prefix has the 16 bytes of an address, and `hop` is a
        // place to write to.
        let answer = unsafe {
            sys::rte_lpm6_is_rule_present(self.raw.as_ptr(), prefix.as_ptr(), length, &raw mut hop)
        };
        answer == 1
    }

    fn error(&self, call: &'static str, errno: Errno, bits: u128, length: u8) -> Error {
        let prefix = format!("{}/{length}", Ipv6Addr::from_bits(bits));
        route_error(call, errno, prefix, &self.name)
    }
}

impl Drop for Fib6 {
    fn drop(&mut self) {
        // SAFETY: made by `rte_lpm6_create`, freed only here; EAL is alive (`_inner`).
        unsafe { sys::rte_lpm6_free(self.raw.as_ptr()) };
    }
}

/// The first `length` bits; the rest zero.
fn masked(bits: u128, length: u8) -> Result<u128, Error> {
    if length > MAX_LENGTH {
        return Err(Error::PrefixLength { family: "IPv6", length, most: MAX_LENGTH });
    }
    Ok(bits & u128::MAX.checked_shl(u32::from(MAX_LENGTH - length)).unwrap_or(0))
}
