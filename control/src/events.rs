//! What pages are told of a room: the `state` event, made once per room and second, however many listen.
//!
//! Turns room states and the engine's running totals into JSON. Decides nothing, and knows no HTTP.

use crate::policy::rooms::RoomState;
use serde::Serialize;
use spillway_proto::id::{Codec, Kind, TrackId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

/// The engine's running totals of one track.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TrackTotals {
    pub bytes: u64,
    pub lost: u64,
    pub expected: u64,
    pub frames: u64,
    pub keyframe_interval_ms: u64,
}

/// A room's state as JSON: for everybody, and for those who may publish.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    pub for_viewers: String,
    pub for_publishers: String,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
struct StateJson<'a> {
    live: bool,
    epoch: u64,
    viewers: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    received: Option<&'a Received>,
}

/// What the server receives of a stream, over the last second.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Received {
    pub bitrate_bps: u64,
    pub loss_ratio: f64,
    pub keyframe_interval_ms: u64,
    pub codec: Option<&'static str>,
}

/// The rooms somebody listens to.
#[derive(Default)]
pub struct Events {
    rooms: Mutex<HashMap<String, Watched>>,
}

struct Watched {
    sender: watch::Sender<Arc<Snapshot>>,
    state: RoomState,
    meter: Meter,
}

impl Events {
    /// The room's snapshots from now on; the present one is there at once.
    pub fn subscribe(
        &self,
        room: &str,
        state: RoomState,
        now: Instant,
        totals: impl Fn(TrackId) -> Option<TrackTotals>,
    ) -> watch::Receiver<Arc<Snapshot>> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let watched = rooms.entry(room.to_owned()).or_insert_with(|| {
            // Codec and keyframe interval are known at once; rates need a second look.
            let mut meter = Meter::default();
            meter.measure(now, &state.tracks, totals);
            let snapshot = snapshot(&state, &meter.received);
            Watched { sender: watch::channel(Arc::new(snapshot)).0, state, meter }
        });
        let mut receiver = watched.sender.subscribe();
        receiver.mark_changed();
        receiver
    }

    /// A room may have changed: listeners hear of it if it did.
    pub fn on_change(&self, room: &str, state: RoomState) {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = rooms.get_mut(room)
            && watched.state != state
        {
            watched.sender.send_replace(Arc::new(snapshot(&state, &watched.meter.received)));
            watched.state = state;
        }
    }

    /// A second has passed: measures and tells every listener, and forgets rooms nobody listens to.
    pub fn on_second(
        &self,
        now: Instant,
        state: impl Fn(&str) -> RoomState,
        totals: impl Fn(TrackId) -> Option<TrackTotals>,
    ) {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.retain(|_, watched| watched.sender.receiver_count() > 0);
        for (name, watched) in rooms.iter_mut() {
            watched.state = state(name);
            watched.meter.measure(now, &watched.state.tracks, &totals);
            watched.sender.send_replace(Arc::new(snapshot(&watched.state, &watched.meter.received)));
        }
    }
}

fn snapshot(state: &RoomState, received: &Received) -> Snapshot {
    let json = |received| {
        let RoomState { live, epoch, viewers, .. } = *state;
        // Numbers, booleans and constant words always become JSON.
        serde_json::to_string(&StateJson { live, epoch, viewers, received }).unwrap_or_default()
    };
    Snapshot { for_viewers: json(None), for_publishers: json(Some(received)) }
}

/// Rates from running totals.
#[derive(Default)]
struct Meter {
    before: Option<(Instant, HashMap<TrackId, TrackTotals>)>,
    received: Received,
}

impl Meter {
    fn measure(&mut self, now: Instant, tracks: &[(TrackId, Codec)], totals: impl Fn(TrackId) -> Option<TrackTotals>) {
        let present: HashMap<TrackId, TrackTotals> =
            tracks.iter().filter_map(|(track, _)| Some((*track, totals(*track)?))).collect();
        let video = tracks.iter().find(|(_, codec)| codec.kind() == Kind::Video);
        let mut received = Received {
            codec: video.or(tracks.first()).map(|(_, codec)| codec.sdp_name()),
            keyframe_interval_ms: video.and_then(|(track, _)| present.get(track)).map_or(0, |t| t.keyframe_interval_ms),
            ..Received::default()
        };
        if let Some((then, past)) = &self.before {
            let pairs = || present.iter().filter_map(|(track, totals)| Some((totals, past.get(track)?)));
            let grown = |of: fn(&TrackTotals) -> u64| -> u64 {
                pairs().map(|(present, past)| of(present).saturating_sub(of(past))).sum()
            };
            let micros = now.saturating_duration_since(*then).as_micros().max(1);
            let bits = u128::from(grown(|totals| totals.bytes)) * 8;
            received.bitrate_bps = u64::try_from(bits * 1_000_000 / micros).unwrap_or(u64::MAX);
            let (lost, expected) = (grown(|totals| totals.lost), grown(|totals| totals.expected));
            // Late packets can make `lost` shrink, and a ratio is at most 1.
            received.loss_ratio = if expected == 0 { 0.0 } else { (lost as f64 / expected as f64).min(1.0) };
        }
        self.received = received;
        self.before = Some((now, present));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const VIDEO: TrackId = TrackId::new(1, 1);

    fn state(live: bool) -> RoomState {
        RoomState { live, epoch: 7, viewers: 3, tracks: vec![(VIDEO, Codec::H264)] }
    }

    #[test]
    fn rates_are_what_grew_within_a_second() {
        let mut meter = Meter::default();
        let start = Instant::now();
        let totals = |bytes, lost, expected| move |_| Some(TrackTotals { bytes, lost, expected, frames: 0, keyframe_interval_ms: 2_000 });
        meter.measure(start, &state(true).tracks, totals(1_000_000, 10, 100));
        assert_eq!(meter.received.bitrate_bps, 0, "nothing to compare with yet");
        meter.measure(start + Duration::from_secs(2), &state(true).tracks, totals(1_500_000, 15, 200));
        let expected =
            Received { bitrate_bps: 2_000_000, loss_ratio: 0.05, keyframe_interval_ms: 2_000, codec: Some("H264") };
        assert_eq!(meter.received, expected);
        // The totals begin anew: no rate is negative or huge.
        meter.measure(start + Duration::from_secs(3), &state(true).tracks, totals(10, 0, 1));
        assert_eq!((meter.received.bitrate_bps, meter.received.loss_ratio), (0, 0.0));
    }

    #[test]
    fn listeners_hear_at_once_on_change_and_each_second() {
        let events = Events::default();
        let mut listener = events.subscribe("demo", state(false), Instant::now(), |_| None);
        assert!(listener.has_changed().unwrap(), "at once");
        let first = listener.borrow_and_update().clone();
        assert_eq!(first.for_viewers, r#"{"live":false,"epoch":7,"viewers":3}"#);
        assert!(first.for_publishers.ends_with(
            r#""received":{"bitrate_bps":0,"loss_ratio":0.0,"keyframe_interval_ms":0,"codec":"H264"}}"#
        ));
        events.on_change("demo", state(false));
        assert!(!listener.has_changed().unwrap(), "nothing changed");
        events.on_change("demo", state(true));
        assert!(listener.borrow_and_update().for_viewers.contains(r#""live":true"#));
        events.on_second(Instant::now(), |_| state(true), |_| None);
        assert!(listener.has_changed().unwrap(), "each second");
        drop(listener);
        events.on_second(Instant::now(), |_| state(true), |_| None);
        assert!(events.rooms.lock().unwrap().is_empty());
    }
}
