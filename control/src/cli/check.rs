//! `spillway check`: whether `serve` with the same flags would start. Makes nothing that stays.

use super::{Exit, ServeArgs};
use crate::auth::SigningKey;
use crate::data_dir::DataDir;
use crate::supervisor::lock;
use crate::supervisor::media::{self, MediaGroup};
use crate::supervisor::terminal::{complain, warn};
use std::process::ExitCode;

pub fn run(args: &ServeArgs) -> ExitCode {
    let config = match args.configuration() {
        Ok(config) => config,
        Err(error) => {
            complain(error.to_string());
            return Exit::Config.into();
        }
    };
    config.warnings.iter().for_each(|warning| warn(warning.clone()));
    let settings = config.settings();
    let mut faults = Vec::new();
    // A directory that is not there yet is made by `serve`.
    let data = DataDir::existing(&args.data.data);
    if data.is_none() && args.data.data.exists() {
        faults.push(format!("{} is not a directory; name another one with --data DIR", args.data.data.display()));
    }
    let running = data.as_ref().and_then(lock::holder);
    if let Some(data) = data.as_ref().filter(|data| data.path().join("keys/signing.key").exists()) {
        faults.extend(SigningKey::load_or_create(data.path()).err().map(|error| error.to_string()));
    }
    match running {
        // Its own ports are taken, by itself.
        Some(pid) => println!("a node runs on {} (pid {pid}); its ports are not looked at", args.data.data.display()),
        None => {
            faults.extend(media::bind_http(settings.http).err().map(|error| error.to_string()));
            faults.extend(settings.metrics.and_then(|address| media::bind_http(address).err()).map(|error| error.to_string()));
            let groups = settings.media.iter().map(|address| MediaGroup::bind(*address, 1));
            faults.extend(groups.filter_map(|group| Some(group.err()?.to_string())));
        }
    }
    if faults.is_empty() {
        println!("ok");
        return ExitCode::SUCCESS;
    }
    faults.into_iter().for_each(complain);
    Exit::Config.into()
}
