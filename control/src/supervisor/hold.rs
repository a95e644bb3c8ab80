//! What the supervisor holds so that it outlives its children: the link, the record segment, the reel files,
//! the wake-ups and the sockets. All made at start; nothing is made while a node runs.

use super::media::MediaGroup;
use super::placement::Placement;
use super::sys;
use spillway_proto::limits::PUBLISHERS_MAX;
use spillway_proto::link::handover::{Handover, IoChoice};
use spillway_proto::link::layout::{LINK_BYTES, Link, LinkError};
use spillway_proto::session::record::RECORDS_BYTES;
use spillway_proto::stream::reel::STREAM_FILE_BYTES;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

/// Descriptors besides those below: the standard three, pipes, what a backend opens, control's connections.
const OPEN_FILES_RESERVE: u64 = 1_024;

pub struct Hold {
    link_file: OwnedFd,
    pub link: Link,
    records: OwnedFd,
    reels: Vec<OwnedFd>,
    shard_wake: Vec<OwnedFd>,
    control_wake: OwnedFd,
    pub media: Vec<MediaGroup>,
    pub http: TcpListener,
}

#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    #[error(
        "{needed} open files are needed and {allowed} are allowed; raise the limit: ulimit -Hn {needed} (systemd: LimitNOFILE={needed})"
    )]
    OpenFiles { needed: u64, allowed: u64 },
    #[error("cannot make {what}: {source}; Spillway needs Linux 5.10 or newer, and memory for it")]
    Make { what: &'static str, source: io::Error },
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl Hold {
    pub fn new(http: TcpListener, media: Vec<MediaGroup>, shards: usize) -> Result<Hold, HoldError> {
        let made = |what| move |source| HoldError::Make { what, source };
        let needed = (PUBLISHERS_MAX + (media.len() + 1) * shards) as u64 + OPEN_FILES_RESERVE;
        let allowed = sys::raise_open_files().map_err(made("room for open files"))?;
        if allowed < needed {
            return Err(HoldError::OpenFiles { needed, allowed });
        }
        let link_file = sys::memfd(c"spillway-link", LINK_BYTES as u64).map_err(made("the link"))?;
        let link = sys::create_link(link_file.as_fd(), shards).map_err(made("the link"))??;
        let records = sys::memfd(c"spillway-records", RECORDS_BYTES as u64).map_err(made("the record segment"))?;
        let reels =
            (0..PUBLISHERS_MAX).map(|_| sys::memfd(c"spillway-reel", STREAM_FILE_BYTES as u64)).collect::<Result<_, _>>();
        let shard_wake = (0..shards).map(|_| sys::eventfd()).collect::<Result<_, _>>();
        Ok(Hold {
            link_file,
            link,
            records,
            reels: reels.map_err(made("the reel files"))?,
            shard_wake: shard_wake.map_err(made("the shards' wake-ups"))?,
            control_wake: sys::eventfd().map_err(made("control's wake-up"))?,
            media,
            http,
        })
    }

    /// The engine gets everything but the HTTP listener.
    pub fn for_engine(&self, ready: RawFd, io: IoChoice, placement: &Placement) -> Handover {
        Handover {
            records: Some(self.records.as_raw_fd()),
            media: self.media.iter().map(|group| group.sockets.iter().map(AsRawFd::as_raw_fd).collect()).collect(),
            reels: numbers(&self.reels),
            cores: placement.shards.clone(),
            ..self.for_both(ready, io)
        }
    }

    /// Control gets the link and its listener: no keys, no sockets of media, no reels.
    pub fn for_control(&self, ready: RawFd, io: IoChoice, placement: &Placement) -> Handover {
        Handover { http: Some(self.http.as_raw_fd()), cores: placement.control.clone(), ..self.for_both(ready, io) }
    }

    fn for_both(&self, ready: RawFd, io: IoChoice) -> Handover {
        Handover {
            link: self.link_file.as_raw_fd(),
            ready,
            shard_wake: numbers(&self.shard_wake),
            control_wake: self.control_wake.as_raw_fd(),
            io,
            shards: self.shard_wake.len(),
            ..Handover::default()
        }
    }

    /// The reels of a stream, to be read and not written.
    pub fn reel(&self, stream: u32) -> io::Result<OwnedFd> {
        let reel = usize::try_from(stream).ok().and_then(|index| self.reels.get(index));
        let reel = reel.ok_or_else(|| io::Error::other(format!("there is no stream number {stream}")))?;
        // Opened anew: a copy of the descriptor would be as writable as ours.
        Ok(File::open(format!("/proc/self/fd/{}", reel.as_raw_fd()))?.into())
    }

    /// Control looks at the link.
    pub fn wake_control(&self) {
        // A counter that is full wakes as well.
        let _ = sys::wake(self.control_wake.as_fd());
    }
}

fn numbers(descriptors: &[OwnedFd]) -> Vec<RawFd> {
    descriptors.iter().map(AsRawFd::as_raw_fd).collect()
}

/// Every descriptor a handover names.
pub fn descriptors(handover: &Handover) -> Vec<RawFd> {
    let mut all = vec![handover.link, handover.ready, handover.control_wake];
    all.extend(handover.records);
    all.extend(handover.http);
    all.extend(handover.adapters);
    all.extend(&handover.shard_wake);
    all.extend(handover.media.iter().flatten());
    all.extend(&handover.reels);
    all
}

#[cfg(test)]
mod tests {
    use super::super::media::bind_http;
    use super::*;

    #[test]
    fn control_gets_no_keys_and_the_engine_no_listener() {
        let media = vec![MediaGroup::bind("127.0.0.1:0".parse().unwrap(), 2).unwrap()];
        let hold = Hold::new(bind_http("127.0.0.1:0".parse().unwrap()).unwrap(), media, 2).unwrap();
        let placement = Placement { shards: vec![2, 3], control: vec![0, 1] };
        // Numbers that no open file of this process has: a small one may be the listener's own.
        let (engine_ready, control_ready) = (i32::MAX - 1, i32::MAX);
        let engine = hold.for_engine(engine_ready, IoChoice::Auto, &placement);
        let control = hold.for_control(control_ready, IoChoice::Auto, &placement);
        assert_eq!((control.records, control.media.len(), control.reels.len()), (None, 0, 0));
        assert!(!descriptors(&control).contains(&engine.records.unwrap()));
        assert!(!descriptors(&engine).contains(&control.http.unwrap()));
        assert_eq!((engine.media[0].len(), engine.reels.len(), engine.cores), (2, PUBLISHERS_MAX, vec![2, 3]));
        assert_eq!(Handover::parse(&control.to_text()).as_ref(), Ok(&control));
    }
}
