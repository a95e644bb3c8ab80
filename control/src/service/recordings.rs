//! Recordings as they are carried out: streams are looked at, the supervisor is told what to run, journals are followed,
//! and what they say becomes rows, events and numbers. One task does all of it, so that things happen in order; what
//! the API changes it changes between two looks.
//!
//! ```text
//!    streams, time --> policy --> rows --> the whole list to the supervisor
//!    journal --lines from where it was read to--> rows, that place and events, in one transaction --> event log
//! ```

use super::{Service, lock, now_ms};
use crate::adapters::journal::{self, Event, GapReason, Line};
use crate::event_log;
use crate::ids;
use crate::logging::{self, Level};
use crate::policy::Refusal;
use crate::policy::recordings::{Mode, Open, Phase, Reason, Recordings, Source, StreamFact};
use crate::policy::rooms::StreamView;
use crate::recording_files::RecordingFiles;
use crate::shm::monotonic_now;
use crate::store::{FINISHED, FileRow, Filter, GapRow, Record, RecordingRow, Step, StoreError, WholeRecording};
use crate::wanted::{DATAGRAM_BYTES_MAX, Run, Trouble, Wanted, write_list};
use serde_json::json;
use spillway_proto::id::StreamId;
use spillway_proto::time::Time;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::UnixDatagram;
use tokio::sync::Notify;

/// While anything is recorded or waited for.
const LOOK_WAIT: Duration = Duration::from_millis(500);
/// Streams change with every viewer that comes: of a storm of joins few looks are made.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Journals and sizes are read so often, however often streams change.
const FOLLOW_WAIT: Duration = Duration::from_millis(400);
const IDLE_WAIT: Duration = Duration::from_secs(10);
/// The supervisor is told again though nothing changed: a list may have been lost.
const TELL_WAIT: Duration = Duration::from_secs(5);
/// A broken picture is mended by one keyframe, however often it is reported.
const KEYFRAME_WAIT: Duration = Duration::from_secs(2);
/// Pieces of a journal that are read in one look.
const PIECES_MAX: usize = 16;

/// What recordings there are, and who carries them out.
#[derive(Default)]
pub struct Recorder {
    policy: Mutex<Recordings>,
    files: Mutex<RecordingFiles>,
    /// To the supervisor; None: it is none of ours, or of an older build.
    supervisor: Mutex<Option<Arc<UnixDatagram>>>,
    boot: AtomicI64,
    wake: Notify,
    /// Whoever changes the policy holds it until the rows are written: of two writes the later one is the newer.
    turn: tokio::sync::Mutex<()>,
    counts: Mutex<Counts>,
}

/// For /metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub bytes: u64,
    pub gaps: u64,
    pub failures: u64,
}

/// What only the task knows.
#[derive(Default)]
struct Desk {
    /// Since when each stream counts: the same number each time it is told.
    since: HashMap<StreamId, Time>,
    /// Streams that are not recorded by themselves.
    passed: HashSet<StreamId>,
    /// Rows that could not be written yet.
    dirty: HashSet<String>,
    journals: HashMap<String, Followed>,
    followed_at: Option<Instant>,
    told: Option<(Vec<Wanted>, Instant)>,
}

struct Followed {
    /// Bytes of the journal that are in the store.
    journal: u64,
    has_started: bool,
    /// All files together, as they were seen last.
    bytes: u64,
    keyframe_at: Option<Instant>,
}

impl Recorder {
    pub fn files(&self) -> RecordingFiles {
        lock(&self.files).clone()
    }

    pub fn counts(&self) -> Counts {
        *lock(&self.counts)
    }

    pub fn active(&self) -> usize {
        lock(&self.policy).active()
    }

    pub fn set_reconnect(&self, seconds: u32) {
        lock(&self.policy).reconnect_ms = u64::from(seconds) * 1_000;
    }

    /// The recording that runs in a room.
    pub fn of_room(&self, room: &str) -> Option<String> {
        lock(&self.policy).of_room(room).map(|open| open.id.clone())
    }

    fn wake(&self) {
        self.wake.notify_one();
    }

    /// What the store knows besides the policy's part: who began it, and when.
    fn row(&self, open: &Open, begun_by: &str, stream: String, created_ms: u64) -> RecordingRow {
        RecordingRow {
            id: open.id.clone(),
            room: open.room.clone(),
            stream,
            source: open.source.map(|source| (source.stream.index, source.stream.generation, source.since.0)),
            begun_by: begun_by.to_owned(),
            state: open.phase.name().to_owned(),
            away_ms: match open.phase {
                Phase::Waiting { since_ms } => Some(since_ms),
                _ => None,
            },
            reason: open.reason.map(|reason| reason.name().to_owned()),
            boot: self.boot.load(Ordering::Relaxed),
            created_ms,
            ..RecordingRow::default()
        }
    }
}

/// As the store has it.
fn open_of(row: &RecordingRow, boot: i64) -> Open {
    let source = row.source.map(|(index, generation, since)| Source { stream: StreamId::new(index, generation), since: Time(since) });
    let (mut phase, mut reason) = match row.state.as_str() {
        "recording" => (Phase::Recording, None),
        "waiting" => (Phase::Waiting { since_ms: row.away_ms.unwrap_or(0) }, None),
        _ => (Phase::Finishing, row.reason.as_deref().and_then(Reason::from_name)),
    };
    let mut source = source;
    if row.boot != boot {
        // Its streams and its recorder went with the node.
        source = None;
        if phase != Phase::Finishing {
            (phase, reason) = (Phase::Finishing, Some(Reason::NodeRestarted));
        }
    }
    if phase != Phase::Finishing && row.error.as_ref().is_some_and(|(code, _)| code == journal::FILE_LIMIT) {
        // Who read that was killed before it was heeded.
        (phase, reason) = (Phase::Finishing, Some(Reason::Failed));
    }
    Open { id: row.id.clone(), room: row.room.clone(), phase, source, reason }
}

impl Service {
    // ---- what the API asks for ----

    /// Begins a recording; `answered` makes the answer, which is written down in the same transaction.
    pub async fn start_recording<T>(
        self: &Arc<Self>,
        room: &str,
        answered: impl FnOnce(&WholeRecording) -> (T, Option<Record>),
    ) -> Result<T, Refusal> {
        self.require_engine()?;
        let modes = self.store.record_modes(vec![(room.to_owned(), String::new())]).await?;
        let mode = modes.first().and_then(|(_, mode, _)| Mode::from_name(mode.as_deref()?)).unwrap_or_default();
        let _turn = self.recorder.turn.lock().await;
        let stream = self.streams().into_iter().find(|stream| stream.room == room && stream.publisher.is_some());
        let fact = stream.as_ref().map(|stream| fact_of(stream, since_of(stream)));
        let now_ms = now_ms();
        let id = ids::fresh("rec", now_ms).ok_or(Refusal::NodeFull("random bytes"))?;
        let open = lock(&self.recorder.policy).start(id.clone(), room, mode, fact.as_ref())?;
        let name = stream.map_or(String::new(), |stream| ids::stream(stream.id, stream.began_ms));
        let row = self.recorder.row(&open, "manual", name, now_ms);
        let (answer, record) = answered(&WholeRecording { row: row.clone(), ..WholeRecording::default() });
        if let Err(error) = self.store.save_recordings(vec![row], record).await {
            // What is told as failed is not done.
            lock(&self.recorder.policy).close(&id);
            return Err(error.into());
        }
        self.recorder.wake();
        Ok(answer)
    }

    /// Stops one; false: there is none of this name that runs.
    pub async fn stop_recording(self: &Arc<Self>, id: &str, reason: Reason) -> Result<bool, Refusal> {
        let _turn = self.recorder.turn.lock().await;
        let before = lock(&self.recorder.policy).clone();
        if !lock(&self.recorder.policy).stop(id, reason) {
            return Ok(false);
        }
        if let Err(error) = self.save_recordings(std::iter::once(id.to_owned())).await {
            if let Some(open) = before.open(id) {
                lock(&self.recorder.policy).restore(open.clone());
            }
            return Err(error.into());
        }
        self.recorder.wake();
        Ok(true)
    }

    /// A stream is ended, and its recording with it.
    pub(super) async fn stop_recording_of(self: &Arc<Self>, room: &str) {
        let Some(id) = self.recorder.of_room(room) else { return };
        if let Err(error) = self.stop_recording(&id, Reason::StreamEnded).await {
            // Its publisher is gone in a moment: it is finished a little later.
            logging::tell(Level::Error, &error.to_string(), &[("room", room), ("recording", &id)]);
        }
    }

    pub async fn recording(&self, id: &str) -> Result<Option<WholeRecording>, Refusal> {
        let found = self.store.recording(id).await?;
        Ok(match found {
            Some(found) => Some(self.with_sizes(vec![found]).await.remove(0)),
            None => None,
        })
    }

    pub async fn recordings(&self, before: &str, filter: Filter, count: usize) -> Result<Vec<WholeRecording>, Refusal> {
        let found = self.store.recordings_before(before, filter, count).await?;
        Ok(self.with_sizes(found).await)
    }

    /// Of files that grow, how long they are now.
    async fn with_sizes(&self, mut all: Vec<WholeRecording>) -> Vec<WholeRecording> {
        if all.iter().all(|one| one.row.state == FINISHED) {
            return all;
        }
        let files = self.recorder.files();
        let sized = tokio::task::spawn_blocking(move || {
            for one in all.iter_mut().filter(|one| one.row.state != FINISHED) {
                for (name, bytes) in files.sizes(&one.row.id).unwrap_or_default() {
                    match one.files.iter_mut().find(|file| file.name == name) {
                        Some(file) if !file.is_final => file.bytes = bytes,
                        Some(_) => {}
                        None => one.files.push(FileRow { name, bytes, ..FileRow::default() }),
                    }
                }
                if let Some(started_ms) = one.row.started_ms {
                    one.row.duration_ms = now_ms().saturating_sub(started_ms);
                }
            }
            all
        });
        sized.await.unwrap_or_default()
    }

    /// Its files, then its row: one that was killed in between is deleted by the next try.
    pub async fn delete_recording(&self, id: &str) -> Result<(), Refusal> {
        let _turn = self.recorder.turn.lock().await;
        if lock(&self.recorder.policy).open(id).is_some() {
            return Err(Refusal::RecordingOpen);
        }
        let (files, removed) = (self.recorder.files(), id.to_owned());
        let removed = tokio::task::spawn_blocking(move || files.remove(&removed)).await;
        match removed.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(()) => Ok(self.store.delete_recording(id).await?),
            Err(error) => Err(Refusal::RecordingFiles(error.to_string())),
        }
    }

    // ---- the task ----

    /// Takes over what the store and the directory know, then looks after it until the process ends.
    pub async fn begin_recordings(
        self: &Arc<Self>,
        supervisor: Option<std::os::unix::net::UnixDatagram>,
        boot: i32,
        root: PathBuf,
    ) -> Result<(), StoreError> {
        let boot = i64::from(boot);
        self.recorder.boot.store(boot, Ordering::Relaxed);
        *lock(&self.recorder.files) = RecordingFiles::new(root);
        *lock(&self.recorder.supervisor) = supervisor.and_then(|socket| UnixDatagram::from_std(socket).ok()).map(Arc::new);
        let rows = self.store.open_recordings().await?;
        let mut desk = Desk::default();
        let mut changed = Vec::new();
        for row in &rows {
            let open = open_of(row, boot);
            if let Some(source) = open.source {
                desk.since.insert(source.stream, source.since);
            }
            changed.extend((row.boot != boot || row.state != open.phase.name()).then(|| open.id.clone()));
            desk.journals.insert(row.id.clone(), Followed::of(row));
            lock(&self.recorder.policy).restore(open);
        }
        self.save_recordings(changed.into_iter()).await?;
        self.adopt(&mut desk).await?;
        tokio::spawn(self.clone().look_after(desk));
        Ok(())
    }

    /// Directories that the store knows nothing of are listed and finished; nothing is deleted.
    async fn adopt(self: &Arc<Self>, desk: &mut Desk) -> Result<(), StoreError> {
        let files = self.recorder.files();
        let there = tokio::task::spawn_blocking(move || files.ids()).await;
        let there = match there.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(there) if there.is_empty() => return Ok(()),
            Ok(there) => there,
            Err(error) => {
                logging::tell(Level::Error, &format!("recordings cannot be listed: {error}"), &[]);
                return Ok(());
            }
        };
        let known: HashSet<String> = self.store.recording_ids().await?.into_iter().collect();
        let mut rows = Vec::new();
        for id in there.into_iter().filter(|id| !known.contains(id)) {
            let begun_ms = id.strip_prefix("rec_").and_then(ids::decode).map_or(0, |bytes| {
                bytes.iter().take(6).fold(0, |time, byte| time << 8 | u64::from(*byte))
            });
            let open = Open { id: id.clone(), room: String::new(), phase: Phase::Finishing, source: None, reason: Some(Reason::Found) };
            let row = self.recorder.row(&open, "found", String::new(), begun_ms);
            desk.journals.insert(id, Followed::of(&row));
            lock(&self.recorder.policy).restore(open);
            rows.push(row);
        }
        if !rows.is_empty() {
            logging::tell(Level::Warn, &format!("{} recordings were found that nobody knew of: they are finished", rows.len()), &[]);
            self.store.save_recordings(rows, None).await?;
        }
        Ok(())
    }

    async fn look_after(self: Arc<Self>, mut desk: Desk) {
        // Until an engine was asked, nobody knows which streams there are, and what runs goes on as it was told.
        let mut synced = self.synced.subscribe();
        if synced.wait_for(|synced| *synced).await.is_err() {
            return;
        }
        loop {
            self.look(&mut desk).await;
            tokio::time::sleep(LOOK_PAUSE).await;
            let is_idle = lock(&self.recorder.policy).all().next().is_none();
            let wait = if is_idle { IDLE_WAIT } else { LOOK_WAIT };
            let _ = tokio::time::timeout(wait, self.recorder.wake.notified()).await;
        }
    }

    async fn look(self: &Arc<Self>, desk: &mut Desk) {
        {
            let _turn = self.recorder.turn.lock().await;
            let streams = self.streams();
            desk.since.retain(|id, _| streams.iter().any(|stream| stream.id == *id));
            let fact = |stream: &StreamView, desk: &mut Desk| {
                let since = *desk.since.entry(stream.id).or_insert_with(|| since_of(stream));
                fact_of(stream, since)
            };
            // What the API began with a number of its own keeps that.
            for source in lock(&self.recorder.policy).all().filter_map(|open| open.source) {
                if streams.iter().any(|stream| stream.id == source.stream) {
                    desk.since.insert(source.stream, source.since);
                }
            }
            let facts: Vec<StreamFact> = streams.iter().map(|stream| fact(stream, desk)).collect();
            let changed = lock(&self.recorder.policy).observe(now_ms(), &facts);
            desk.dirty.extend(changed);
            if !desk.dirty.is_empty() {
                match self.save_recordings(desk.dirty.iter().cloned()).await {
                    Ok(()) => desk.dirty.clear(),
                    Err(error) => logging::tell(Level::Error, &error.to_string(), &[]),
                }
            }
            // Why the last one ended must stand there first.
            if desk.dirty.is_empty() {
                self.start_by_itself(desk, &streams, &facts).await;
            }
        }
        self.tell_supervisor(desk);
        if desk.followed_at.is_some_and(|at| at.elapsed() < FOLLOW_WAIT) {
            return;
        }
        desk.followed_at = Some(Instant::now());
        self.hear_supervisor().await;
        let open: Vec<Open> = lock(&self.recorder.policy).all().cloned().collect();
        desk.journals.retain(|id, _| open.iter().any(|open| open.id == *id));
        for open in &open {
            self.follow(desk, open).await;
        }
        // The next one's turn to be finished.
        self.tell_supervisor(desk);
    }

    /// Rooms with `record: auto` whose publisher is not recorded yet.
    async fn start_by_itself(self: &Arc<Self>, desk: &mut Desk, streams: &[StreamView], facts: &[StreamFact]) {
        desk.passed.retain(|id| facts.iter().any(|fact| fact.source.stream == *id && fact.has_publisher));
        let name_of = |fact: &StreamFact| {
            let stream = streams.iter().find(|stream| stream.id == fact.source.stream);
            stream.map_or(String::new(), |stream| ids::stream(stream.id, stream.began_ms))
        };
        let unrecorded: Vec<StreamFact> = {
            let policy = lock(&self.recorder.policy);
            policy.unrecorded(facts).into_iter().filter(|fact| !desk.passed.contains(&fact.source.stream)).cloned().collect()
        };
        if unrecorded.is_empty() {
            return;
        }
        let asked = unrecorded.iter().map(|fact| (fact.room.clone(), name_of(fact))).collect();
        let modes = match self.store.record_modes(asked).await {
            Ok(modes) => modes,
            Err(error) => return logging::tell(Level::Error, &error.to_string(), &[]),
        };
        for fact in &unrecorded {
            let found = modes.iter().find(|(room, ..)| *room == fact.room);
            let mode = found.and_then(|(_, mode, _)| Mode::from_name(mode.as_deref()?)).unwrap_or_default();
            let last = found.and_then(|(_, _, last)| Reason::from_name(last.as_deref()?));
            // Whoever stopped it did not mean: until the next look. What failed fails again.
            let was_stopped = matches!(last, Some(Reason::Stopped | Reason::StreamEnded | Reason::Failed));
            if mode != Mode::Auto || was_stopped {
                desk.passed.insert(fact.source.stream);
                continue;
            }
            let Some(id) = ids::fresh("rec", now_ms()) else { continue };
            let begun = lock(&self.recorder.policy).start(id.clone(), &fact.room, mode, Some(fact));
            match begun {
                Ok(open) => {
                    let row = self.recorder.row(&open, "auto", name_of(fact), now_ms());
                    if let Err(error) = self.store.save_recordings(vec![row], None).await {
                        logging::tell(Level::Error, &error.to_string(), &[("room", &fact.room)]);
                        lock(&self.recorder.policy).close(&id);
                    }
                }
                Err(refusal) => {
                    desk.passed.insert(fact.source.stream);
                    let (code, detail) = (refusal.code(), refusal.to_string());
                    self.count_failed("", &fact.room, code, &detail);
                    let draft = self.draft_failed("", &fact.room, now_ms(), code, &detail);
                    // Nothing is written of it: there is no recording.
                    self.log.tell(event_log::Event { is_kept: false, ..draft });
                }
            }
        }
    }

    /// Writes down what is wanted of these; one that is over is not written any more.
    async fn save_recordings(&self, ids: impl Iterator<Item = String>) -> Result<(), StoreError> {
        let opens: Vec<Open> = {
            let policy = lock(&self.recorder.policy);
            ids.filter_map(|id| policy.open(&id).cloned()).collect()
        };
        let streams = self.streams();
        let mut rows = Vec::new();
        for open in opens {
            let Some(known) = self.store.recording(&open.id).await?.map(|known| known.row) else { continue };
            let now = open.source.and_then(|source| streams.iter().find(|stream| stream.id == source.stream));
            let stream = now.map_or(known.stream, |stream| ids::stream(stream.id, stream.began_ms));
            rows.push(self.recorder.row(&open, &known.begun_by, stream, known.created_ms));
        }
        if rows.is_empty() { Ok(()) } else { self.store.save_recordings(rows, None).await }
    }

    fn tell_supervisor(&self, desk: &mut Desk) {
        let wants = lock(&self.recorder.policy).wants();
        let run = |source: Option<Source>| match source {
            Some(source) => Run::Record { stream: source.stream.index, generation: source.stream.generation, since_ns: source.since.0 },
            None => Run::Finish,
        };
        let wanted: Vec<Wanted> = wants.into_iter().map(|want| Wanted { recording: want.id, run: run(want.source) }).collect();
        if desk.told.as_ref().is_some_and(|(told, at)| *told == wanted && at.elapsed() < TELL_WAIT) {
            return;
        }
        let Some(supervisor) = lock(&self.recorder.supervisor).clone() else { return };
        // Full: the next look tells it.
        desk.told = supervisor.try_send(write_list(&wanted).as_bytes()).is_ok().then(|| (wanted, Instant::now()));
    }

    async fn hear_supervisor(self: &Arc<Self>) {
        let Some(supervisor) = lock(&self.recorder.supervisor).clone() else { return };
        let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
        while let Ok(length) = supervisor.try_recv(&mut bytes) {
            let Some(trouble) = Trouble::parse(bytes.get(..length).unwrap_or_default()) else { continue };
            let Some(open) = lock(&self.recorder.policy).open(&trouble.recording).cloned() else { continue };
            let (code, detail) = ("recorder_failed", trouble.detail);
            self.count_failed(&open.id, &open.room, code, &detail);
            let drafts = self.drafts(vec![self.draft_failed(&open.id, &open.room, now_ms(), code, &detail)]);
            if let Err(error) = self.store.note_recording(&open.id, Step::Failed { code: code.to_owned(), detail }, drafts).await {
                logging::tell(Level::Error, &error.to_string(), &[("recording", &open.id)]);
            }
        }
    }

    /// Reads what is new in a journal.
    async fn follow(self: &Arc<Self>, desk: &mut Desk, open: &Open) {
        for _ in 0..PIECES_MAX {
            if !desk.journals.contains_key(&open.id) {
                let Ok(Some(known)) = self.store.recording(&open.id).await else { return };
                desk.journals.insert(open.id.clone(), Followed::of(&known.row));
            }
            let Some(followed) = desk.journals.get_mut(&open.id) else { return };
            let (files, id, from) = (self.recorder.files(), open.id.clone(), followed.journal);
            let read = tokio::task::spawn_blocking(move || {
                let bytes: u64 = files.sizes(&id).unwrap_or_default().iter().map(|(_, bytes)| bytes).sum();
                (files.journal(&id, from), bytes)
            });
            let Ok((Ok(piece), bytes)) = read.await else { return };
            lock(&self.recorder.counts).bytes += bytes.saturating_sub(followed.bytes);
            followed.bytes = bytes;
            let (lines, whole) = journal::lines(&piece);
            if whole == 0 {
                return;
            }
            let to = followed.journal + whole as u64;
            let steps = lines.iter().flat_map(steps_of).collect();
            let has_any = followed.has_started || followed.bytes > 0 || lines.iter().any(|line| has_begun(&line.event));
            let events = lines.iter().filter_map(|line| self.draft_of(open, line, has_any)).collect();
            match self.store.follow_recording(&open.id, followed.journal, to, steps, self.drafts(events)).await {
                Ok(true) => followed.journal = to,
                Ok(false) => {
                    // Another control was here, or it was deleted: look at the row anew.
                    desk.journals.remove(&open.id);
                    continue;
                }
                Err(error) => return logging::tell(Level::Error, &error.to_string(), &[("recording", &open.id)]),
            }
            for line in lines {
                if self.heed(desk, open, &line).await {
                    return;
                }
            }
        }
    }

    /// What is told of a line. `has_any`: there is something of the recording.
    fn draft_of(&self, open: &Open, line: &Line, has_any: bool) -> Option<event_log::Event> {
        let (kind, mut data) = match &line.event {
            Event::Started { codecs, file } => ("recording.started", json!({ "file": file, "codecs": codecs })),
            Event::Segment(segment) => {
                let path = format!("{}/{}", open.id, segment.file);
                let (size, sha256, duration_ms) = (segment.bytes, &segment.sha256, segment.duration_ms);
                let data = json!({ "file": segment.file, "path": path, "size": size, "sha256": sha256, "duration_ms": duration_ms });
                ("recording.segment", data)
            }
            Event::Gap { file, at_ms, length_ms, reason } => {
                let reason = reason_name(*reason);
                ("recording.gap", json!({ "file": file, "at_ms": at_ms, "length_ms": length_ms, "reason": reason }))
            }
            Event::Failed { code, detail } => return Some(self.draft_failed(&open.id, &open.room, line.at, code, detail)),
            Event::Stopped { duration_ms, bytes, files } if has_any || *files > 0 => {
                let reason = open.reason.map(Reason::name);
                ("recording.stopped", json!({ "duration_ms": duration_ms, "size": bytes, "files": files, "reason": reason }))
            }
            _ => return None,
        };
        data["id"] = json!(open.id);
        Some(self.log.draft(kind, Some(open.room.clone()).filter(|room| !room.is_empty()), line.at, &data))
    }

    /// What a line that is written down means to us; true: nothing more comes of this recording.
    async fn heed(self: &Arc<Self>, desk: &mut Desk, open: &Open, line: &Line) -> bool {
        let Some(followed) = desk.journals.get_mut(&open.id) else { return true };
        followed.has_started |= has_begun(&line.event);
        let say = |kind: &str| logging::tell(Level::Info, kind, &[("room", &open.room), ("recording", &open.id)]);
        match &line.event {
            Event::Started { .. } => say("recording.started"),
            Event::Segment(_) => say("recording.segment"),
            Event::Gap { .. } => {
                lock(&self.recorder.counts).gaps += 1;
                say("recording.gap");
            }
            Event::Failed { code, detail } => {
                self.count_failed(&open.id, &open.room, code, detail);
                if code == journal::FILE_LIMIT {
                    let _turn = self.recorder.turn.lock().await;
                    lock(&self.recorder.policy).stop(&open.id, Reason::Failed);
                    // Written by the next look, however often that takes.
                    desk.dirty.insert(open.id.clone());
                    self.recorder.wake();
                }
            }
            Event::WantKeyframe => {
                let is_due = followed.keyframe_at.is_none_or(|at| at.elapsed() >= KEYFRAME_WAIT);
                let stream = self.streams().into_iter().find(|stream| open.source.is_some_and(|source| source.stream == stream.id));
                if let Some(stream) = stream.filter(|_| is_due) {
                    followed.keyframe_at = Some(Instant::now());
                    let service = self.clone();
                    // Whatever comes of it: the next keyframe mends the picture as well.
                    tokio::spawn(async move { service.request_keyframe(&stream).await.map(drop) });
                }
            }
            Event::Stopped { files, .. } => {
                let is_nothing = *files == 0 && !followed.has_started && followed.bytes == 0;
                desk.journals.remove(&open.id);
                lock(&self.recorder.policy).close(&open.id);
                if is_nothing {
                    // A publisher that never sent anything: there is nothing to keep.
                    if let Err(error) = self.delete_recording(&open.id).await {
                        logging::tell(Level::Warn, &error.to_string(), &[("recording", &open.id)]);
                    }
                    return true;
                }
                say("recording.stopped");
                return true;
            }
            Event::File { .. } | Event::Resumed { .. } | Event::Warning { .. } | Event::Unknown => {}
        }
        false
    }

    fn count_failed(&self, id: &str, room: &str, code: &str, detail: &str) {
        lock(&self.recorder.counts).failures += 1;
        logging::tell(Level::Error, &format!("recording.failed: {code}: {detail}"), &[("room", room), ("recording", id)]);
    }

    fn draft_failed(&self, id: &str, room: &str, at_ms: u64, code: &str, detail: &str) -> event_log::Event {
        let data = json!({ "id": Some(id).filter(|id| !id.is_empty()), "code": code, "detail": detail });
        self.log.draft("recording.failed", Some(room.to_owned()).filter(|room| !room.is_empty()), at_ms, &data)
    }

    /// Something about streams may have changed.
    pub(super) fn wake_recorder(&self) {
        self.recorder.wake();
    }
}

impl Followed {
    fn of(row: &RecordingRow) -> Followed {
        Followed { journal: row.journal, has_started: row.started_ms.is_some(), bytes: 0, keyframe_at: None }
    }
}

/// When the stream's tracks were attached, on the engine's clock. A wall clock that was set meanwhile moves it, but never
/// beyond now, and a reel that is used again is made anew before anything is in it.
fn since_of(stream: &StreamView) -> Time {
    let age_ns = now_ms().saturating_sub(stream.began_ms).saturating_mul(1_000_000);
    Time(monotonic_now().0.saturating_sub(age_ns))
}

fn fact_of(stream: &StreamView, since: Time) -> StreamFact {
    let source = Source { stream: stream.id, since };
    StreamFact { room: stream.room.clone(), source, has_publisher: stream.publisher.is_some() }
}

/// There is something of the recording.
fn has_begun(event: &Event) -> bool {
    matches!(event, Event::Started { .. } | Event::Segment(_))
}

fn reason_name(reason: GapReason) -> String {
    serde_json::to_value(reason).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// What the store notes of a line.
fn steps_of(line: &Line) -> Vec<Step> {
    let file = |name: &String, codecs: &Vec<String>| Step::File { name: name.clone(), codecs: codecs.clone() };
    match &line.event {
        Event::Started { file: name, codecs } => vec![Step::Started { at_ms: line.at }, file(name, codecs)],
        Event::File { file: name, codecs } => vec![file(name, codecs)],
        Event::Gap { file, at_ms, length_ms, reason } => {
            let reason = reason_name(*reason);
            vec![Step::Gap(GapRow { file: file.clone(), at_ms: *at_ms, length_ms: *length_ms, reason })]
        }
        Event::Warning { code, detail } => vec![Step::Warning { code: code.clone(), detail: detail.clone() }],
        Event::Failed { code, detail } => vec![Step::Failed { code: code.clone(), detail: detail.clone() }],
        Event::Segment(segment) => vec![Step::Final(FileRow {
            name: segment.file.clone(),
            codecs: Vec::new(),
            is_final: true,
            bytes: segment.bytes,
            sha256: Some(segment.sha256.clone()),
            duration_ms: segment.duration_ms,
            started_ms: Some(segment.started_at),
            width: segment.width,
            height: segment.height,
            frames: segment.frames,
        })],
        Event::Stopped { duration_ms, .. } => vec![Step::Stopped { at_ms: line.at, duration_ms: *duration_ms }],
        Event::Resumed { .. } | Event::WantKeyframe | Event::Unknown => Vec::new(),
    }
}
