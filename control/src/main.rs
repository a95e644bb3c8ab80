//! `spillway`: one binary, three kinds of process. Here only the subcommands are told apart.

use clap::Parser;
use spillway::adapters::recorder;
use spillway::cli::{self, Adapter, Cli, Command};
use spillway::{control, supervisor};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        None => supervisor::run(cli.serve),
        Some(Command::Serve(args)) => supervisor::run(args),
        Some(Command::Config(args)) => cli::config::run(args),
        Some(Command::Check(args)) => cli::check::run(&args),
        Some(Command::Token(args)) => cli::token::run(args),
        Some(Command::Room(args)) => cli::resources::room::run(args),
        Some(Command::Stream(args)) => cli::resources::stream::run(args),
        Some(Command::Viewer(args)) => cli::resources::viewer::run(args),
        Some(Command::Record(args)) => cli::resources::record::run(args),
        Some(Command::Keys(args)) => cli::resources::keys::run(args),
        Some(Command::Limits(args)) => cli::resources::limits::run(args),
        Some(Command::Webhook(args)) => cli::resources::webhook::run(args),
        Some(Command::Events(args)) => cli::resources::events::run(args),
        Some(Command::Node(args)) => cli::resources::node::run(args),
        Some(Command::Health(args)) => cli::resources::node::health(args),
        Some(Command::Doctor(args)) => cli::doctor::run(&args),
        Some(Command::Completions(args)) => cli::completions::run(&args),
        Some(Command::Publish(args)) => cli::publish::run(args),
        Some(Command::Play(args)) => cli::play::run(args),
        Some(Command::Backup(args)) => cli::backup::run(args),
        Some(Command::Stop(args)) => cli::stop::run(args),
        Some(Command::Restart(args)) => cli::restart::run(args),
        Some(Command::Version) => {
            println!("spillway {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some(Command::Engine) => spillway_engine::run(),
        Some(Command::Control(args)) => control::run(args),
        Some(Command::Adapter(Adapter::Recorder { mode })) => recorder::run(mode),
    }
}
