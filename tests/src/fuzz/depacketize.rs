//! Packets of a tap into frames: any payloads, in any order, with holes.

use super::choices::Choices;
use spillway_proto::id::{Codec, Kind};
use spillway_proto::limits::{TAP_PACKETS_MAX, TAP_WAIT};
use spillway_proto::mux::codec_config::track_format;
use spillway_proto::mux::depacketize::{Depacketizer, Frame, Output};
use spillway_proto::stream::reel::{SlotFlags, SlotMeta};
use spillway_proto::time::Time;
use spillway_proto::wire::payload::av1;

const CODECS: [Codec; 6] = [Codec::H264, Codec::H265, Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::Opus];

/// Frames come in order, the first picture is a keyframe, and what containers rely on holds: units behind their lengths,
/// OBUs with their sizes, to the last byte.
pub fn depacketize(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let codec = CODECS[choices.below(6) as usize];
    let mut depacketizer = Depacketizer::new(codec.kind(), 100, 100, 1);
    let (mut index, mut timestamp, mut now) = (100u64, 0u32, Time::from_millis(1_000));
    // Index and publisher of the newest frame.
    let mut before: Option<(u64, u32)> = None;
    let mut broken = codec.kind() == Kind::Video;
    let mut packets = 0;
    while !choices.is_over() {
        let step = choices.below(8);
        index = (index + [1, 1, 1, 1, 2, 0, 5, 3][step as usize]).saturating_sub(if step > 6 { 5 } else { 0 });
        let bits = choices.u8();
        if bits & 4 != 0 {
            timestamp = timestamp.wrapping_add(3_000);
        }
        if bits & 8 != 0 {
            depacketizer.begin_epoch(index, u32::from(bits >> 4));
        }
        now = Time(now.0 + u64::from(bits >> 5) * 40_000_000);
        let flags = SlotFlags::NONE.with_if(bits & 1 != 0, SlotFlags::FRAME_START).with_if(bits & 2 != 0, SlotFlags::FRAME_END);
        let length = choices.below(256) as usize;
        let payload = choices.bytes(length);
        depacketizer.push(&SlotMeta { index, timestamp, arrival: now, flags, codec, layer: 0 }, payload);
        packets += 1;
        while let Some(output) = depacketizer.poll(now, false) {
            take(codec, output, &mut before, &mut broken);
        }
        assert!(packets <= TAP_PACKETS_MAX || depacketizer.dropped().packets <= packets as u64 * 5);
    }
    while let Some(output) = depacketizer.poll(now + TAP_WAIT, true) {
        take(codec, output, &mut before, &mut broken);
    }
    assert!(!depacketizer.is_waiting(), "nothing is kept when nothing more comes");
}

fn take(codec: Codec, output: Output, before: &mut Option<(u64, u32)>, broken: &mut bool) {
    let Output::Frame(frame) = output else {
        assert!(codec.kind() == Kind::Video, "sound does not break");
        *broken = true;
        return;
    };
    assert!(before.is_none_or(|(index, _)| index < frame.index), "in order");
    let is_other = before.replace((frame.index, frame.epoch)).is_some_and(|(_, epoch)| epoch != frame.epoch);
    assert!(frame.keyframe || !(*broken || is_other), "{frame:?}");
    *broken = false;
    assert!(!frame.data.is_empty());
    check(&frame);
    // Whatever a keyframe holds, its format is read from it.
    if frame.keyframe {
        let _ = track_format(codec, &frame.data);
    }
}

fn check(frame: &Frame) {
    let mut rest = frame.data.as_slice();
    match frame.codec {
        Codec::H264 | Codec::H265 => {
            while !rest.is_empty() {
                let (length, behind) = rest.split_first_chunk().expect("a length");
                rest = behind.get(u32::from_be_bytes(*length) as usize..).expect("a whole unit");
            }
        }
        Codec::Av1 => {
            while !rest.is_empty() {
                let obu = av1::Obu::parse(rest).expect("an OBU");
                rest = obu.body.get(obu.size.expect("with its size") as usize..).expect("a whole one");
            }
        }
        _ => {}
    }
}
