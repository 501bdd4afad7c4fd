//! RAM that goes to the destination's host while it is captured: no twin of it is ever here, only what is on its way
//! ([`tidegate_memory::copy::window`]) and, in the end, a hash of each page.
//!
//! While the guest runs, QEMU is read as fast as the pages leave, and waits for us otherwise. While it stands for the last pass, all
//! that comes is taken in, and leaves afterwards: the pause does not depend on the way to the other host. So what is here grows for a moment
//! by what the guest changes during a pass, which takes as long as the copy.
//!
//! The destination's host has RAM as an object of the copy that `SendTwin` goes on with: it finds RAM committed, and sends the device state
//! and the regions. A capture that fails leaves RAM there that the next one makes void.

use std::{path::Path, sync::Arc};

use tidegate_memory::{
    Mapping, MemoryError, Object, ObjectKind, PageHashes,
    copy::{Controls, Sent, Source, Window},
    kept::keep_hashes,
    mapping::PAGE_BYTES,
};
use tokio::task::JoinHandle;
use tracing::info;

use super::{Order, Plan};
use crate::{
    HostError,
    budget::Keep,
    guest::Guest,
    inner::{Inner, blocking},
    migration::Went,
    send::How,
};

/// The destination's host.
#[derive(Clone, Debug, Default)]
pub(crate) struct To {
    pub(crate) data_endpoint: String,
    pub(crate) how: How,
}

/// RAM on its way.
pub(super) struct Straight {
    pub(super) window: Arc<Window>,
    migration: String,
    guest: String,
    address: String,
    controls: Arc<Controls>,
    forwarding: Option<JoinHandle<Result<Sent, MemoryError>>>,
    sent: Option<Sent>,
    /// It was not over by itself.
    given_up: bool,
}

impl Inner {
    /// Where RAM goes if it is captured by passes, if that may be and is needed.
    pub(super) fn may_go_straight(
        &self,
        id: Option<&str>,
        order: &Order,
        ram_bytes: u64,
    ) -> Option<To> {
        let to = order.straight.as_ref()?;
        let transport = to.how.transport.unwrap_or(self.config.data.transport);
        let is_over = self.what_to_keep(id, ram_bytes).keep == Keep::Hashes;
        (is_over && transport.allows_tcp()).then(|| to.clone())
    }
}

impl Straight {
    /// Have the destination's host ready for RAM. The window's files are in `dir`.
    pub(super) async fn begin(
        inner: &Arc<Inner>,
        id: &str,
        plan: &Plan,
        to: &To,
        dir: &Path,
    ) -> Result<Self, HostError> {
        let size_bytes = plan.ram_bytes;
        let (inner, migration) = (inner.clone(), id.to_owned());
        let (to, dir) = (to.clone(), dir.to_owned());
        let address = to.data_endpoint.clone();
        let begun = blocking(move || {
            let window = Arc::new(Window::new(&dir, size_bytes)?);
            let object = Object { kind: ObjectKind::Ram, size_bytes };
            let ram = Source { object, memory: None, hashes: None };
            let begun = inner.begin_copy(&migration, &to.data_endpoint, vec![ram], &to.how)?;
            Ok((window, begun))
        });
        let (window, begun) = begun.await?;
        let controls = begun.running.controls.clone();
        let leaving = window.clone();
        let forwarding = tokio::task::spawn_blocking(move || begun.forward(&leaving));
        Ok(Self {
            window,
            migration: id.to_owned(),
            guest: plan.guest.name().to_owned(),
            address,
            controls,
            forwarding: Some(forwarding),
            sent: None,
            given_up: false,
        })
    }

    /// Everything was put: wait until it has arrived, and the destination's host has compared every section's digest.
    async fn finish(&mut self) -> Result<&Sent, HostError> {
        self.window.close();
        if let Some(forwarding) = self.forwarding.take() {
            self.sent = Some(self.came_of(forwarding).await?);
        }
        self.sent.as_ref().ok_or_else(|| HostError::Internal("RAM has not arrived".to_owned()))
    }

    async fn came_of(
        &self,
        forwarding: JoinHandle<Result<Sent, MemoryError>>,
    ) -> Result<Sent, HostError> {
        let sent = forwarding.await.map_err(|error| HostError::Internal(error.to_string()))?;
        sent.map_err(|source| HostError::Straight {
            guest: self.guest.clone(),
            address: self.address.clone(),
            source,
        })
    }

    /// Keep the hashes; how RAM went.
    pub(super) async fn keep(&mut self, dir: &Path) -> Result<Went, HostError> {
        let sent = self.finish().await?;
        let went = Went { sent_bytes: sent.progress.sent_bytes, transport: sent.path.clone() };
        let (hashes, dir) = (hashes(sent)?, dir.to_owned());
        let most_bytes = self.window.most_bytes();
        let Went { sent_bytes, transport } = &went;
        info!(
            migration = self.migration,
            to = self.address,
            sent_bytes,
            transport,
            most_bytes,
            "RAM went straight"
        );
        self.sent = None;
        let window = self.window.clone();
        blocking(move || {
            window.remove()?;
            Ok(keep_hashes(&dir, &ObjectKind::Ram, &hashes)?)
        })
        .await?;
        Ok(went)
    }

    /// See that what has arrived is the memory of the guest, which stands.
    pub(super) async fn audit(&mut self, guest: &Guest) -> Result<(), HostError> {
        let sent = self.finish().await?;
        let (was, path) = (hashes(sent)?, guest.places.ram());
        let differing = blocking(move || differing(&PageHashes::of(&Mapping::open(&path)?)?, &was));
        match differing.await? {
            None => Ok(()),
            Some((first, count)) => Err(HostError::Precondition(format!(
                "{count} pages of RAM that went to {} are not as in guest `{}`, the first at {}: this QEMU does not see \
                 every write; capture by `stop`",
                self.address,
                self.guest,
                first * PAGE_BYTES
            ))),
        }
    }

    /// The capture has failed: nothing more is to be brought over.
    pub(super) fn give_up(&mut self) {
        self.given_up |= !self.window.is_over();
        self.controls.cancel("the capture has failed");
        self.window.close();
    }

    /// The same, and why, if it was for this.
    pub(super) async fn abandon(&mut self) -> Option<HostError> {
        self.give_up();
        let forwarding = self.forwarding.take()?;
        let came_of = self.came_of(forwarding).await;
        came_of.err().filter(|_| !self.given_up)
    }
}

/// Those of RAM, the only object.
fn hashes(sent: &Sent) -> Result<Arc<PageHashes>, HostError> {
    let first = sent.hashes.first().cloned();
    first.ok_or_else(|| HostError::Internal("RAM has no hashes".to_owned()))
}

/// The first page that differs, and how many do.
fn differing(now: &PageHashes, was: &PageHashes) -> Result<Option<(usize, usize)>, HostError> {
    let (pages, of) = (now.hashes().len(), was.hashes().len());
    if pages != of {
        return Err(HostError::Internal(format!("RAM has {pages} pages and {of} hashes")));
    }
    let pages = now.hashes().iter().zip(was.hashes()).enumerate();
    let mut differing = pages.filter(|(_, (now, was))| now != was).map(|(page, _)| page);
    let first = differing.next();
    Ok(first.map(|first| (first, differing.count() + 1)))
}

/// Whoever drops it in the middle leaves nobody who waits for more.
impl Drop for Straight {
    fn drop(&mut self) {
        self.give_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_without_hashes_is_an_error() {
        let of = |hashes: &[u128]| {
            let size_bytes = (hashes.len() * PAGE_BYTES) as u64;
            PageHashes::from_hashes(hashes.to_vec(), size_bytes).expect("hashes")
        };
        let now = of(&[1, 2, 3, 4]);
        assert_eq!(differing(&now, &of(&[1, 2, 3, 4])).expect("compared"), None);
        assert_eq!(differing(&now, &of(&[1, 0, 3, 0])).expect("compared"), Some((1, 2)));
        for hashes in [&[][..], &[1, 2, 3], &[1, 2, 3, 4, 5]] {
            differing(&now, &of(hashes)).expect_err("not as many");
        }
    }
}
