//! `spillway backup`: the database as a file, while the node runs.

use super::{DataArgs, Exit};
use crate::store::{BackupError, backup};
use crate::vault;
use clap::Args;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  spillway backup /backups/spillway-$(date +%F).db             the database alone: keys do not belong beside it
  spillway backup /backups/spillway.db --keys                  and the two keys it needs, as FILE.signing.key, FILE.master.key

To restore: spillway stop; copy FILE to DATA/spillway.db, remove DATA/spillway.db-wal and -shm, put the keys to
DATA/keys/signing.key and DATA/master.key (mode 0600); spillway serve. Both keys are needed: the signing key and webhooks are sealed under
the master key. With ENCRYPTION_KEY keep that instead of a file.")]
pub struct BackupArgs {
    /// The file to write; it must not be there yet
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Copy the signing key and the master key beside it: then whoever has the files has the node
    #[arg(long)]
    pub keys: bool,
    #[command(flatten)]
    pub data: DataArgs,
}

pub fn run(args: BackupArgs) -> ExitCode {
    let data = &args.data.data;
    let bytes = match backup(data, &args.file) {
        Ok(bytes) => bytes,
        Err(error) => {
            eprintln!("{error}");
            return match error {
                BackupError::Nothing(_) => Exit::NotFound.into(),
                _ => Exit::Failed.into(),
            };
        }
    };
    println!("{}: {bytes} bytes, checked", args.file.display());
    let keys = [("signing.key", data.join("keys/signing.key")), (vault::FILE, data.join(vault::FILE))];
    for (name, from) in keys.iter().filter(|(_, from)| from.exists()) {
        if !args.keys {
            println!("not in it: {} (keep it elsewhere, or give --keys)", from.display());
            continue;
        }
        let mut to = args.file.clone().into_os_string();
        to.push(format!(".{name}"));
        let to = PathBuf::from(to);
        match copy(from, &to) {
            Ok(()) => println!("{}: secret", to.display()),
            Err(error) => {
                eprintln!("cannot copy {} to {}: {error}", from.display(), to.display());
                return Exit::Failed.into();
            }
        }
    }
    ExitCode::SUCCESS
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let bytes = fs::read(from)?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    file.write_all(&bytes)?;
    file.sync_all()
}
