//! DPDK's own hash table, for comparison with ours. (<https://doc.dpdk.org/guides-22.11/prog_guide/hash_lib.html>)

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use tidegate_dpdk_sys as sys;

use crate::eal::{Eal, Inner};
use crate::error::{Errno, Error, c_string, check};

/// The most keys of one [`HashTable::lookup_burst`].
pub const KEYS_AT_ONCE: usize = 64;

const _: () = assert!(KEYS_AT_ONCE <= sys::RTE_HASH_LOOKUP_BULK_MAX as usize);

/// A table of 16-byte keys with a 64-bit value each, for one thread. Freed when dropped.
pub struct HashTable {
    raw: NonNull<sys::rte_hash>,
    name: String,
    /// Keeps EAL, and with it the table's memory, alive.
    _inner: Arc<Inner>,
}

impl Eal {
    /// Creates a table for `entries` keys. The name is unique in the process, at most 25 bytes. The hash
    /// function is DPDK's default (CRC32 where the CPU has it). (`rte_hash_create`)
    ///
    /// # Errors
    /// [`Error::Call`]: `EEXIST` for a name in use, `ENOMEM` when EAL's memory is short, `EINVAL` for too
    /// many or too few entries. [`Error::NulByte`].
    pub fn create_hash(&self, name: &str, entries: u32) -> Result<HashTable, Error> {
        const ANY_SOCKET: i32 = -1;
        let c_name = c_string("hash name", name)?;
        let parameters = sys::rte_hash_parameters {
            name: c_name.as_ptr(),
            entries,
            key_len: size_of::<[u8; 16]>() as u32,
            socket_id: ANY_SOCKET,
            ..Default::default()
        };
        // SAFETY: EAL is initialised (`self`); the parameters and the NUL-terminated name they point to outlive
        // the call, which copies them.
        let raw = unsafe { sys::rte_hash_create(&raw const parameters) };
        let raw = NonNull::new(raw).ok_or_else(|| Error::Call {
            call: "rte_hash_create",
            on: format!("hash {name:?} of {entries} entries"),
            errno: Errno::last(),
        })?;
        Ok(HashTable { raw, name: name.to_owned(), _inner: Arc::clone(&self.inner) })
    }
}

impl HashTable {
    /// Adds a key, or changes its value. (`rte_hash_add_key_data`)
    ///
    /// # Errors
    /// [`Error::Call`]: `ENOSPC` when it is full.
    pub fn add(&mut self, key: &[u8; 16], value: u64) -> Result<(), Error> {
        let value = ptr::without_provenance_mut::<c_void>(value as usize);
        // SAFETY: the table is alive (freed only in `drop`) and has one user (`&mut self`); the key has the 16
        // bytes the table was made for and is copied; the value is never dereferenced.
        let answer =
            unsafe { sys::rte_hash_add_key_data(self.raw.as_ptr(), key.as_ptr().cast(), value) };
        check("rte_hash_add_key_data", &self.name, answer).map(drop)
    }

    /// Removes a key. (`rte_hash_del_key`)
    ///
    /// # Errors
    /// [`Error::Call`]: `ENOENT` when it is not there.
    pub fn remove(&mut self, key: &[u8; 16]) -> Result<(), Error> {
        // SAFETY: the table is alive (freed only in `drop`) and has one user (`&mut self`); the key has the 16
        // bytes the table was made for.
        let answer = unsafe { sys::rte_hash_del_key(self.raw.as_ptr(), key.as_ptr().cast()) };
        check("rte_hash_del_key", &self.name, answer).map(drop)
    }

    /// Looks all keys up at once, as many as [`KEYS_AT_ONCE`]. Bit `n` of the answer says whether key `n` is
    /// there; its value is then in `values[n]`. (`rte_hash_lookup_bulk_data`)
    #[inline]
    pub fn lookup_burst(
        &self,
        keys: &[[u8; 16]; KEYS_AT_ONCE],
        values: &mut [u64; KEYS_AT_ONCE],
    ) -> u64 {
        const { assert!(size_of::<u64>() == size_of::<*mut c_void>()) };
        let mut pointers: [*const c_void; KEYS_AT_ONCE] =
            std::array::from_fn(|at| keys[at].as_ptr().cast());
        let mut hits = 0;
        // SAFETY: the table is alive; it is not `Sync`, so nobody adds at the same time; there are KEYS_AT_ONCE
        // pointers to 16-byte keys and as much room for values, which are as wide as pointers (asserted above).
        let answer = unsafe {
            sys::rte_hash_lookup_bulk_data(
                self.raw.as_ptr(),
                pointers.as_mut_ptr(),
                KEYS_AT_ONCE as u32,
                &raw mut hits,
                values.as_mut_ptr().cast(),
            )
        };
        // Negative only for arguments out of range, which these are not.
        if answer < 0 { 0 } else { hits }
    }
}

impl Drop for HashTable {
    fn drop(&mut self) {
        // SAFETY: made by `rte_hash_create`, freed only here; EAL is alive (`_inner`).
        unsafe { sys::rte_hash_free(self.raw.as_ptr()) };
    }
}
