//! IPv4: `rte_fib` with DIR24_8. (<https://doc.dpdk.org/guides-22.11/prog_guide/fib_lib.html>)

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ptr::NonNull;
use std::sync::Arc;

use tidegate_dpdk_sys as sys;

use super::{AT_ONCE, FibConfig, MAX_HOP, NO_ROUTE, check_hop, route_error};
use crate::eal::{Eal, Inner};
use crate::error::{Errno, Error, c_string};

const MAX_LENGTH: u8 = 32;
/// The longest prefix that needs no tbl8.
const FIRST_LENGTH: u8 = 24;
/// A hop that no route has.
const PASSING: u16 = MAX_HOP + 1;
/// tbl8s that no route may take: DPDK wants two free ones where it takes one, and does not say when a route's change of
/// hop failed for that.
const SPARE_TBL8S: u32 = 1;

/// A table of IPv4 prefixes. Many threads may look addresses up; who changes it has it alone (`&mut`). Freed when dropped.
pub struct Fib4 {
    raw: NonNull<sys::rte_fib>,
    name: String,
    config: FibConfig,
    routes: u32,
    /// The default route, which DPDK 22.11 loses when there is a route longer than /24 in 0.0.0.0/24: the table has both
    /// halves of it instead.
    default: Option<u16>,
    /// The routes of length 1, which stand before the default route in the table.
    halves: [Option<u16>; 2],
    /// How many routes longer than /24 there are in each /24, by its 24 bits; each has a tbl8.
    long: HashMap<u32, u32>,
    /// Keeps EAL, and with it the table's memory, alive.
    _inner: Arc<Inner>,
}

// SAFETY: the table is memory of the process, tied to no thread; it has one owner.
unsafe impl Send for Fib4 {}
// SAFETY: what takes `&self` only reads the table: `rte_fib_lookup_bulk` and `rte_rib_lookup_exact` write nothing but their
// answers; every change takes `&mut self`.
unsafe impl Sync for Fib4 {}

impl Eal {
    /// Creates a table of IPv4 prefixes. The name is unique in the process, at most 20 bytes. (`rte_fib_create`)
    ///
    /// # Errors
    /// [`Error::Call`]: `EEXIST` for a name in use, `ENOMEM` when EAL's memory is short, `EINVAL` for a number out of
    /// range. [`Error::NulByte`].
    pub fn create_fib4(&self, name: &str, config: &FibConfig) -> Result<Fib4, Error> {
        const ANY_SOCKET: i32 = -1;
        let c_name = c_string("table name", name)?;
        let fail = |errno| {
            let on = format!("table {name:?} ({config:?})");
            Error::Call { call: "rte_fib_create", on, errno }
        };
        // The default route takes two.
        let max_routes = config.max_routes.checked_add(1).and_then(|most| i32::try_from(most).ok());
        let max_routes = max_routes.ok_or_else(|| fail(Errno::EINVAL))?;
        if config.max_routes == 0 || config.tbl8s == 0 {
            return Err(fail(Errno::EINVAL));
        }
        let mut conf = sys::rte_fib_conf {
            type_: sys::RTE_FIB_DIR24_8,
            default_nh: NO_ROUTE.into(),
            max_routes,
            ..Default::default()
        };
        conf.__bindgen_anon_1.dir24_8.nh_sz = sys::RTE_FIB_DIR24_8_2B;
        conf.__bindgen_anon_1.dir24_8.num_tbl8 = config.tbl8s.saturating_add(SPARE_TBL8S);
        // SAFETY: EAL is initialised (`self`); the NUL-terminated name and the configuration outlive the call, which copies
        // them and checks the numbers.
        let raw = unsafe { sys::rte_fib_create(c_name.as_ptr(), ANY_SOCKET, &raw mut conf) };
        let raw = NonNull::new(raw).ok_or_else(|| fail(Errno::last()))?;
        let (config, name, inner) = (*config, name.to_owned(), Arc::clone(&self.inner));
        let (routes, default, halves, long) = (0, None, [None; 2], HashMap::new());
        Ok(Fib4 { raw, name, config, routes, default, halves, long, _inner: inner })
    }
}

impl Fib4 {
    /// Routes in the table.
    pub fn routes(&self) -> u32 {
        self.routes
    }

    /// Leads the prefix of `length` bits of `bits` (host byte order; further bits are not looked at) to `hop`, wherever it
    /// led before. Length 0 is the default route. (`rte_fib_add`)
    ///
    /// A prefix of length `n` writes 2^(24 - n) entries: the default route some 30 MiB.
    ///
    /// # Errors
    /// [`Error::PrefixLength`], [`Error::NextHop`]; [`Error::Call`]: `ENOSPC` when the routes or the tbl8s are used up.
    /// Nothing has changed then.
    pub fn insert(&mut self, bits: u32, length: u8, hop: u16) -> Result<(), Error> {
        let bits = masked(bits, length)?;
        check_hop(hop)?;
        if self.contains(bits, length) {
            return match length {
                0 | 1 => self.set_wide(bits, length, Some(hop)),
                _ => self.add(bits, length, hop),
            };
        }
        let full = self.routes >= self.config.max_routes;
        if length <= FIRST_LENGTH {
            if full {
                return Err(self.error("rte_fib_add", Errno::ENOSPC, bits, length));
            }
            match length {
                0 | 1 => self.set_wide(bits, length, Some(hop))?,
                _ => self.add(bits, length, hop)?,
            }
        } else {
            let group = bits >> 8;
            let tbl8s = self.long.len() + usize::from(!self.long.contains_key(&group));
            if full || tbl8s > self.config.tbl8s as usize {
                return Err(self.error("rte_fib_add", Errno::ENOSPC, bits, length));
            }
            // DPDK 22.11 sets no tbl8 aside for a route that leads where the shorter one around it does, but gives one back
            // when that is removed; the count then falls below zero, and all long prefixes are refused. So a new route
            // leads somewhere else for a moment, in which nobody can look.
            self.add(bits, length, PASSING)?;
            *self.long.entry(group).or_default() += 1;
            self.add(bits, length, hop)?;
        }
        self.routes += 1;
        Ok(())
    }

    /// Removes a prefix; its addresses go where the next shorter one leads. (`rte_fib_delete`)
    ///
    /// # Errors
    /// [`Error::PrefixLength`]; [`Error::Call`]: `ENOENT` when it is not there.
    pub fn remove(&mut self, bits: u32, length: u8) -> Result<(), Error> {
        let bits = masked(bits, length)?;
        if !self.contains(bits, length) {
            return Err(self.error("rte_fib_delete", Errno::ENOENT, bits, length));
        }
        match length {
            0 | 1 => self.set_wide(bits, length, None)?,
            _ => self.delete(bits, length)?,
        }
        self.routes -= 1;
        if length > FIRST_LENGTH {
            let group = bits >> 8;
            // Counted when it was inserted.
            if let Some(routes) = self.long.get_mut(&group) {
                *routes -= 1;
                if *routes == 0 {
                    self.long.remove(&group);
                }
            }
        }
        Ok(())
    }

    /// Where each address (host byte order) leads: the hop of the longest prefix it is in, 0 without one or where a route leads to 0.
    /// (`rte_fib_lookup_bulk`)
    ///
    /// # Panics
    /// When there are not as many places for hops as addresses.
    #[inline]
    pub fn find_all(&self, addresses: &[u32], hops: &mut [u16]) {
        assert_eq!(addresses.len(), hops.len(), "one place for each address's hop");
        for (addresses, hops) in addresses.chunks(AT_ONCE).zip(hops.chunks_mut(AT_ONCE)) {
            let mut found = [0_u64; AT_ONCE];
            // SAFETY: the table is alive and does not change (`&self`); there are as many addresses, which DPDK only reads,
            // and at least as many places for hops (`chunks`). It fails only for pointers that are NULL.
            unsafe {
                sys::rte_fib_lookup_bulk(
                    self.raw.as_ptr(),
                    addresses.as_ptr().cast_mut(),
                    found.as_mut_ptr(),
                    addresses.len() as i32,
                );
            }
            for (hop, found) in hops.iter_mut().zip(found) {
                *hop = found as u16; // an entry's 15 bits
            }
        }
    }

    /// Changes the default route, or one of length 1, and with it what the table has for each half.
    fn set_wide(&mut self, bits: u32, length: u8, hop: Option<u16>) -> Result<(), Error> {
        let (mut default, mut halves) = (self.default, self.halves);
        match length {
            0 => default = hop,
            _ => halves[half(bits)] = hop,
        }
        for bits in [0, 1 << 31] {
            let now = self.halves[half(bits)].or(self.default);
            match halves[half(bits)].or(default) {
                next if next == now => {}
                Some(hop) => self.add(bits, 1, hop)?,
                None => self.delete(bits, 1)?,
            }
        }
        (self.default, self.halves) = (default, halves);
        Ok(())
    }

    fn contains(&self, bits: u32, length: u8) -> bool {
        match length {
            0 => return self.default.is_some(),
            1 => return self.halves[half(bits)].is_some(),
            _ => {}
        }
        // SAFETY: the table is alive, and so is its tree of routes, which does not change meanwhile (`&self`).
        let node = unsafe {
            sys::rte_rib_lookup_exact(sys::rte_fib_get_rib(self.raw.as_ptr()), bits, length)
        };
        !node.is_null()
    }

    fn add(&mut self, bits: u32, length: u8, hop: u16) -> Result<(), Error> {
        // SAFETY: the table is alive (freed only in `drop`) and nobody else looks at it (`&mut self`).
        let answer = unsafe { sys::rte_fib_add(self.raw.as_ptr(), bits, length, hop.into()) };
        if answer != 0 {
            return Err(self.error("rte_fib_add", Errno(answer.saturating_neg()), bits, length));
        }
        Ok(())
    }

    fn delete(&mut self, bits: u32, length: u8) -> Result<(), Error> {
        // SAFETY: the table is alive (freed only in `drop`) and nobody else looks at it (`&mut self`).
        let answer = unsafe { sys::rte_fib_delete(self.raw.as_ptr(), bits, length) };
        if answer != 0 {
            let errno = Errno(answer.saturating_neg());
            return Err(self.error("rte_fib_delete", errno, bits, length));
        }
        Ok(())
    }

    fn error(&self, call: &'static str, errno: Errno, bits: u32, length: u8) -> Error {
        let prefix = format!("{}/{length}", Ipv4Addr::from_bits(bits));
        route_error(call, errno, prefix, &self.name)
    }
}

impl Drop for Fib4 {
    fn drop(&mut self) {
        // SAFETY: made by `rte_fib_create`, freed only here; EAL is alive (`_inner`).
        unsafe { sys::rte_fib_free(self.raw.as_ptr()) };
    }
}

/// Which half of all addresses these are in.
fn half(bits: u32) -> usize {
    (bits >> 31) as usize
}

/// The first `length` bits; the rest zero.
fn masked(bits: u32, length: u8) -> Result<u32, Error> {
    if length > MAX_LENGTH {
        return Err(Error::PrefixLength { family: "IPv4", length, most: MAX_LENGTH });
    }
    Ok(bits & u32::MAX.checked_shl(u32::from(MAX_LENGTH - length)).unwrap_or(0))
}
