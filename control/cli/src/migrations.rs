//! Commands to the manager.

use tidegate_api::{
    endpoint::{self, Endpoint},
    manager::{self as proto, manager_client::ManagerClient},
};

use crate::{
    args::Migrate,
    domain::{
        Invalid,
        migration::{Migration, Node, Plan, State},
    },
    error::{Error, Exit},
    follow::{Interrupts, follow},
    output::Output,
    show::{Show, elapsed},
    table::table,
};

macro_rules! client {
    ($endpoint:expr) => {
        ManagerClient::new(endpoint::connect($endpoint).await.map_err(unreachable)?)
    };
}

pub(crate) fn unreachable(source: endpoint::EndpointError) -> Error {
    Error::Unreachable { source, process: "tidegate-manager", option: "--manager" }
}

/// `migrate`.
///
/// # Errors
/// [`Error`].
pub async fn migrate(
    manager: &Endpoint,
    command: &Migrate,
    output: &mut Output,
) -> Result<Exit, Error> {
    // From here on Ctrl-C must not end the program between starting a migration and saying its name.
    let mut interrupts = Interrupts::listen();
    let spec = Some(command.order());
    let mut client = client!(manager);
    let request = proto::PlanMigrationRequest { spec: spec.clone() };
    let plan = Plan::from(client.plan_migration(request).await?.into_inner());
    let mut show = Show::new(output);
    show.plan(&plan)?;
    if !plan.ok {
        show.line("a check failed: nothing was started")?;
        return Ok(Exit::NotPossible);
    }
    if command.dry_run {
        show.line(&format!("would go through: {}", plan.steps.join(", ")))?;
        return Ok(Exit::Done);
    }
    let request = proto::StartMigrationRequest { spec };
    let started = client.start_migration(request).await?.into_inner();
    let migration = Migration::try_from(started)?;
    drop(show);
    output.event("accepted", &migration)?;
    output.text(&format!("\nmigration {}\n", migration.id))?;
    if command.detach {
        return Ok(Exit::Done);
    }
    follow(manager, &migration.id, &mut Show::new(output), &mut interrupts).await
}

/// `watch`.
///
/// # Errors
/// [`Error`].
pub async fn watch(manager: &Endpoint, id: &str, output: &mut Output) -> Result<Exit, Error> {
    // Says so at once when nobody answers; later on a restart is waited for.
    drop(client!(manager));
    follow(manager, id, &mut Show::new(output), &mut Interrupts::listen()).await
}

/// `abort`.
///
/// # Errors
/// [`Error`].
pub async fn abort(manager: &Endpoint, id: &str, output: &mut Output) -> Result<Exit, Error> {
    let request = proto::AbortMigrationRequest { id: id.to_owned() };
    let migration = client!(manager).abort_migration(request).await?.into_inner();
    let migration = Migration::try_from(migration)?;
    output.event("migration", &migration)?;
    output.text(&format!(
        "migration {id}: {} ({})\n",
        migration.state.name(),
        migration.message
    ))?;
    Ok(match migration.state {
        State::Aborted | State::Running => Exit::Done,
        State::Completed => Exit::Error,
        State::Failed => Exit::Failed,
    })
}

/// `resume`.
///
/// # Errors
/// [`Error`].
pub async fn resume(manager: &Endpoint, id: &str, output: &mut Output) -> Result<Exit, Error> {
    let request = proto::ResumeMigrationRequest { id: id.to_owned() };
    client!(manager).resume_migration(request).await?;
    watch(manager, id, output).await
}

/// `migrations`.
///
/// # Errors
/// [`Error`].
pub async fn list(manager: &Endpoint, output: &mut Output) -> Result<Exit, Error> {
    let answer = client!(manager).list_migrations(proto::ListMigrationsRequest {}).await?;
    let migrations = answer.into_inner().migrations.into_iter().map(Migration::try_from);
    let migrations = migrations.collect::<Result<Vec<_>, Invalid>>()?;
    for migration in &migrations {
        output.event("migration", migration)?;
    }
    let row = |migration: &Migration| {
        let spec = &migration.spec;
        [
            migration.id.clone(),
            spec.address.clone(),
            format!("{}/{}", spec.source_host, spec.source_guest),
            format!("{}/{}", spec.destination_host, spec.destination_guest),
            migration.state.name().to_owned(),
            migration.phase.to_owned(),
            elapsed(migration.phases.iter().map(|phase| phase.elapsed_us).sum()),
            migration.message.clone(),
        ]
    };
    let rows: Vec<_> = migrations.iter().map(row).collect();
    let headings = ["ID", "ADDRESS", "SOURCE", "DESTINATION", "STATE", "PHASE", "TIME", "MESSAGE"];
    output.text(&table(headings, &rows))?;
    Ok(Exit::Done)
}

/// `bandwidth`.
///
/// # Errors
/// [`Error`].
pub async fn bandwidth(
    manager: &Endpoint,
    id: &str,
    mbps: u64,
    output: &mut Output,
) -> Result<Exit, Error> {
    let request = proto::SetBandwidthRequest { id: id.to_owned(), mbps };
    client!(manager).set_bandwidth(request).await?;
    output.event("bandwidth", &serde_json::json!({ "id": id, "mbps": mbps }))?;
    output.text(&match mbps {
        0 => format!("migration {id}: no limit\n"),
        _ => format!("migration {id}: at most {mbps} Mbit/s\n"),
    })?;
    Ok(Exit::Done)
}

/// `inventory`.
///
/// # Errors
/// [`Error`].
pub async fn inventory(manager: &Endpoint, output: &mut Output) -> Result<Exit, Error> {
    let answer = client!(manager).list_inventory(proto::ListInventoryRequest {}).await?;
    let answer = answer.into_inner();
    let switches = answer.switches.into_iter().map(|node| Node::from_proto("switch", node));
    let hosts = answer.hosts.into_iter().map(|node| Node::from_proto("host", node));
    let nodes: Vec<_> = switches.chain(hosts).collect();
    for node in &nodes {
        output.object(node)?;
    }
    let row = |node: &Node| {
        let answers = if node.reachable { "yes" } else { "no" };
        [
            node.role.to_owned(),
            node.name.clone(),
            node.endpoint.clone(),
            answers.to_owned(),
            node.detail.clone(),
        ]
    };
    let rows: Vec<_> = nodes.iter().map(row).collect();
    output.text(&table(["ROLE", "NAME", "ENDPOINT", "ANSWERS", "DETAIL"], &rows))?;
    Ok(Exit::Done)
}
