//! `spillway config`: what the configuration comes to and where each value is from, or a file to begin with.

use super::{Exit, ServeArgs};
use crate::config::template;
use crate::supervisor::terminal::{complain, warn};
use clap::{Args, Subcommand};
use std::process::ExitCode;

#[derive(Args, Clone, Debug)]
#[command(after_help = "Every key stands in `spillway config init`. Each source goes before the ones left of it:
  default, --config FILE, names of other systems (PORT, TURN_URLS, ...), SPILLWAY__TABLE__KEY, flags of `serve`

Examples:
  spillway config init > spillway.toml
  spillway config show --origin --config spillway.toml
  SPILLWAY__LIMITS__VIEWERS_PER_ROOM_MAX=200 spillway config show --origin
  kill -HUP $(jq .supervisor_pid spillway-data/node.json)      what can be applied to a running node is applied")]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Subcommand, Clone, Debug)]
pub enum Action {
    /// Print the configuration as a file that means the same; secrets are not shown
    Show {
        /// Say beside each value where it comes from
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        serve: Box<ServeArgs>,
    },
    /// Print a file with every key, its default and what it means, all of it as comments
    Init,
}

pub fn run(args: ConfigArgs) -> ExitCode {
    match args.action {
        Action::Init => print!("{}", template()),
        Action::Show { origin, serve } => match serve.configuration() {
            Ok(config) => {
                config.warnings.iter().for_each(|warning| warn(warning.clone()));
                print!("{}", config.show(origin));
            }
            Err(error) => {
                complain(error.to_string());
                return Exit::Config.into();
            }
        },
    }
    ExitCode::SUCCESS
}
