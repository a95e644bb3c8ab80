//! Recordings in the store: what was asked for, how far its journal was read, and what the journal said. What a journal's
//! line leads to is written in the same transaction as how far it was read, so that no line counts twice; the events that
//! tell of it as well, so that none is lost.

use super::{Drafts, Record, Store, StoreError, idempotency};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Gaps and warnings of one recording that are kept by name; more are counted.
pub const GAPS_KEPT_MAX: u64 = 200;
const WARNINGS_KEPT_MAX: usize = 20;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecordingRow {
    pub id: String,
    pub room: String,
    /// As the API names it; empty: nobody knows.
    pub stream: String,
    /// The stream's number and generation in the engine, and since when it counts (CLOCK_MONOTONIC).
    pub source: Option<(u32, u32, u64)>,
    /// auto, manual or found.
    pub begun_by: String,
    /// As `policy::recordings::Phase` has it, or `finished`.
    pub state: String,
    pub away_ms: Option<u64>,
    pub reason: Option<String>,
    /// Of the node that recorded it.
    pub boot: i64,
    /// Bytes of the journal that were read.
    pub journal: u64,
    pub created_ms: u64,
    /// Its first fragment stood on the disk.
    pub started_ms: Option<u64>,
    pub stopped_ms: Option<u64>,
    pub duration_ms: u64,
    pub gaps: u64,
    pub gaps_ms: u64,
    /// Code and detail of the last failure.
    pub error: Option<(String, String)>,
    /// Code and detail, of each code the first.
    pub warnings: Vec<(String, String)>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FileRow {
    pub name: String,
    pub codecs: Vec<String>,
    /// It changes no more; what is below is known then.
    pub is_final: bool,
    pub bytes: u64,
    pub sha256: Option<String>,
    pub duration_ms: u64,
    pub started_ms: Option<u64>,
    pub width: u32,
    pub height: u32,
    pub frames: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GapRow {
    pub file: String,
    pub at_ms: u64,
    pub length_ms: u64,
    pub reason: String,
}

/// A recording with all that belongs to it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WholeRecording {
    pub row: RecordingRow,
    pub files: Vec<FileRow>,
    pub gaps: Vec<GapRow>,
}

/// What lines of a journal lead to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Started { at_ms: u64 },
    File { name: String, codecs: Vec<String> },
    Final(FileRow),
    Gap(GapRow),
    Warning { code: String, detail: String },
    Failed { code: String, detail: String },
    Stopped { at_ms: u64, duration_ms: u64 },
}

/// Which recordings are listed; None: all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub room: Option<String>,
    pub state: Option<String>,
}

pub const FINISHED: &str = "finished";

const COLUMNS: &str = "id, room, stream, source_index, source_generation, source_since, begun_by, state, away_ms, reason, \
                       boot, journal, created_ms, started_ms, stopped_ms, duration_ms, gaps, gaps_ms, error_code, \
                       error_detail, warnings";

fn number(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(index).map(i64::unsigned_abs)
}

fn maybe(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(index)?.map(i64::unsigned_abs))
}

fn recording(row: &Row<'_>) -> rusqlite::Result<RecordingRow> {
    let source = match (row.get::<_, Option<u32>>(3)?, row.get::<_, Option<u32>>(4)?, maybe(row, 5)?) {
        (Some(index), Some(generation), Some(since)) => Some((index, generation, since)),
        _ => None,
    };
    let error: Option<String> = row.get(18)?;
    let warnings: String = row.get(20)?;
    Ok(RecordingRow {
        id: row.get(0)?,
        room: row.get(1)?,
        stream: row.get(2)?,
        source,
        begun_by: row.get(6)?,
        state: row.get(7)?,
        away_ms: maybe(row, 8)?,
        reason: row.get(9)?,
        boot: row.get(10)?,
        journal: number(row, 11)?,
        created_ms: number(row, 12)?,
        started_ms: maybe(row, 13)?,
        stopped_ms: maybe(row, 14)?,
        duration_ms: number(row, 15)?,
        gaps: number(row, 16)?,
        gaps_ms: number(row, 17)?,
        error: error.map(|code| Ok::<_, rusqlite::Error>((code, row.get(19)?))).transpose()?,
        warnings: serde_json::from_str(&warnings).unwrap_or_default(),
    })
}

fn file(row: &Row<'_>) -> rusqlite::Result<FileRow> {
    let codecs: String = row.get(1)?;
    Ok(FileRow {
        name: row.get(0)?,
        codecs: codecs.split(',').filter(|codec| !codec.is_empty()).map(str::to_owned).collect(),
        is_final: row.get(2)?,
        bytes: number(row, 3)?,
        sha256: row.get(4)?,
        duration_ms: number(row, 5)?,
        started_ms: maybe(row, 6)?,
        width: row.get(7)?,
        height: row.get(8)?,
        frames: number(row, 9)?,
    })
}

fn find(db: &Connection, id: &str) -> rusqlite::Result<Option<RecordingRow>> {
    let sql = format!("SELECT {COLUMNS} FROM recordings WHERE id = ?1");
    db.prepare_cached(&sql)?.query_row([id], recording).optional()
}

fn whole(db: &Connection, row: RecordingRow) -> rusqlite::Result<WholeRecording> {
    let sql = "SELECT name, codecs, final, bytes, sha256, duration_ms, started_ms, width, height, frames
               FROM recording_files WHERE recording = ?1 ORDER BY name";
    let files = db.prepare_cached(sql)?.query_map([&row.id], file)?.collect::<rusqlite::Result<_>>()?;
    let sql = "SELECT file, at_ms, length_ms, reason FROM recording_gaps WHERE recording = ?1 ORDER BY number";
    let gap = |row: &Row<'_>| Ok(GapRow { file: row.get(0)?, at_ms: number(row, 1)?, length_ms: number(row, 2)?, reason: row.get(3)? });
    let gaps = db.prepare_cached(sql)?.query_map([&row.id], gap)?.collect::<rusqlite::Result<_>>()?;
    Ok(WholeRecording { row, files, gaps })
}

/// Of a row, all that is not the journal's.
fn save(db: &Connection, row: &RecordingRow) -> rusqlite::Result<()> {
    let sql = "INSERT INTO recordings (id, room, stream, source_index, source_generation, source_since, begun_by, state, away_ms,
                   reason, boot, created_ms)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
               ON CONFLICT (id) DO UPDATE SET stream = ?3, source_index = ?4, source_generation = ?5, source_since = ?6, state = ?8,
                   away_ms = ?9, reason = ?10, boot = ?11";
    let source = row.source;
    db.prepare_cached(sql)?.execute(params![
        row.id,
        row.room,
        row.stream,
        source.map(|source| source.0),
        source.map(|source| source.1),
        source.map(|source| source.2 as i64),
        row.begun_by,
        row.state,
        row.away_ms.map(|ms| ms as i64),
        row.reason,
        row.boot,
        row.created_ms as i64
    ])?;
    Ok(())
}

fn apply(db: &Connection, id: &str, step: &Step) -> rusqlite::Result<()> {
    match step {
        Step::Started { at_ms } => {
            let sql = "UPDATE recordings SET started_ms = coalesce(started_ms, ?2) WHERE id = ?1";
            db.prepare_cached(sql)?.execute(params![id, *at_ms as i64])?;
        }
        Step::File { name, codecs } => {
            let sql = "INSERT INTO recording_files (recording, name, codecs) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
            db.prepare_cached(sql)?.execute(params![id, name, codecs.join(",")])?;
        }
        Step::Final(file) => {
            let sql = "INSERT INTO recording_files
                           (recording, name, codecs, final, bytes, sha256, duration_ms, started_ms, width, height, frames)
                       VALUES (?1, ?2, '', 1, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                       ON CONFLICT (recording, name) DO UPDATE SET final = 1, bytes = ?3, sha256 = ?4, duration_ms = ?5,
                           started_ms = ?6, width = ?7, height = ?8, frames = ?9";
            db.prepare_cached(sql)?.execute(params![
                id,
                file.name,
                file.bytes as i64,
                file.sha256,
                file.duration_ms as i64,
                file.started_ms.map(|ms| ms as i64),
                file.width,
                file.height,
                file.frames as i64
            ])?;
        }
        Step::Gap(gap) => {
            let sql = "UPDATE recordings SET gaps = gaps + 1, gaps_ms = gaps_ms + ?2 WHERE id = ?1 RETURNING gaps";
            let gaps = db.prepare_cached(sql)?.query_row(params![id, gap.length_ms as i64], |row| number(row, 0))?;
            if gaps <= GAPS_KEPT_MAX {
                let sql = "INSERT INTO recording_gaps VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
                let (at, length) = (gap.at_ms as i64, gap.length_ms as i64);
                db.prepare_cached(sql)?.execute(params![id, gaps as i64, gap.file, at, length, gap.reason])?;
            }
        }
        Step::Warning { code, detail } => {
            let Some(mut row) = find(db, id)? else { return Ok(()) };
            if row.warnings.len() < WARNINGS_KEPT_MAX && row.warnings.iter().all(|(known, _)| known != code) {
                row.warnings.push((code.clone(), detail.clone()));
                let text = serde_json::to_string(&row.warnings).unwrap_or_default();
                db.prepare_cached("UPDATE recordings SET warnings = ?2 WHERE id = ?1")?.execute(params![id, text])?;
            }
        }
        Step::Failed { code, detail } => {
            let sql = "UPDATE recordings SET error_code = ?2, error_detail = ?3 WHERE id = ?1";
            db.prepare_cached(sql)?.execute(params![id, code, detail])?;
        }
        Step::Stopped { at_ms, duration_ms } => {
            let sql = "UPDATE recordings SET state = 'finished', stopped_ms = ?2, duration_ms = ?3, away_ms = NULL WHERE id = ?1";
            db.prepare_cached(sql)?.execute(params![id, *at_ms as i64, *duration_ms as i64])?;
        }
    }
    Ok(())
}

impl Store {
    /// Writes down what is wanted of it; how far its journal was read, and what that said, stays.
    pub async fn save_recordings(&self, rows: Vec<RecordingRow>, record: Option<Record>) -> Result<(), StoreError> {
        self.run(move |db| {
            rows.iter().try_for_each(|row| save(db, row))?;
            idempotency::save(db, record)
        })
        .await
    }

    pub async fn recording(&self, id: &str) -> Result<Option<WholeRecording>, StoreError> {
        let id = id.to_owned();
        self.run(move |db| find(db, &id)?.map(|row| whole(db, row)).transpose()).await
    }

    /// Newest first, before `before` (empty: from the newest on).
    pub async fn recordings_before(
        &self,
        before: &str,
        filter: Filter,
        count: usize,
    ) -> Result<Vec<WholeRecording>, StoreError> {
        let before = before.to_owned();
        self.run(move |db| {
            let sql = format!(
                "SELECT {COLUMNS} FROM recordings WHERE (?1 = '' OR id < ?1) AND (?2 IS NULL OR room = ?2)
                 AND (?3 IS NULL OR state = ?3) ORDER BY id DESC LIMIT ?4"
            );
            let rows: Vec<RecordingRow> = db
                .prepare_cached(&sql)?
                .query_map(params![before, filter.room, filter.state, count as i64], recording)?
                .collect::<rusqlite::Result<_>>()?;
            rows.into_iter().map(|row| whole(db, row)).collect()
        })
        .await
    }

    /// Those that are not final.
    pub async fn open_recordings(&self) -> Result<Vec<RecordingRow>, StoreError> {
        self.run(|db| {
            let sql = format!("SELECT {COLUMNS} FROM recordings WHERE state != 'finished' ORDER BY id");
            db.prepare_cached(&sql)?.query_map([], recording)?.collect()
        })
        .await
    }

    /// Every id there is: whose directory has another name is nobody's.
    pub async fn recording_ids(&self) -> Result<Vec<String>, StoreError> {
        self.run(|db| db.prepare_cached("SELECT id FROM recordings")?.query_map([], |row| row.get(0))?.collect()).await
    }

    /// What the rooms' settings say, and why the last recording of each stream ended, if one did.
    pub async fn record_modes(
        &self,
        rooms: Vec<(String, String)>,
    ) -> Result<Vec<(String, Option<String>, Option<String>)>, StoreError> {
        self.run(move |db| {
            let mode = "SELECT record FROM rooms WHERE name = ?1";
            let last = "SELECT reason FROM recordings WHERE stream = ?1 ORDER BY id DESC LIMIT 1";
            let all = rooms.into_iter().map(|(room, stream)| {
                let mode: Option<Option<String>> = db.prepare_cached(mode)?.query_row([&room], |row| row.get(0)).optional()?;
                let last: Option<Option<String>> = db.prepare_cached(last)?.query_row([&stream], |row| row.get(0)).optional()?;
                Ok((room, mode.flatten(), last.flatten()))
            });
            all.collect()
        })
        .await
    }

    /// Takes note of lines up to `journal`, which led to `steps`; false: somebody else has, or it is gone.
    pub async fn follow_recording(
        &self,
        id: &str,
        from: u64,
        journal: u64,
        steps: Vec<Step>,
        drafts: Drafts,
    ) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.run_telling(drafts.log, move |db| {
            let sql = "UPDATE recordings SET journal = ?3 WHERE id = ?1 AND journal = ?2";
            if db.prepare_cached(sql)?.execute(params![id, from as i64, journal as i64])? == 0 {
                return Ok((false, Vec::new()));
            }
            steps.iter().try_for_each(|step| apply(db, &id, step))?;
            Ok((true, drafts.events))
        })
        .await
    }

    /// What no journal told.
    pub async fn note_recording(&self, id: &str, step: Step, drafts: Drafts) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.run_telling(drafts.log, move |db| apply(db, &id, &step).map(|()| ((), drafts.events))).await
    }

    pub async fn delete_recording(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.run(move |db| db.prepare_cached("DELETE FROM recordings WHERE id = ?1")?.execute([&id]).map(drop)).await
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::data_dir::tests::Scratch;
    use crate::event_log::EventLog;
    use std::sync::Arc;

    fn untold() -> Drafts {
        Drafts { log: Arc::new(EventLog::default()), events: Vec::new() }
    }

    pub fn row(id: &str) -> RecordingRow {
        RecordingRow {
            id: id.into(),
            room: "demo".into(),
            stream: "st_1".into(),
            source: Some((3, 7, 1 << 60)),
            begun_by: "auto".into(),
            state: "recording".into(),
            boot: 5,
            created_ms: 1_000,
            ..RecordingRow::default()
        }
    }

    fn gap(at_ms: u64) -> Step {
        Step::Gap(GapRow { file: "0001.mp4".into(), at_ms, length_ms: 10, reason: "loss".into() })
    }

    #[tokio::test]
    async fn a_journals_lines_count_once_and_survive_a_restart() {
        let data = Scratch::new();
        let store = Store::open(&data.0).unwrap();
        store.save_recordings(vec![row("rec_1")], None).await.unwrap();
        let first = vec![
            Step::Started { at_ms: 2_000 },
            Step::File { name: "0001.mp4".into(), codecs: vec!["H264".into(), "opus".into()] },
            gap(5),
        ];
        assert!(store.follow_recording("rec_1", 0, 100, first.clone(), untold()).await.unwrap());
        // A control before this one had read as far, and its transaction counted.
        assert!(!store.follow_recording("rec_1", 0, 100, first, untold()).await.unwrap());
        drop(store);
        let store = Store::open(&data.0).unwrap();
        // What is wanted of it changes nothing that the journal said.
        store.save_recordings(vec![RecordingRow { state: "finishing".into(), source: None, ..row("rec_1") }], None).await.unwrap();
        let sha256 = Some("ab".repeat(32));
        let last = FileRow { name: "0001.mp4".into(), bytes: 77, sha256: sha256.clone(), duration_ms: 900, started_ms: Some(2_000), frames: 27, width: 640, height: 360, ..FileRow::default() };
        let steps = vec![
            Step::Final(last),
            Step::Warning { code: "b_frames".into(), detail: "a".into() },
            Step::Warning { code: "b_frames".into(), detail: "b".into() },
            Step::Failed { code: "disk_full".into(), detail: "it goes on".into() },
            Step::Stopped { at_ms: 3_000, duration_ms: 900 },
        ];
        assert!(store.follow_recording("rec_1", 100, 300, steps, untold()).await.unwrap());
        let found = store.recording("rec_1").await.unwrap().unwrap();
        let of = &found.row;
        assert_eq!((of.journal, of.started_ms, of.stopped_ms, of.duration_ms), (300, Some(2_000), Some(3_000), 900));
        assert_eq!((of.state.as_str(), of.gaps, of.gaps_ms, of.source), (FINISHED, 1, 10, None));
        assert_eq!(of.warnings, [("b_frames".to_owned(), "a".to_owned())]);
        assert_eq!(of.error, Some(("disk_full".into(), "it goes on".into())));
        let file = &found.files[0];
        assert_eq!((file.codecs.len(), file.is_final, file.bytes, file.frames, &file.sha256), (2, true, 77, 27, &sha256));
        assert_eq!(found.gaps, [GapRow { file: "0001.mp4".into(), at_ms: 5, length_ms: 10, reason: "loss".into() }]);
        assert!(store.open_recordings().await.unwrap().is_empty());
        store.delete_recording("rec_1").await.unwrap();
        assert_eq!(store.recording("rec_1").await.unwrap(), None);
    }

    #[tokio::test]
    async fn gaps_beyond_a_bound_are_counted() {
        let data = Scratch::new();
        let store = Store::open(&data.0).unwrap();
        store.save_recordings(vec![row("rec_1")], None).await.unwrap();
        let steps = (0..GAPS_KEPT_MAX + 5).map(gap).collect();
        store.follow_recording("rec_1", 0, 1, steps, untold()).await.unwrap();
        let found = store.recording("rec_1").await.unwrap().unwrap();
        assert_eq!((found.row.gaps, found.gaps.len() as u64), (GAPS_KEPT_MAX + 5, GAPS_KEPT_MAX));
    }

    #[tokio::test]
    async fn lists_are_newest_first_and_filtered() {
        let data = Scratch::new();
        let store = Store::open(&data.0).unwrap();
        let rows = ["rec_1", "rec_2", "rec_3"].map(|id| RecordingRow { room: if id == "rec_2" { "b" } else { "a" }.into(), ..row(id) });
        store.save_recordings(rows.to_vec(), None).await.unwrap();
        store.note_recording("rec_1", Step::Stopped { at_ms: 1, duration_ms: 1 }, untold()).await.unwrap();
        let ids = |found: Vec<WholeRecording>| found.into_iter().map(|one| one.row.id).collect::<Vec<_>>();
        let filter = |room: Option<&str>, state: Option<&str>| Filter { room: room.map(str::to_owned), state: state.map(str::to_owned) };
        assert_eq!(ids(store.recordings_before("", filter(None, None), 2).await.unwrap()), ["rec_3", "rec_2"]);
        assert_eq!(ids(store.recordings_before("rec_2", filter(None, None), 2).await.unwrap()), ["rec_1"]);
        assert_eq!(ids(store.recordings_before("", filter(Some("a"), None), 9).await.unwrap()), ["rec_3", "rec_1"]);
        assert_eq!(ids(store.recordings_before("", filter(None, Some(FINISHED)), 9).await.unwrap()), ["rec_1"]);
        let open: Vec<String> = store.open_recordings().await.unwrap().into_iter().map(|row| row.id).collect();
        assert_eq!(open, ["rec_2", "rec_3"]);
        assert_eq!(store.open_recordings().await.unwrap()[0].source, Some((3, 7, 1 << 60)));
    }
}
