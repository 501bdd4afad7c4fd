//! libfabric's objects, closed when dropped. Whoever holds several closes them in the reverse of the order in
//! which they were opened: an object that others still use answers "busy" and stays.

use std::ptr::{self, NonNull};

use tidegate_fabric_sys as sys;

use crate::{Errno, Error, Provider};

/// An object that has a function to close it.
pub(crate) trait Object: Sized {
    /// What its opening is called in errors.
    const CALL: &'static str;

    /// # Safety
    /// `object` was opened, was not closed, and is used by nobody afterwards.
    unsafe fn close(object: *mut Self) -> i32;
}

macro_rules! object {
    ($type:ident, $call:literal, $close:ident) => {
        impl Object for sys::$type {
            const CALL: &'static str = $call;

            unsafe fn close(object: *mut Self) -> i32 {
                // SAFETY: the caller's promise.
                unsafe { sys::$close(object) }
            }
        }
    };
}

object!(fid_fabric, "fi_fabric", tg_fi_close_fabric);
object!(fid_domain, "fi_domain", tg_fi_close_domain);
object!(fid_ep, "fi_endpoint", tg_fi_close_ep);
object!(fid_av, "fi_av_open", tg_fi_close_av);
object!(fid_cq, "fi_cq_open", tg_fi_close_cq);
object!(fid_mr, "fi_mr_reg", tg_fi_close_mr);

/// An open object and its only owner.
#[derive(Debug)]
pub(crate) struct Owned<T: Object>(Option<NonNull<T>>);

impl<T: Object> Owned<T> {
    /// What `open` puts into the pointer it is given, or what it answers.
    pub(crate) fn open(
        provider: Provider,
        open: impl FnOnce(*mut *mut T) -> i32,
    ) -> Result<Self, Error> {
        let mut object = ptr::null_mut();
        let answer = open(&raw mut object);
        match NonNull::new(object) {
            Some(object) if answer == 0 => Ok(Self(Some(object))),
            _ => Err(Error::Call { provider, call: T::CALL, errno: Errno::of(answer) }),
        }
    }

    /// For calls that borrow it. Null after [`Owned::close`].
    pub(crate) fn get(&self) -> *mut T {
        self.0.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    /// Close it now, once; whether it is closed.
    pub(crate) fn close(&mut self) -> bool {
        // SAFETY: `take` hands each object out once; it came from its opening function.
        self.0.take().is_none_or(|object| unsafe { T::close(object.as_ptr()) } == 0)
    }
}

impl<T: Object> Drop for Owned<T> {
    fn drop(&mut self) {
        self.close();
    }
}
