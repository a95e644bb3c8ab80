//! Goal: what Spillway promises holds from end to end, for scripts, for players and in a real browser.
//! Method: the built binary on ports of its own, our headless publisher and viewer, real Chromium with a fake
//! camera, and the clients of others: Firefox, ffmpeg, GStreamer. Conditions are polled against a deadline; nothing sleeps for a fixed time.

mod admin;
mod answers;
mod api;
mod bench;
mod bench_lab;
mod browser;
mod cli;
mod codecs;
mod containers;
mod ffmpeg;
mod firefox;
mod first_picture;
mod gstreamer;
mod instant_start;
mod lifecycle;
mod loss;
mod networks;
mod pages;
mod ramp;
mod recording;
mod recorder;
mod referees;
mod restart;
mod sync;
mod threats;
mod threats_api;
mod webhooks;

/// Offers of real publishers and players, as proto's own tests read them.
mod offers {
    pub const PUBLISH: &str = include_str!("../../proto/src/sdp/fixtures/obs_publish.sdp");
    pub const VIEW: &str = include_str!("../../proto/src/sdp/fixtures/chromium_view.sdp");
}
