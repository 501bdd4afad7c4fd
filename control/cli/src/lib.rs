//! tidegate: the operator's command line.
//!
//! [`args`] is what can be asked; [`domain`] what is answered, and the JSON's shape; one module for each
//! process that is asked: [`migrations`], [`switch`], [`address`] and [`port`], [`guest`].
#![forbid(unsafe_code)]

pub mod address;
pub mod args;
pub mod diff;
pub mod domain;
pub mod error;
pub mod follow;
pub mod guest;
pub mod migrations;
pub mod output;
pub mod port;
pub mod show;
pub mod switch;
pub mod table;

use args::{Cli, Command};
use error::{Error, Exit};
use output::Output;

/// Carry out what `cli` asks for.
///
/// # Errors
/// [`Error`], to be shown to the operator.
pub async fn run(cli: &Cli, output: &mut Output) -> Result<Exit, Error> {
    match &cli.command {
        Command::Migrate(migrate) => migrations::migrate(&cli.manager, migrate, output).await,
        Command::Migrations => migrations::list(&cli.manager, output).await,
        Command::Watch { id } => migrations::watch(&cli.manager, id, output).await,
        Command::Abort { id } => migrations::abort(&cli.manager, id, output).await,
        Command::Resume { id } => migrations::resume(&cli.manager, id, output).await,
        Command::Bandwidth { id, mbps } => {
            migrations::bandwidth(&cli.manager, id, *mbps, output).await
        }
        Command::Diff { id } => diff::diff(&cli.manager, id, output).await,
        Command::Inventory => migrations::inventory(&cli.manager, output).await,
        Command::Switch(command) => switch::run(&cli.switch, command, output).await,
        Command::Address(command) => address::run(&cli.switch, command, output).await,
        Command::Port(command) => port::run(&cli.switch, command, output).await,
        Command::Guest(command) => guest::run(&cli.host, command, output).await,
    }
}
