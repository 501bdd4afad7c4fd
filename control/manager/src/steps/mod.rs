//! The steps: each acts on switch and hosts, is idempotent by the migration's id, and answers its figures.
//!
//! A step may have been begun before by a manager that died: it looks first at what is there.

mod addresses;
pub mod drain;
mod guests;
mod import;
mod memory;
mod mirror;
mod settle;
pub mod undo;

use std::sync::Arc;

pub(crate) use memory::clone_use;
use tidegate_api::{
    host::{self as host_proto, host_client::HostClient},
    switch::{self as proto, switch_client::SwitchClient},
};
use tonic::transport::Channel;

use crate::{
    error::Error,
    fold::Progress,
    live::LiveSender,
    pace::{CALL, Pace},
    peers::{Inventory, Peer},
    phase::Phase,
    preflight,
    record::{MigrationId, Outcome},
    spec::FinishMode,
};

/// What a step works with.
pub struct Work {
    /// The migration.
    pub id: MigrationId,
    /// Its state before the step.
    pub progress: Progress,
    /// No manager has begun the step before.
    pub is_first: bool,
    /// Switches and hosts.
    pub inventory: Arc<Inventory>,
    /// Limits.
    pub pace: Pace,
    /// For progress.
    pub live: LiveSender,
}

/// Carry out `phase`.
///
/// # Errors
/// Whatever a peer answers, in an operator's words.
pub async fn run(work: &Work, phase: Phase) -> Result<Outcome, Error> {
    match phase {
        Phase::Preflight => {
            let spec = &work.progress.spec;
            preflight::check(spec, &work.inventory, work.pace, None).await.outcome()
        }
        Phase::Takeover => addresses::takeover(work).await,
        Phase::Capture => memory::capture(work).await,
        Phase::Copy => memory::copy(work).await,
        Phase::Destination => guests::destination(work).await,
        Phase::Cutover => addresses::cutover(work).await,
        Phase::Drain => drain::drain(work).await,
        Phase::Ahead => mirror::ahead(work).await,
        Phase::Settle => settle::settle(work).await,
        Phase::Quiesce => guests::quiesce(work).await,
        Phase::Diff => match work.progress.spec.finish {
            FinishMode::Mirror(_) => mirror::diff(work).await,
            FinishMode::Merge | FinishMode::None => memory::diff(work).await,
        },
        Phase::Merge => memory::merge(work).await,
        Phase::Mirror => mirror::mirror(work).await,
        Phase::Continue => mirror::go_on(work).await,
        Phase::Release => addresses::release(work).await,
        Phase::Cleanup => guests::cleanup(work).await,
    }
}

impl Work {
    fn address(&self) -> String {
        self.progress.spec.address.to_string()
    }

    fn switch_peer(&self) -> Result<&Peer, Error> {
        self.inventory.switch(&self.progress.spec.switch)
    }

    async fn switch(&self) -> Result<(&Peer, SwitchClient<Channel>), Error> {
        let peer = self.switch_peer()?;
        Ok((peer, peer.switch().await?))
    }

    async fn source_host(&self) -> Result<(&Peer, HostClient<Channel>), Error> {
        let peer = self.inventory.host(&self.progress.spec.source_host)?;
        Ok((peer, peer.host().await?))
    }

    async fn destination_host(&self) -> Result<(&Peer, HostClient<Channel>), Error> {
        let peer = self.inventory.host(&self.progress.spec.destination_host)?;
        Ok((peer, peer.host().await?))
    }

    fn outcome(&self, phase: Phase) -> Result<&Outcome, Error> {
        let done = self.progress.done(phase).ok_or(Error::Missing { phase })?;
        Ok(&done.outcome)
    }

    /// Where the destination's host takes memory. Asked anew: one that was started again may listen elsewhere than at the copy.
    async fn data_endpoint(&self) -> Result<String, Error> {
        let (peer, mut host) = self.destination_host().await?;
        let request = host_proto::GetStatusRequest {};
        Ok(peer.answer("GetStatus", CALL, host.get_status(request)).await?.data_endpoint)
    }

    /// The address as the switch has it now.
    async fn steering(&self) -> Result<(&Peer, SwitchClient<Channel>, proto::Address), Error> {
        let (peer, mut switch) = self.switch().await?;
        let request = proto::GetAddressRequest { address: self.address() };
        let address = peer.answer("GetAddress", CALL, switch.get_address(request)).await?;
        Ok((peer, switch, address))
    }
}
