//! What viewers of a stream will notice, and what its publisher can do about it. Pure.

use spillway_proto::id::{Codec, Kind};

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TrackFacts {
    pub codec: Codec,
    pub loss_ratio: f64,
    /// 0: not known yet.
    pub keyframe_interval_ms: u64,
}

/// Above it who joins, or lost a packet that never came again, waits noticeably where the publisher answers no requests.
const KEYFRAME_INTERVAL_MS_GOOD: u64 = 3_000;
/// From here on pictures suffer although what was lost is asked for again.
const LOSS_RATIO_BAD: f64 = 0.02;

/// Codes with what they mean.
pub fn of(tracks: &[TrackFacts]) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let has = |kind| tracks.iter().any(|track| track.codec.kind() == kind);
    if !has(Kind::Audio) {
        found.push(("no_audio", "the publisher sends no sound; viewers hear nothing".to_owned()));
    }
    if !has(Kind::Video) {
        found.push(("no_video", "the publisher sends no picture; viewers see nothing".to_owned()));
    }
    for track in tracks {
        let name = track.codec.sdp_name();
        if track.keyframe_interval_ms > KEYFRAME_INTERVAL_MS_GOOD {
            let seconds = track.keyframe_interval_ms as f64 / 1_000.0;
            let detail = format!("{name}: {seconds:.1} s from keyframe to keyframe; set the keyframe interval to 1 to 2 s");
            found.push(("keyframe_interval_long", detail));
        }
        if track.loss_ratio >= LOSS_RATIO_BAD {
            let percent = track.loss_ratio * 100.0;
            found.push(("uplink_loss", format!("{name}: {percent:.0} % of the last second's packets were lost on the way here; lower the bitrate, or take a cable")));
        }
        if track.codec == Codec::H265 {
            let detail = "H265: Firefox, and Chromium without a decoder in hardware, cannot show it; H264 and VP8 are shown everywhere";
            found.push(("codec_not_everywhere", detail.to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(tracks: &[TrackFacts]) -> Vec<&'static str> {
        of(tracks).into_iter().map(|(code, _)| code).collect()
    }

    #[test]
    fn a_good_stream_has_none_and_each_fault_its_own() {
        let good = |codec| TrackFacts { codec, loss_ratio: 0.001, keyframe_interval_ms: 2_000 };
        assert!(codes(&[good(Codec::Opus), good(Codec::H264)]).is_empty());
        assert_eq!(codes(&[good(Codec::H264)]), ["no_audio"]);
        assert_eq!(codes(&[good(Codec::Opus)]), ["no_video"]);
        let bad = TrackFacts { codec: Codec::H265, loss_ratio: 0.05, keyframe_interval_ms: 10_000 };
        assert_eq!(codes(&[good(Codec::Opus), bad]), ["keyframe_interval_long", "uplink_loss", "codec_not_everywhere"]);
    }
}
