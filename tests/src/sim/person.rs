//! A person with a page open: wants to be in, POSTs, gets a session, loses it and POSTs anew, until he leaves.

use super::media::Size;
use super::network::{Route, Weather};
use spillway_proto::id::{Codec, Side};
use spillway_proto::session::srtp::Profile;
use spillway_proto::time::Time;

pub struct Person {
    pub side: Side,
    pub room: u32,
    /// Who the token says this is.
    pub sub: u64,
    pub video: Codec,
    pub size: Size,
    pub deaf: bool,
    pub profile: Profile,
    pub route: Route,
    /// Wants to be in.
    pub wants: bool,
    pub post: Option<u64>,
    /// The present session.
    pub remote: Option<usize>,
    /// Since when he wants to be in.
    pub since: Time,
    /// Each of its datagrams may land on any shard.
    pub strays: bool,
    /// They all land on one, which is not the session's.
    pub lands_wrong: bool,
    pub sessions: u64,
}

impl Person {
    pub fn new(side: Side, room: u32, sub: u64, weather: Weather) -> Person {
        Person {
            side,
            room,
            sub,
            video: Codec::Vp8,
            size: Size { keyframe_packets: 6, frame_packets: 2, payload_max: 600, frames_per_keyframe: 60 },
            deaf: false,
            profile: Profile::AeadAes256Gcm,
            route: Route::new(weather),
            wants: false,
            post: None,
            remote: None,
            since: Time::ZERO,
            strays: false,
            lands_wrong: false,
            sessions: 0,
        }
    }
}
