//! What the admin page and the first page show besides: joins that came to nothing, the last hour, live rooms.

use super::bodies::{Attempt, History, Lobby, LobbyRoom, Point};
use super::page::{COUNT_MAX, Page, Wanted};
use super::{Answer, Call, Reply};
use crate::history::INTERVAL_SECONDS;
use crate::ids::rfc3339;

pub async fn attempts(call: Call) -> Answer {
    let Wanted { after, count } = Wanted::of(&call)?;
    let some = |text: String| (!text.is_empty()).then_some(text);
    let found = call.service.attempts.all().into_iter().filter(|attempt| attempt.id > after).take(count + 1);
    let bodies = found.map(|attempt| Attempt {
        id: attempt.id,
        first_at: rfc3339(attempt.first_ms),
        last_at: rfc3339(attempt.last_ms),
        count: attempt.count,
        code: attempt.code,
        detail: attempt.detail,
        protocol: attempt.draft.protocol.to_owned(),
        room: some(attempt.draft.room),
        sub: some(attempt.draft.sub),
        offer: attempt.draft.offer,
        answer: attempt.draft.answer,
    });
    Ok(Reply::json(200, &Page::new(bodies.collect(), count, |attempt: &Attempt| attempt.id.clone())))
}

pub async fn history(call: Call) -> Answer {
    let points = call.service.history.points().into_iter().map(|point| Point {
        at: rfc3339(point.at_ms),
        viewers: point.viewers,
        streams: point.streams,
        egress_bps: point.egress_bps,
        busy_ratio: point.busy_ratio,
    });
    Ok(Reply::json(200, &History { interval_seconds: INTERVAL_SECONDS, points: points.collect() }))
}

pub async fn lobby(call: Call) -> Answer {
    let rooms = call.service.public_rooms();
    let public = rooms.is_some();
    let mut data: Vec<LobbyRoom> = rooms
        .into_iter()
        .flatten()
        .map(|stream| LobbyRoom {
            id: stream.room.clone(),
            started_at: rfc3339(stream.began_ms),
            viewers: call.service.state(&stream.room).viewers as u64,
            codecs: stream.tracks.iter().map(|track| track.codec.sdp_name().to_owned()).collect(),
        })
        .collect();
    data.sort_by(|left, right| left.id.cmp(&right.id));
    data.truncate(COUNT_MAX);
    Ok(Reply::json(200, &Lobby { public, data }))
}
