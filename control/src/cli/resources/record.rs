//! `spillway record`: begins and stops recordings, lists them, and brings their files here.

use super::gone;
use crate::cli::client::{self, Api, ApiArgs, ApiError, escaped};
use crate::cli::show::{self, Column, Painted, bytes, card, line, number, or_dash, since, span, string, text};
use crate::cli::token::parse_room;
use crate::config::Settings;
use aws_lc_rs::digest;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  spillway record start lobby
  spillway record list --room lobby
  spillway record get rec_01m7zqms8v5k3t9x2c4d6f8h1j                 what it is, and where its files stand
  spillway record get rec_01m7zqms8v5k3t9x2c4d6f8h1j -o lobby.mp4    brings it here; again: goes on where it broke off
  spillway record stop rec_01m7zqms8v5k3t9x2c4d6f8h1j
  spillway room update lobby --record auto                           every publisher from now on")]
pub struct RecordArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// Record a room's stream
    Start {
        #[arg(value_parser = parse_room)]
        room: String,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Stop a recording; its files are final a moment later
    Stop(Named),
    /// Recordings, newest first
    List {
        /// Of this room alone
        #[arg(long)]
        room: Option<String>,
        /// recording, waiting, finishing or finished alone
        #[arg(long)]
        state: Option<String>,
        /// Show at most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// One recording; with -o a file of it
    Get {
        /// As `spillway record list` shows it
        recording: String,
        /// Write the recording's file here; one that broke off is gone on with
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Which file, where there are several
        #[arg(long, value_name = "NAME", requires = "output")]
        file: Option<String>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Delete a finished recording with its files
    Delete(Named),
}

#[derive(Args, Clone, Debug)]
struct Named {
    /// As `spillway record list` shows it
    recording: String,
    #[command(flatten)]
    api: ApiArgs,
}

/// Tries without a byte more than before, after which it is given up.
const TRIES_MAX: u32 = 5;
const TRY_WAIT: Duration = Duration::from_secs(1);
const PROGRESS_WAIT: Duration = Duration::from_millis(200);
const PIECE_BYTES: usize = 256 * 1_024;

fn files(recording: &Value) -> impl Iterator<Item = &Value> {
    recording["files"].as_array().into_iter().flatten()
}

fn seconds(ms: &Value) -> String {
    ms.as_u64().map_or_else(|| "-".to_owned(), |ms| span(ms / 1_000))
}

pub const COLUMNS: &[Column] = &[
    text("RECORDING", |recording| string(&recording["id"])),
    text("ROOM", |recording| or_dash(&recording["room"])),
    text("STATE", |recording| string(&recording["state"])),
    number("LENGTH", |recording| seconds(&recording["duration_ms"])),
    number("SIZE", |recording| bytes(&recording["size"])),
    number("FILES", |recording| files(recording).count().to_string()),
    number("GAPS", |recording| string(&recording["gaps_count"])),
    number("AGE", |recording| since(&recording["created_at"])),
    text("ERROR", |recording| or_dash(&recording["error"]["code"])),
];

/// `directory`: where recordings stand, if this machine is the node's.
pub fn card_of(recording: &Value, directory: Option<&Path>) -> Painted {
    let mut facts = vec![
        ("recording", string(&recording["id"])),
        ("room", string(&recording["room"])),
        ("stream", string(&recording["stream"])),
        ("state", string(&recording["state"])),
        ("over because", string(&recording["reason"]).replace('_', " ")),
        ("begun", format!("{} ago ({})", since(&recording["created_at"]), string(&recording["begun_by"]))),
        ("length", seconds(&recording["duration_ms"])),
    ];
    for file in files(recording) {
        let codecs: Vec<String> = file["codecs"].as_array().into_iter().flatten().map(string).collect();
        let path = string(&file["path"]);
        let mut words = vec![
            directory.map_or(path.clone(), |directory| directory.join(&path).display().to_string()),
            codecs.join(" "),
            bytes(&file["size"]),
        ];
        words.push(match file["final"] == true {
            true => format!("{}, sha256 {}", seconds(&file["duration_ms"]), string(&file["sha256"])),
            false => "grows".to_owned(),
        });
        facts.push(("file", words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(", ")));
    }
    for gap in recording["gaps"].as_array().into_iter().flatten() {
        let ms = |name: &str| gap[name].as_f64().unwrap_or(0.0) / 1_000.0;
        facts.push(("gap", format!("{:.1} s at {:.1} s: {}", ms("length_ms"), ms("at_ms"), string(&gap["reason"]).replace('_', " "))));
    }
    for (name, said) in recording["warnings"].as_array().into_iter().flatten().map(|warning| ("warning", warning)).chain(
        Some(&recording["error"]).filter(|error| !error.is_null()).map(|error| ("error", error)),
    ) {
        facts.push((name, format!("{}: {}", string(&said["code"]), string(&said["detail"]))));
    }
    facts.push(("page", string(&recording["page"])));
    card(&facts)
}

pub fn run(args: RecordArgs) -> ExitCode {
    let path = |recording: &str| format!("/v1/recordings/{}", escaped(recording));
    match args.action {
        Action::Start { room, api } => client::run(
            &api,
            |server| server.ask("POST", &format!("/v1/rooms/{}/recordings", escaped(&room)), None),
            |recording| line(format!("{} is recorded: {}", room, string(&recording["id"]))),
        ),
        Action::Stop(Named { recording, api }) => client::run(
            &api,
            |server| server.ask("POST", &format!("{}/stop", path(&recording)), None),
            |_| gone("stopped", &recording),
        ),
        Action::List { room, state, limit, api } => client::run(
            &api,
            |server| server.list("/v1/recordings", &[("room", room.as_deref()), ("state", state.as_deref())], limit),
            |page| show::table(COLUMNS, page, "no recordings"),
        ),
        Action::Get { recording, output: None, api, .. } => {
            let directory = here(&api);
            client::run(&api, |server| server.get(&path(&recording)), |found| card_of(found, directory.as_deref()))
        }
        Action::Get { recording, output: Some(output), file, api } => client::run(
            &api,
            |server| fetch(server, &server.get(&path(&recording))?, file.as_deref(), &output, show_progress(&api)),
            |done| line(format!("{}: {}", string(&done["path"]), words_of(done))),
        ),
        Action::Delete(Named { recording, api }) => {
            client::run(&api, |server| server.ask("DELETE", &path(&recording), None), |_| gone("deleted", &recording))
        }
    }
}

fn words_of(done: &Value) -> String {
    let size = bytes(&done["size"]);
    match (done["sha256"].is_string(), done["resumed_from"].as_u64()) {
        (true, Some(from @ 1..)) => format!("{size}, gone on with at {}, checked (SHA-256)", bytes(&from.into())),
        (true, _) => format!("{size}, checked (SHA-256)"),
        (false, _) => format!("{size} of a file that still grows"),
    }
}

/// Where the node of this machine has its recordings.
fn here(api: &ApiArgs) -> Option<PathBuf> {
    let data = api.data.clone().unwrap_or_else(|| PathBuf::from("./spillway-data"));
    let is_here = api.server.is_none() && (api.data.is_some() || std::env::var_os("SPILLWAY_URL").is_none());
    let settings = Settings::read(&data).ok().filter(|_| is_here)?;
    std::path::absolute(settings.recording.directory(&data)).ok()
}

fn show_progress(api: &ApiArgs) -> impl FnMut(u64, u64) + use<> {
    let is_shown = !api.json && io::stderr().is_terminal();
    let mut shown: Option<Instant> = None;
    move |at, size| {
        let is_due = at == size || shown.is_none_or(|shown| shown.elapsed() >= PROGRESS_WAIT);
        if is_shown && is_due {
            shown = Some(Instant::now());
            let end = if at == size { "\n" } else { "" };
            eprint!("\r{} of {} ({:.0} %)   {end}", bytes(&at.into()), bytes(&size.into()), 100.0 * at as f64 / size.max(1) as f64);
        }
    }
}

/// Downloads to `FILE.part`, over broken lines, and gives it its name once all of it is there and its hash is right.
fn fetch(
    server: &Api,
    recording: &Value,
    name: Option<&str>,
    output: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<Value, ApiError> {
    let usage = |text: String| ApiError::Usage(text);
    let names: Vec<String> = files(recording).map(|file| string(&file["name"])).collect();
    let file = match (name, names.as_slice()) {
        (Some(name), _) => files(recording).find(|file| file["name"] == name),
        (None, [_]) => files(recording).next(),
        (None, []) => return Err(usage("the recording has no files yet".to_owned())),
        (None, several) => return Err(usage(format!("it has several files; say which with --file: {}", several.join(", ")))),
    };
    let file = file.ok_or_else(|| usage(format!("it has no such file; there are: {}", names.join(", "))))?;
    if output.exists() {
        return Err(usage(format!("{} is there already: name another file, or remove it", output.display())));
    }
    let mut part = output.to_owned().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let disk = |error: io::Error| ApiError::Usage(format!("cannot write {}: {error}", part.display()));
    let mut out = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&part).map_err(disk)?;
    let (sha256, size) = (file["sha256"].as_str(), file["size"].as_u64().unwrap_or(0));
    // What grows has no name by which a part of it could be known again.
    let mut have = out.metadata().map_err(disk)?.len();
    if sha256.is_none() || have > size {
        out.set_len(0).map_err(disk)?;
        have = 0;
    }
    let resumed_from = have;
    let path = format!("/v1/recordings/{}/download?file={}", escaped(&string(&recording["id"])), escaped(&string(&file["name"])));
    let mut tries = 0;
    while have < size {
        let before = have;
        let mut headers = Vec::new();
        if have > 0 {
            headers.push(("range", format!("bytes={have}-")));
            headers.extend(sha256.map(|sha256| ("if-range", format!("\"{sha256}\""))));
        }
        let broke = match server.open(&path, &headers) {
            Ok((status, mut body)) => {
                if status == 200 && have > 0 {
                    // Another version: from its beginning.
                    out.set_len(0).map_err(disk)?;
                    have = 0;
                }
                out.seek(SeekFrom::Start(have)).map_err(disk)?;
                copy(&mut body, &mut out, &mut have, size, &mut progress).map_err(disk)?
            }
            Err(error) if error.is_passing() => Some(error.to_string()),
            Err(error) => return Err(error),
        };
        tries = if have > before { 0 } else { tries + 1 };
        if have < size && tries >= TRIES_MAX {
            let why = broke.unwrap_or_else(|| "the server sent no more".to_owned());
            return Err(ApiError::Unreachable(server.base.clone(), format!("{why}; {} is kept: the same command goes on", part.display())));
        }
        if have < size {
            std::thread::sleep(TRY_WAIT);
        }
    }
    if let Some(wanted) = sha256
        && hash_of(&mut out).map_err(disk)? != wanted
    {
        let _ = fs::remove_file(&part);
        return Err(ApiError::Answer(server.base.clone(), "what came has another SHA-256 than the recording: try again".to_owned()));
    }
    out.sync_all().and_then(|()| fs::rename(&part, output)).map_err(disk)?;
    Ok(json!({ "id": recording["id"], "file": file["name"], "path": output.display().to_string(), "size": have,
        "sha256": sha256, "resumed_from": resumed_from }))
}

/// Until the end, or until the line breaks: then why. An error is the disk's.
fn copy(
    body: &mut impl Read,
    out: &mut File,
    have: &mut u64,
    size: u64,
    progress: &mut impl FnMut(u64, u64),
) -> io::Result<Option<String>> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match body.read(&mut piece) {
            Ok(0) => return Ok(None),
            Ok(length) => {
                out.write_all(piece.get(..length).unwrap_or_default())?;
                *have += length as u64;
                progress(*have, size.max(*have));
            }
            Err(error) => return Ok(Some(error.to_string())),
        }
    }
}

fn hash_of(file: &mut File) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let (mut hash, mut piece) = (digest::Context::new(&digest::SHA256), vec![0; PIECE_BYTES]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(crate::auth::hex(hash.finish().as_ref())),
            length => hash.update(piece.get(..length).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: a download is whole and right however often the line breaks, or is not there at all.
    //! Method: a server of the test's own that breaks off, on loopback.

    use super::*;
    use crate::data_dir::tests::Scratch;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::sync::mpsc;

    /// Answers each request with at most `cut` bytes of `media`, then breaks off; tells the Range of each.
    fn server(media: &'static [u8], tag: String, cut: usize) -> (ApiArgs, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                let field = |name: &str| {
                    let found = head.iter().filter_map(|line| line.split_once(": ")).find(|(other, _)| other.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_owned())
                };
                let same = field("if-range").is_none_or(|known| known == format!("\"{tag}\""));
                let range = field("range").filter(|_| same);
                if tell.send(field("range").unwrap_or_default()).is_err() {
                    return;
                }
                let from: usize = range.as_ref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0);
                let rest = &media[from..];
                let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", rest.len());
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&rest[..rest.len().min(cut)]));
            }
        });
        let api = ApiArgs { server: Some(format!("http://{address}")), token: Some("t".into()), data: None, json: true };
        (api, told)
    }

    const MEDIA: &[u8] = &[7; 1_000];

    fn recording(sha256: Value) -> Value {
        json!({ "id": "rec_1", "files": [{ "name": "0001.mp4", "size": 1_000, "sha256": sha256, "final": true }] })
    }

    fn sha256() -> String {
        crate::auth::hex(digest::digest(&digest::SHA256, MEDIA).as_ref())
    }

    #[test]
    fn a_line_that_breaks_is_gone_on_with_and_so_is_the_command() {
        let scratch = Scratch::new();
        let output = scratch.0.join("a.mp4");
        let (args, told) = server(MEDIA, sha256(), 400);
        // An earlier run got so far.
        fs::write(scratch.0.join("a.mp4.part"), &MEDIA[..100]).unwrap();
        let mut seen = 0;
        let done = fetch(&Api::find(&args).unwrap(), &recording(json!(sha256())), None, &output, |at, _| seen = at).unwrap();
        assert_eq!((done["resumed_from"].as_u64(), seen, fs::read(&output).unwrap()), (Some(100), 1_000, MEDIA.to_vec()));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), ["bytes=100-", "bytes=500-", "bytes=900-"]);
        assert!(!scratch.0.join("a.mp4.part").exists());
        let again = fetch(&Api::find(&args).unwrap(), &recording(json!(sha256())), None, &output, |_, _| {}).unwrap_err();
        assert!(matches!(again, ApiError::Usage(_)), "what is there is not written over");
    }

    #[test]
    fn what_has_another_hash_is_not_kept() {
        let scratch = Scratch::new();
        let output = scratch.0.join("a.mp4");
        let (args, _told) = server(MEDIA, "ab".repeat(32), 10_000);
        // The part is of another file: its first bytes are wrong, and nobody can tell before the end.
        fs::write(scratch.0.join("a.mp4.part"), [9; 10]).unwrap();
        let error = fetch(&Api::find(&args).unwrap(), &recording(json!("ab".repeat(32))), None, &output, |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("SHA-256"), "{error}");
        assert!(!output.exists() && !scratch.0.join("a.mp4.part").exists());
    }

    #[test]
    fn what_grows_is_taken_as_far_as_it_goes_and_several_files_are_asked_for_by_name() {
        let scratch = Scratch::new();
        let (args, told) = server(MEDIA, "growing".into(), 10_000);
        fs::write(scratch.0.join("a.mp4.part"), [9; 10]).unwrap();
        let api = Api::find(&args).unwrap();
        let done = fetch(&api, &recording(Value::Null), None, &scratch.0.join("a.mp4"), |_, _| {}).unwrap();
        assert_eq!((done["size"].as_u64(), words_of(&done).as_str()), (Some(1_000), "1 KiB of a file that still grows"));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [""], "from its beginning");
        let mut two = recording(json!(sha256()));
        two["files"].as_array_mut().unwrap().push(json!({ "name": "0002.webm", "size": 5 }));
        let output = scratch.0.join("b.mp4");
        let error = fetch(&api, &two, None, &output, |_, _| {}).unwrap_err().to_string();
        assert!(error.contains("0001.mp4, 0002.webm"), "{error}");
        assert!(fetch(&api, &two, Some("0003.mp4"), &output, |_, _| {}).is_err());
        assert!(fetch(&api, &two, Some("0001.mp4"), &output, |_, _| {}).is_ok());
        assert!(fetch(&api, &json!({ "id": "rec_1", "files": [] }), None, &output, |_, _| {}).is_err());
    }
}
