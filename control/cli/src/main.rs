//! `tidegate`: see `--help`.
#![forbid(unsafe_code)]

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use clap::Parser as _;
use tidegate_cli::{args::Cli, error::Exit, output::Output};

#[tokio::main]
async fn main() -> ExitCode {
    // A command line that makes no sense ends here, with Exit::Usage's code.
    let cli = Cli::parse();
    let stdout = io::stdout();
    let terminal = stdout.is_terminal();
    let mut output = Output::new(Box::new(stdout), cli.json, terminal);
    let exit = match tidegate_cli::run(&cli, &mut output).await {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("tidegate: {error}");
            Exit::Error
        }
    };
    ExitCode::from(exit.code())
}
