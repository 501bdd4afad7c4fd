//! Which way a copy would take, found out before there is one. What the other host lacks for it only the copy finds out.

use std::sync::Arc;

use tidegate_api::host as api;
use tidegate_memory::MemoryError;

use crate::{
    HostError,
    capture::{Plan, To},
    data::Choice,
    inner::{Inner, blocking},
    safety::{refused, safe},
};

impl Inner {
    /// Whether what is planned can go `to` the destination's host. Nobody is called.
    pub(crate) async fn check_carriage(
        self: &Arc<Self>,
        plan: &Plan,
        to: To,
    ) -> Result<api::Safety, HostError> {
        let asked = to.how.transport;
        let wanted = asked.unwrap_or(self.config.data.transport);
        let choice = if plan.straight.is_some() { Choice::TCP } else { wanted };
        let bytes = plan.ram_bytes + plan.region_bytes;
        let inner = self.clone();
        let name = choice.to_string();
        let found = blocking(move || {
            let dial = inner.data.dial(&to.data_endpoint)?;
            inner.data.propose(choice, &to.data_endpoint, bytes, &*dial)
        });
        let field = if asked.is_some() { "transport" } else { "[data] transport" };
        Ok(match found.await {
            Ok((_, candidates)) => safe(&name, candidates.reasons.join("; ")),
            Err(error @ HostError::Memory(MemoryError::DataPath { .. })) => {
                refused(&name, format!("{field}: {error}; mend that, or choose auto or tcp"))
            }
            Err(error) => refused(&name, error.to_string()),
        })
    }
}
