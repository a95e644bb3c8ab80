//! What tests of the API share: control over real HTTP on a real link, with an engine of the imagination on a thread.

use super::{Bounded, app};
use crate::config::{Config, Settings};
use crate::service::Service;
use crate::auth::{Grant, Role, SigningKey, mint};
use crate::engine_link::EngineLink;
use crate::shm::{Wake, heap_link};
use crate::store::Store;
use spillway_proto::id::{Codec, FeedId, SessionId, Side, StreamId, TrackId};
use spillway_proto::link::command::{Answer, Command, DumpEntry, Fingerprint, KeyframeOutcome, Note, SessionState, Status, dump_fits};
use spillway_proto::link::event::{CloseReason, Event};
use spillway_proto::link::layout::{EngineFacts, IoKind, Link};
use spillway_proto::link::ring::{CommandReader, EventWriter, Received};
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub const PUBLISH: &str = include_str!("../../../proto/src/sdp/fixtures/chromium_publish.sdp");
pub const VIEW: &str = include_str!("../../../proto/src/sdp/fixtures/chromium_view.sdp");
pub const FFMPEG: &str = include_str!("../../../proto/src/sdp/fixtures/ffmpeg_publish.sdp");

/// What the engine holds, over all its shards.
#[derive(Default)]
pub struct Tables {
    pub next: u32,
    pub sessions: Vec<(usize, SessionId, Side, Note)>,
    pub tracks: Vec<(usize, TrackId, StreamId, SessionId, Codec, Note)>,
    pub feeds: Vec<(usize, FeedId, SessionId, TrackId)>,
    pub commands: Vec<Command>,
    /// It knows no command of this build's alone.
    pub is_older: bool,
    /// Answers are held back while this is set.
    pub silent: bool,
    /// What clients bring about once they have their answers; it comes as soon as `told` is set.
    pub events: Vec<(usize, Event)>,
    pub told: bool,
}

/// An engine: a thread that executes commands of every shard, connects what is added and feeds what is attached.
pub struct Engine {
    pub tables: Arc<Mutex<Tables>>,
    pub stop: Arc<AtomicBool>,
    pub thread: Option<std::thread::JoinHandle<()>>,
}

impl Engine {
    pub fn start(link: Link, control_wake: Wake) -> Engine {
        let tables = Arc::new(Mutex::new(Tables::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let epoch = link.begin_engine_epoch();
        let facts = EngineFacts { fingerprint: Fingerprint([7; 32]), io: IoKind::Socket, gso_segments: 0 };
        let thread = {
            let (tables, stop) = (tables.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut shards: Vec<(CommandReader, EventWriter)> =
                    (0..link.shards()).map(|shard| (link.commands_reader(shard), link.events_writer(shard))).collect();
                link.set_engine_ready(facts);
                control_wake.wake();
                while !stop.load(Ordering::Relaxed) {
                    let mut worked = false;
                    for (shard, (reader, writer)) in shards.iter_mut().enumerate() {
                        let mut tables = tables.lock().unwrap();
                        if tables.silent {
                            continue;
                        }
                        if tables.told {
                            let mine: Vec<(usize, Event)> = tables.events.extract_if(.., |entry| entry.0 == shard).collect();
                            worked |= !mine.is_empty();
                            for (_, event) in mine {
                                writer.push_or_drop(&event);
                            }
                        }
                        let Some(received) = reader.next(epoch) else { continue };
                        worked = true;
                        if let Received::Command(command) = received {
                            tables.told = false;
                            let (status, answer, events) = tables.execute(shard, command);
                            tables.events.extend(events.into_iter().map(|event| (shard, event)));
                            reader.answer(status, &answer);
                        }
                    }
                    if worked {
                        control_wake.wake();
                    } else {
                        // A shard that finds nothing gives the core away; a real one sleeps on its eventfd.
                        std::thread::park_timeout(Duration::from_micros(200));
                    }
                }
            })
        };
        Engine { tables, stop, thread: Some(thread) }
    }

    pub fn tables(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.tables.lock().unwrap()
    }

    pub fn kill(&mut self, link: Link) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
            link.clear_engine_ready();
        }
    }
}

impl Tables {
    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn execute(&mut self, shard: usize, command: Command) -> (Status, Answer, Vec<Event>) {
        self.commands.push(command.clone());
        let mut events = Vec::new();
        let has = |tables: &Tables, session| tables.sessions.iter().any(|entry| entry.0 == shard && entry.1 == session);
        let answer = match command {
            Command::AddSession { side, note, .. } => {
                let session = SessionId::new(self.number(), 1);
                self.sessions.push((shard, session, side, note));
                events.push(Event::SessionConnected { session, profile: 7 });
                Answer::Session { session }
            }
            Command::AddViewer { note, ref feeds, .. } if !self.is_older => {
                if feeds.iter().any(|(track, _)| self.tracks.iter().all(|entry| entry.1 != *track)) {
                    return (Status::NotFound, Answer::Nothing, events);
                }
                let session = SessionId::new(self.number(), 1);
                self.sessions.push((shard, session, Side::Viewer, note));
                events.push(Event::SessionConnected { session, profile: 7 });
                let mut ssrcs = Vec::new();
                for (track, _) in feeds {
                    let feed = FeedId::new(self.number(), 1);
                    self.feeds.push((shard, feed, session, *track));
                    ssrcs.push((feed.index, 0));
                }
                Answer::Viewer { session, ssrcs }
            }
            Command::AddViewer { .. } => return (Status::Invalid, Answer::Nothing, events),
            Command::RemoveSession { session } => {
                self.sessions.retain(|entry| entry.1 != session);
                self.feeds.retain(|entry| entry.2 != session);
                for track in self.tracks.iter_mut().filter(|track| track.3 == session) {
                    track.3 = SessionId::NONE;
                }
                events.push(Event::SessionClosed { session, reason: CloseReason::Removed });
                Answer::Nothing
            }
            Command::AttachTrack { session, stream, track, facts, note } if has(self, session) => {
                let track = if track.is_none() { TrackId::new(self.number(), 1) } else { track };
                self.tracks.retain(|entry| entry.1 != track);
                self.tracks.push((shard, track, stream, session, facts.codec, note));
                events.push(Event::TrackState { track, live: true });
                Answer::Track { track }
            }
            Command::DetachTrack { track } => {
                self.tracks.retain(|entry| entry.1 != track);
                Answer::Nothing
            }
            Command::SetParameterSets { track, .. } if self.tracks.iter().any(|entry| entry.1 == track) => {
                Answer::Nothing
            }
            Command::AttachFeed { session, track, .. }
                if has(self, session) && self.tracks.iter().any(|entry| entry.1 == track) =>
            {
                let feed = FeedId::new(self.number(), 1);
                self.feeds.push((shard, feed, session, track));
                Answer::Feed { feed, ssrc: feed.index, rtx_ssrc: 0 }
            }
            Command::RequestKeyframe { track } if self.tracks.iter().any(|entry| entry.0 == shard && entry.1 == track) => {
                Answer::Keyframe { outcome: KeyframeOutcome::Asked }
            }
            Command::Dump { cursor } => self.dump(shard, cursor),
            _ => return (Status::NotFound, Answer::Nothing, events),
        };
        (Status::Done, answer, events)
    }

    fn dump(&self, shard: usize, cursor: u32) -> Answer {
        let sessions = self.sessions.iter().filter(|entry| entry.0 == shard).map(|(_, session, side, note)| {
            DumpEntry::Session { session: *session, side: *side, state: SessionState::Connected, note: *note }
        });
        let tracks = self.tracks.iter().filter(|entry| entry.0 == shard).map(|(_, track, stream, session, codec, note)| {
            DumpEntry::Track { track: *track, stream: *stream, session: *session, codec: *codec, note: *note }
        });
        let feeds = self.feeds.iter().filter(|entry| entry.0 == shard).map(|(_, feed, session, track)| {
            DumpEntry::Feed { feed: *feed, session: *session, track: *track }
        });
        let all: Vec<DumpEntry> = sessions.chain(tracks).chain(feeds).collect();
        let mut entries = Vec::new();
        let mut next = cursor;
        while let Some(entry) = all.get(next as usize).filter(|entry| dump_fits(&entries, entry)) {
            entries.push(entry.clone());
            next += 1;
        }
        Answer::Dump { next: (all.len() > next as usize).then_some(next), entries }
    }
}

/// A node: data directory and link that stay, control that comes and goes.
pub struct Node {
    pub data: PathBuf,
    pub link: Link,
    pub key: SigningKey,
    /// What the next control is told.
    pub settings: Settings,
    pub engine: Engine,
    pub control: Option<(tokio::runtime::Runtime, Arc<Service>, SocketAddr)>,
    pub wakes: (Wake, Wake),
    /// The supervisor's end of what control says of recorders, and control's.
    pub recorders: (UnixDatagram, UnixDatagram),
    /// Another one means that the whole node was restarted.
    pub boot: i32,
}

impl Node {
    pub fn new() -> Node {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let data = std::env::temp_dir().join(format!("spillway-api-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&data);
        let key = SigningKey::load_or_create(&data).unwrap();
        let link = heap_link(2);
        let wakes = Wake::pair();
        let engine = Engine::start(link, wakes.0.again());
        let recorders = UnixDatagram::pair().unwrap();
        recorders.0.set_nonblocking(true).unwrap();
        recorders.1.set_nonblocking(true).unwrap();
        let settings = Config::load(None, [], &[]).unwrap().settings();
        let mut node = Node { data, link, key, settings, engine, control: None, wakes, recorders, boot: 1 };
        node.start_control();
        node
    }

    pub fn start_control(&mut self) {
        self.begin_control();
        self.until(|node| node.service().is_ready());
    }

    /// Without waiting until it has taken stock of the engine.
    pub fn begin_control(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (service, address) = runtime.block_on(async {
            let shard_wakes = (0..2).map(|_| Wake::pair().0).collect();
            let store = Store::open(&self.data).unwrap();
            let candidates = vec!["127.0.0.1:7081".parse().unwrap()];
            let link = EngineLink::attach(self.link, shard_wakes);
            let service = Service::new(self.key.clone(), store, link, candidates, self.settings.clone());
            service.begin(self.settings.clone()).await.unwrap();
            let recorders = self.recorders.1.try_clone().unwrap();
            service.begin_recordings(Some(recorders), self.boot, self.data.join("recordings")).await.unwrap();
            tokio::spawn(service.clone().run(self.wakes.1.again().watch().unwrap()));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let serve = axum::serve(Bounded::new(listener), app(service.clone()));
            tokio::spawn(serve.into_future());
            (service, address)
        });
        self.control = Some((runtime, service, address));
    }

    pub fn kill_control(&mut self) {
        if let Some((runtime, ..)) = self.control.take() {
            runtime.shutdown_background();
        }
    }

    /// The next control finds an engine whose tracks have just had packets.
    pub fn restart_control_over_live_tracks(&mut self) {
        self.kill_control();
        for track in &self.engine.tables().tracks {
            let stats = self.link.track_stats(track.1.index as usize);
            stats.reset(1);
            stats.last_packet_at.store(crate::shm::monotonic_now().0, std::sync::atomic::Ordering::Relaxed);
        }
        self.start_control();
    }

    pub fn service(&self) -> &Arc<Service> {
        &self.control.as_ref().unwrap().1
    }

    pub fn until(&self, is_so: impl Fn(&Node) -> bool) {
        let began = std::time::Instant::now();
        while !is_so(self) {
            assert!(began.elapsed() < Duration::from_secs(10), "waited in vain");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    pub fn token(&self, room: &str, role: Role, sub: &str) -> String {
        let ttl = Duration::from_secs(60);
        mint(&self.key, Grant { room: room.into(), role, sub: sub.into(), acct: None, ttl })
    }

    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut stream = TcpStream::connect(self.control.as_ref().unwrap().2).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        // A refused body may be cut off: its answer is what counts.
        let _ = stream.write_all(body.as_bytes());
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        Reply { head: head.to_owned(), body: body.to_owned() }
    }

    pub fn post(&self, path: &str, token: &str, offer: &str) -> Reply {
        let authorization = format!("Bearer {token}");
        self.request("POST", path, &[("Authorization", &authorization), ("Content-Type", "application/sdp")], offer)
    }

    pub fn publish(&self, sub: &str) -> Reply {
        let reply = self.post("/whip/demo", &self.token("demo", Role::Publish, sub), PUBLISH);
        self.engine.tables().told = true;
        reply
    }

    pub fn view(&self) -> Reply {
        let reply = self.post("/whep/demo", &self.token("demo", Role::View, "v"), VIEW);
        self.engine.tables().told = true;
        reply
    }

    /// Publishes and waits until the engine's events have come.
    pub fn live(&self) -> Reply {
        let reply = self.publish("ann");
        assert_eq!(reply.status(), 201, "{}", reply.body);
        self.until(|node| node.service().state("demo").live);
        reply
    }

    pub fn listen(&self, role: Role) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(self.control.as_ref().unwrap().2).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let token = self.token("demo", role, "v");
        let head = format!("GET /v1/rooms/demo/live HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        BufReader::new(stream)
    }

    pub fn delete(&self, path: &str, token: &str) -> Reply {
        self.request("DELETE", path, &[("Authorization", &format!("Bearer {token}"))], "")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill_control();
        self.engine.kill(self.link);
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

pub struct Reply {
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
    pub fn header(&self, name: &str) -> &str {
        let line = self.head.lines().filter_map(|line| line.split_once(": "));
        line.filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value).next().unwrap_or("")
    }
    /// Status and problem code; a problem names itself the same in head and body.
    pub fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}\n{}", self.head, self.body);
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        for field in ["type", "title", "detail", "request_id"] {
            assert!(body[field].is_string(), "{field}");
        }
        assert_eq!(body["status"], self.status());
        assert_eq!(body["retry_after_seconds"].as_u64().map_or(String::new(), |s| s.to_string()), self.header("retry-after"));
        (self.status(), body["code"].as_str().unwrap().to_owned())
    }
    pub fn is(&self, status: u16, code: &str) {
        assert_eq!(self.problem(), (status, code.to_owned()), "{}", self.body);
    }
}
