//! `cargo xtask`: tests, benchmarks and checks of the workspace.

#![forbid(unsafe_code)]

mod bench;
mod ci;
mod command;
mod peers;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tests, benchmarks and checks of the seq workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Test(test::Test),
    Bench(bench::Bench),
    Ci(ci::Ci),
}

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::Test(test) => test.run(),
        Task::Bench(bench) => bench.run(),
        Task::Ci(ci) => ci.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
