//! Whether sessions that the switch has not seen will be counted.

use super::{Findings, switch::Switch};
use crate::{
    error::Error,
    peers::Inventory,
    sessions::{self, SessionList},
    spec::Spec,
};

const NAME: &str = "session list";

pub(super) async fn check(
    order: &Spec,
    inventory: &Inventory,
    switch: &Switch,
    findings: &mut Findings,
) {
    let by = match &order.session_list {
        SessionList::None => {
            findings.note(NAME, Ok("not asked for".to_owned()));
            return;
        }
        SessionList::Auto | SessionList::Agent => "by the guest agent".to_owned(),
        SessionList::Conntrack => "by its host's kernel".to_owned(),
        SessionList::File(path) => format!("in {}", path.display()),
    };
    match sessions::list(order, inventory, &switch.address).await {
        Ok(sessions) => {
            findings.note(NAME, Ok(format!("{} session(s), {by}", sessions.len())));
        }
        Err(error) if order.session_list == SessionList::Auto => {
            without(order, switch, &error, findings);
        }
        Err(error) => {
            findings.note(NAME, Err(error.to_string()));
        }
    }
}

fn without(order: &Spec, switch: &Switch, error: &Error, findings: &mut Findings) {
    let (address, tracked_ms) = (order.address, switch.address.tracked_ms);
    let seconds = tracked_ms / 1000;
    if switch.longest_silence_ms > 0 && tracked_ms >= switch.longest_silence_ms {
        let detail = format!(
            "not needed: {address} is tracked for {seconds} s, longer than a silent session is kept"
        );
        findings.note(NAME, Ok(detail));
        return;
    }
    findings.warn(
        NAME,
        format!(
            "none: {error}. {address} is tracked for {seconds} s only: sessions that are older and were silent \
             all that time are not counted, and end with the source. Give a list, or say that none is needed"
        ),
    );
}
