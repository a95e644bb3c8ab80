//! Goal: what `packetize` cut comes back whole and in order, whatever the way did to it; what is incomplete does not.
//! Method: frames of each codec, cut into packets as publishers do, in order, shuffled, late, with losses.

use super::*;
use crate::mux::matroska::Clip;
use crate::mux::packetize;
use crate::rng::Rng;
use crate::limits::CODEC_PRIVATE_BYTES_MAX;
use crate::wire::torture::torture;

const START: u64 = 128;
const FRAME_TICKS: u32 = 3_000;

struct Sent {
    meta: SlotMeta,
    payload: Vec<u8>,
}

fn unit(header: &[u8], length: usize, seed: u64) -> Vec<u8> {
    let mut unit = header.to_vec();
    let at = unit.len();
    unit.resize(at + length, 0);
    Rng::new(seed).fill(&mut unit[at..]);
    unit
}

fn avc(units: &[&[u8]]) -> Vec<u8> {
    units.iter().flat_map(|unit| [&(unit.len() as u32).to_be_bytes(), *unit].concat()).collect()
}

/// A frame's payloads, and what shall come back.
fn cut(codec: Codec, number: usize, keyframe: bool, length: usize) -> (Vec<Vec<u8>>, Vec<u8>) {
    let seed = number as u64 + 1;
    let mut payloads = Vec::new();
    let mut push = |payload: &[u8], _: bool| payloads.push(payload.to_vec());
    let data = match codec {
        Codec::H264 => {
            let picture = unit(if keyframe { &[0x65, 0x88] } else { &[0x41, 0x9A] }, length, seed);
            let (sps, pps) = (unit(&[0x67], 20, seed), unit(&[0x68], 4, seed));
            let units: Vec<&[u8]> = if keyframe { vec![&sps, &pps, &picture] } else { vec![&picture] };
            packetize::h264(&units, &mut push);
            avc(&units)
        }
        Codec::H265 => {
            let picture = unit(if keyframe { &[0x26, 1, 0xAF] } else { &[0x02, 1, 0xD0] }, length, seed);
            let sets = [0x40, 0x42, 0x44].map(|kind| unit(&[kind, 1], 20, seed));
            let mut units: Vec<&[u8]> = sets.iter().filter(|_| keyframe).map(Vec::as_slice).collect();
            units.push(&picture);
            packetize::h265(&units, &mut push);
            avc(&units)
        }
        Codec::Vp8 => {
            let data = unit(&[if keyframe { 0x50 } else { 0x51 }], length, seed);
            packetize::vp8(&data, number as u16 & 0x7FFF, &mut push);
            data
        }
        Codec::Vp9 => {
            let data = unit(&[if keyframe { 0x82 } else { 0x86 }], length, seed);
            packetize::vp9(&data, keyframe, number as u16 & 0x7FFF, &mut push);
            data
        }
        Codec::Av1 => {
            let obu = |kind: u8, first: u8, length: usize| {
                let body = unit(&[first], length, seed);
                let mut obu = vec![kind << 3 | 2];
                // As short as it can be, as the other direction writes it.
                let mut rest = body.len();
                while rest > 0x7F {
                    obu.push(rest as u8 | 0x80);
                    rest >>= 7;
                }
                obu.push(rest as u8);
                [obu, body].concat()
            };
            let sequence = if keyframe { obu(1, 0, 10) } else { Vec::new() };
            let data = [sequence, obu(6, if keyframe { 0x10 } else { 0x30 }, length)].concat();
            packetize::av1(&[&[0x12, 0], data.as_slice()].concat(), keyframe, &mut push);
            data
        }
        Codec::Opus => {
            let data = unit(&[0xFC], length.min(400), seed);
            assert!(packetize::opus(&data, &mut push));
            data
        }
    };
    (payloads, data)
}

/// Frames one after the other, a keyframe each `interval`.
fn stream(codec: Codec, count: usize, interval: usize, first: u64) -> (Vec<Sent>, Vec<Vec<u8>>) {
    let (mut sent, mut wanted) = (Vec::new(), Vec::new());
    for number in 0..count {
        let keyframe = number % interval == 0;
        let (payloads, data) = cut(codec, number, keyframe, if keyframe { 9_000 } else { 100 + number * 37 % 3_000 });
        let packets = payloads.len();
        for (place, payload) in payloads.into_iter().enumerate() {
            let flags = SlotFlags::NONE
                .with_if(place == 0, SlotFlags::FRAME_START)
                .with_if(place + 1 == packets, SlotFlags::FRAME_END.with(SlotFlags::MARKER));
            let meta = SlotMeta {
                index: first + sent.len() as u64,
                timestamp: (number as u32).wrapping_mul(FRAME_TICKS).wrapping_sub(90_000),
                arrival: Time::from_millis(1_000 + number as u64 * 33),
                flags,
                codec,
                layer: 0,
            };
            sent.push(Sent { meta, payload });
        }
        wanted.push(data);
    }
    (sent, wanted)
}

const ALL: [Codec; 6] = [Codec::H264, Codec::H265, Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::Opus];

fn drain(depacketizer: &mut Depacketizer, now: Time, last: bool) -> (Vec<Frame>, usize) {
    let (mut frames, mut broken) = (Vec::new(), 0);
    while let Some(output) = depacketizer.poll(now, last) {
        match output {
            Output::Frame(frame) => frames.push(frame),
            Output::Broken => broken += 1,
            Output::Missing => {}
        }
    }
    (frames, broken)
}

fn end(sent: &[Sent]) -> Time {
    sent.iter().map(|packet| packet.meta.arrival).max().unwrap()
}

#[test]
fn every_codecs_frames_come_back_in_any_order_within_the_wait() {
    let mut rng = Rng::new(11);
    for codec in ALL {
        for round in 0..12 {
            let (mut sent, wanted) = stream(codec, 60, 20, START);
            if round > 0 {
                // Neighbours overtake each other; some come twice, some half a second later.
                for _ in 0..sent.len() {
                    let at = rng.below(sent.len() as u64 - 1) as usize;
                    sent.swap(at, at + 1);
                }
            }
            let mut depacketizer = Depacketizer::new(codec.kind(), START, START, 1);
            let (mut frames, mut late) = (Vec::new(), Vec::new());
            for packet in &sent {
                let now = packet.meta.arrival;
                if round > 2 && rng.below(10) == 0 {
                    late.push((now + Duration::from_millis(500), packet));
                    continue;
                }
                while let Some((at, packet)) = late.first().copied().filter(|(at, _)| *at <= now) {
                    depacketizer.push(&SlotMeta { arrival: at, ..packet.meta }, &packet.payload);
                    late.remove(0);
                }
                depacketizer.push(&packet.meta, &packet.payload);
                if rng.below(8) == 0 {
                    depacketizer.push(&packet.meta, &packet.payload);
                }
                frames.extend(drain(&mut depacketizer, now, false).0);
            }
            for (at, packet) in late {
                depacketizer.push(&SlotMeta { arrival: at, ..packet.meta }, &packet.payload);
            }
            let (rest, broken) = drain(&mut depacketizer, end(&sent) + END_WAIT + Duration::from_millis(500), false);
            frames.extend(rest);
            assert_eq!(broken, 0, "{codec:?}");
            assert_eq!(frames.len(), wanted.len(), "{codec:?} {round}");
            for (number, (frame, wanted)) in frames.iter().zip(&wanted).enumerate() {
                assert!(frame.data == *wanted, "{codec:?} frame {number}");
                assert_eq!(frame.keyframe, codec == Codec::Opus || number % 20 == 0);
                assert_eq!(frame.timestamp, (number as u32 * FRAME_TICKS).wrapping_sub(90_000));
            }
            assert_eq!(depacketizer.dropped(), Dropped::default());
        }
    }
}

#[test]
fn a_lost_packet_costs_its_picture_and_those_coded_from_it() {
    for codec in [Codec::H264, Codec::H265, Codec::Vp8, Codec::Vp9, Codec::Av1] {
        let (sent, wanted) = stream(codec, 60, 20, START);
        for lost in 0..sent.len() {
            let of = wanted_of(&sent, lost);
            let mut depacketizer = Depacketizer::new(Kind::Video, START, START, 1);
            let (mut frames, mut breaks) = (Vec::new(), 0);
            for (place, packet) in sent.iter().enumerate() {
                if place != lost {
                    depacketizer.push(&packet.meta, &packet.payload);
                }
                let (more, broken) = drain(&mut depacketizer, packet.meta.arrival, false);
                frames.extend(more);
                breaks += broken;
            }
            let (more, broken) = drain(&mut depacketizer, end(&sent) + TAP_WAIT, true);
            frames.extend(more);
            breaks += broken;
            // All before it, and all from the next keyframe on.
            let kept: Vec<usize> = (0..60).filter(|number| *number < of || *number >= (of / 20 + 1) * 20).collect();
            assert_eq!(frames.len(), kept.len(), "{codec:?}: packet {lost} of picture {of}");
            assert!(frames.iter().zip(&kept).all(|(frame, number)| frame.data == wanted[*number]));
            // Before the first picture nothing breaks: there was none yet.
            assert_eq!(breaks, usize::from(of > 0), "{codec:?}");
            // That there was one behind the last nobody can know.
            assert_eq!(depacketizer.dropped().packets, u64::from(lost + 1 < sent.len()));
        }
    }
}

fn wanted_of(sent: &[Sent], place: usize) -> usize {
    (sent[place].meta.timestamp.wrapping_add(90_000) / FRAME_TICKS) as usize
}

#[test]
fn sound_goes_on_at_once_after_a_loss() {
    let (sent, wanted) = stream(Codec::Opus, 50, 1, START);
    let mut depacketizer = Depacketizer::new(Kind::Audio, START, START, 1);
    let mut frames = Vec::new();
    for packet in sent.iter().filter(|packet| packet.meta.index != START + 7) {
        depacketizer.push(&packet.meta, &packet.payload);
        frames.extend(drain(&mut depacketizer, packet.meta.arrival, false).0);
        // It waits for the missing one, and no longer than it must.
        let waited = packet.meta.arrival.since(sent[8].meta.arrival) >= TAP_WAIT;
        let wanted = if packet.meta.index < START + 7 || waited { packet.meta.index - START + u64::from(!waited) } else { 7 };
        assert_eq!(frames.len() as u64, wanted);
    }
    assert!(frames.iter().zip(wanted.iter().enumerate().filter(|(at, _)| *at != 7)).all(|(frame, (_, data))| frame.data == *data));
}

#[test]
fn a_picture_that_ends_is_given_before_the_next_begins() {
    let (sent, _) = stream(Codec::H264, 1, 1, START);
    let mut depacketizer = Depacketizer::new(Kind::Video, START, START, 1);
    sent.iter().for_each(|packet| depacketizer.push(&packet.meta, &packet.payload));
    assert!(drain(&mut depacketizer, end(&sent), false).0.is_empty(), "a marker alone is not believed");
    assert_eq!(drain(&mut depacketizer, end(&sent) + END_WAIT, false).0.len(), 1);
    // Half a picture is none, however long one waits.
    let mut depacketizer = Depacketizer::new(Kind::Video, START, START, 1);
    sent[..sent.len() - 1].iter().for_each(|packet| depacketizer.push(&packet.meta, &packet.payload));
    assert!(drain(&mut depacketizer, end(&sent) + TAP_WAIT + TAP_WAIT, false).0.is_empty());
    assert!(drain(&mut depacketizer, end(&sent), true).0.is_empty());
}

#[test]
fn a_late_start_begins_at_the_keyframe_it_is_told_and_knows_the_sets_before_it() {
    let (sent, wanted) = stream(Codec::H264, 60, 20, START);
    let place = |number: usize| sent.iter().position(|packet| wanted_of(std::slice::from_ref(packet), 0) == number).unwrap();
    let mut depacketizer = Depacketizer::new(Kind::Video, START, sent[place(40)].meta.index, 1);
    sent.iter().for_each(|packet| depacketizer.push(&packet.meta, &packet.payload));
    let (frames, broken) = drain(&mut depacketizer, end(&sent) + END_WAIT, false);
    assert_eq!((frames.len(), broken), (20, 0));
    assert!(frames.iter().zip(&wanted[40..]).all(|(frame, wanted)| frame.data == *wanted));
}

/// A camera sends its sets once, in packets of their own time, with markers, and a delimiter before each picture.
#[test]
fn keyframes_get_the_sets_that_came_before() {
    let payloads: [(&[u8], u32); 6] = [
        (&[0x67, 1, 2], 0),
        (&[0x68, 3], 0),
        (&[0x09, 0xF0], 3_000),
        (&[0x65, 0x88, 9], 3_000),
        (&[0x41, 0x9A, 8], 6_000),
        (&[0x65, 0x88, 7], 9_000),
    ];
    let mut depacketizer = Depacketizer::new(Kind::Video, START, START, 1);
    for (place, (payload, timestamp)) in payloads.into_iter().enumerate() {
        let meta = SlotMeta {
            index: START + place as u64,
            timestamp,
            arrival: Time::from_millis(place as u64),
            flags: SlotFlags::FRAME_END.with(SlotFlags::MARKER).with(SlotFlags::FRAME_START),
            codec: Codec::H264,
            layer: 0,
        };
        depacketizer.push(&meta, payload);
    }
    let (frames, broken) = drain(&mut depacketizer, Time::from_millis(500), false);
    let sets = avc(&[&[0x67, 1, 2], &[0x68, 3]]);
    let wanted = [[&sets[..], &avc(&[&[0x65, 0x88, 9]])].concat(), avc(&[&[0x41, 0x9A, 8]]), [&sets[..], &avc(&[&[0x65, 0x88, 7]])].concat()];
    assert_eq!(broken, 0);
    assert_eq!(frames.iter().map(|frame| frame.data.clone()).collect::<Vec<_>>(), wanted);
}

#[test]
fn another_publisher_begins_with_a_keyframe_of_its_own() {
    let (mut sent, wanted) = stream(Codec::H264, 30, 10, START);
    // The first one stops in the middle of picture 15; the second one's first picture is number 20's, in VP8.
    let cut_at = sent.iter().position(|packet| wanted_of(std::slice::from_ref(packet), 0) == 15).unwrap() + 1;
    sent.truncate(cut_at);
    let from = START + sent.len() as u64;
    let (mut second, second_wanted) = stream(Codec::Vp8, 30, 10, from);
    for packet in &mut second {
        packet.meta.timestamp = packet.meta.timestamp.wrapping_add(900_000);
        packet.meta.arrival = packet.meta.arrival + Duration::from_secs(10);
    }
    let mut depacketizer = Depacketizer::new(Kind::Video, START, START, 4);
    depacketizer.begin_epoch(from, 5);
    let mut frames = Vec::new();
    let mut breaks = 0;
    for packet in sent.iter().chain(&second) {
        depacketizer.push(&packet.meta, &packet.payload);
        let (more, broken) = drain(&mut depacketizer, packet.meta.arrival, false);
        (frames.extend(more), breaks += broken);
    }
    frames.extend(drain(&mut depacketizer, end(&second) + END_WAIT, false).0);
    let data: Vec<&Vec<u8>> = frames.iter().map(|frame| &frame.data).collect();
    let first = frames.iter().filter(|frame| frame.epoch == 4).count();
    assert!(first == 15 || first == 16, "{first}");
    assert!(data[..15].iter().zip(&wanted).all(|(data, wanted)| *data == wanted));
    assert!(data[first..].iter().zip(&second_wanted).all(|(data, wanted)| *data == wanted));
    assert_eq!(data.len() - first, 30);
    assert!(breaks <= 1, "{breaks}");
    assert!(frames[first].keyframe && frames[first].codec == Codec::Vp8 && frames[first].epoch == 5);
}

#[test]
fn another_publishers_pictures_are_not_shown_on_top_of_the_first_ones() {
    let (sent, _) = stream(Codec::Vp8, 10, 10, START);
    let from = START + sent.len() as u64;
    // The same codec; its first keyframe never came.
    let (mut second, wanted) = stream(Codec::Vp8, 30, 10, from - 5);
    second.retain(|packet| wanted_of(std::slice::from_ref(packet), 0) > 0);
    let from = second[0].meta.index;
    let mut depacketizer = Depacketizer::new(Kind::Video, START, START, 4);
    depacketizer.begin_epoch(from, 5);
    sent.iter().for_each(|packet| depacketizer.push(&packet.meta, &packet.payload));
    for packet in &mut second {
        packet.meta.timestamp = packet.meta.timestamp.wrapping_add(900_000);
        depacketizer.push(&packet.meta, &packet.payload);
    }
    let (frames, _) = drain(&mut depacketizer, end(&second) + TAP_WAIT, true);
    let of_second: Vec<&Frame> = frames.iter().filter(|frame| frame.epoch == 5).collect();
    assert_eq!(of_second.len(), 20, "from its second keyframe on");
    assert!(of_second.iter().zip(&wanted[10..]).all(|(frame, wanted)| frame.data == *wanted));
}

/// Slices stand alone in their packets, so that nothing in the second one says that the first is missing.
#[test]
fn a_picture_without_its_first_slice_is_none() {
    let slices = |number: u32| {
        let header: &[u8] = if number == 0 { &[0x65] } else { &[0x41] };
        [unit(&[header, &[0x88]].concat(), 50, 1), unit(&[header, &[0x48]].concat(), 50, 2)]
    };
    let sets = [0x78, 0, 3, 0x67, 1, 2, 0, 2, 0x68, 3];
    let mut packets = vec![(0, sets.to_vec())];
    packets.extend((0..6).flat_map(|number| slices(number).map(|slice| (number, slice))));
    let push = |depacketizer: &mut Depacketizer, place: usize| {
        let (number, payload) = &packets[place];
        let index = START + place as u64;
        // The marker is on the second slice; the reel knows no beginning behind a hole.
        let flags = SlotFlags::NONE.with_if(place % 2 == 0 && place > 0, SlotFlags::FRAME_END);
        let arrival = Time::from_millis(u64::from(*number) * 33);
        depacketizer.push(&SlotMeta { index, timestamp: number * 3_000, arrival, flags, codec: Codec::H264, layer: 0 }, payload);
    };
    let count = |skipped: &[usize], skip_to: Option<u64>| {
        let mut depacketizer = Depacketizer::new(Kind::Video, START, START, 1);
        (0..5).filter(|place| !skipped.contains(place)).for_each(|place| push(&mut depacketizer, place));
        let mut frames = drain(&mut depacketizer, Time::from_millis(33), false).0;
        if let Some(index) = skip_to {
            depacketizer.skip_to(index);
        }
        (5..packets.len()).filter(|place| !skipped.contains(place)).for_each(|place| push(&mut depacketizer, place));
        frames.extend(drain(&mut depacketizer, Time::from_millis(3_000), true).0);
        frames.len()
    };
    assert_eq!(count(&[], None), 6);
    assert_eq!(count(&[0, 1], None), 0, "a keyframe's");
    assert_eq!(count(&[5], None), 2, "another one's");
    // Behind what the reader missed.
    assert_eq!(count(&[], Some(START + 6)), 1);
}

#[test]
fn a_reader_that_fell_behind_goes_on_at_a_keyframe() {
    let (sent, wanted) = stream(Codec::Vp8, 60, 20, START);
    let mut depacketizer = Depacketizer::new(Kind::Video, START, START, 1);
    let place = |number: usize| sent.iter().position(|packet| wanted_of(std::slice::from_ref(packet), 0) == number).unwrap();
    sent[..place(5)].iter().for_each(|packet| depacketizer.push(&packet.meta, &packet.payload));
    let mut frames = drain(&mut depacketizer, sent[place(5)].meta.arrival, false).0;
    depacketizer.skip_to(sent[place(40)].meta.index);
    sent[place(40)..].iter().for_each(|packet| depacketizer.push(&packet.meta, &packet.payload));
    frames.extend(drain(&mut depacketizer, end(&sent) + END_WAIT, false).0);
    let kept: Vec<usize> = (0..4).chain(40..60).collect();
    let data: Vec<&Vec<u8>> = frames.iter().map(|frame| &frame.data).collect();
    assert!(data.len() == kept.len() || data.len() == kept.len() + 1, "{}", data.len());
    assert_eq!(*data.last().unwrap(), &wanted[59]);
    assert_eq!(frames[frames.len() - 20].data, wanted[40]);
}

/// Layer frames of one VP9 picture are one sample with an index.
#[test]
fn layers_of_a_vp9_picture_become_a_superframe() {
    // L and not F: TL0PICIDX follows; spatial layer 0, then 1 (D).
    let base = [0xAC, 0x01, 0x00, 0x00, 0x82, 1, 2];
    let upper = [0xAC, 0x01, 0x03, 0x00, 0x86, 3];
    let assembled = Assembler::default().assemble(Codec::Vp9, [&base[..], &upper[..]].into_iter());
    let marker = 0xC0 | 3 << 3 | 1;
    let data = vec![0x82, 1, 2, 0x86, 3, marker, 3, 0, 0, 0, 2, 0, 0, 0, marker];
    assert_eq!(assembled, Assembled::Frame { keyframe: true, data });
    let only_upper = Assembler::default().assemble(Codec::Vp9, [&upper[..]].into_iter());
    assert_eq!(only_upper, Assembled::Damaged);
}

#[test]
fn what_is_held_is_bounded() {
    // One picture that never ends, and one packet that never comes.
    for missing in [true, false] {
        let mut depacketizer = Depacketizer::new(Kind::Video, START, START, 1);
        let mut most = 0;
        for number in 0..3 * TAP_PACKETS_MAX as u64 {
            let meta = SlotMeta {
                index: START + u64::from(missing) + number,
                timestamp: if missing { number as u32 } else { 7 },
                arrival: Time::from_millis(1),
                flags: SlotFlags::NONE,
                codec: Codec::Vp8,
                layer: 0,
            };
            depacketizer.push(&meta, &[0x10; 1_000]);
            drain(&mut depacketizer, Time::from_millis(2), false);
            most = most.max(depacketizer.packets.len());
            assert_eq!(depacketizer.bytes, depacketizer.packets.len() * 1_000);
        }
        assert!(most <= TAP_PACKETS_MAX + 1, "{most}");
    }
}

/// Clips of real encoders: cut into packets and put together again they are what the file had.
#[test]
fn real_pictures_come_back() {
    let clips: [(Codec, &[u8]); 3] = [
        (Codec::H265, include_bytes!("../../wire/payload/fixtures/h265.mkv")),
        (Codec::Vp9, include_bytes!("../../wire/payload/fixtures/vp9.webm")),
        (Codec::Av1, include_bytes!("../../wire/payload/fixtures/av1.mkv")),
    ];
    for (codec, file) in clips {
        let clip = Clip::parse(file).unwrap();
        let video = clip.video.as_ref().unwrap();
        let mut assembler = Assembler::default();
        let mut seen = 0;
        for frame in clip.frames.iter().filter(|frame| frame.track == Kind::Video) {
            let mut payloads: Vec<Vec<u8>> = Vec::new();
            let emit = |payload: &[u8], _: bool| payloads.push(payload.to_vec());
            let wanted = match codec {
                Codec::H265 => {
                    let sets = video.parameter_sets.iter().filter(|_| frame.keyframe).map(Vec::as_slice);
                    let nals: Vec<&[u8]> = sets.chain(video.nals(&frame.data)).collect();
                    packetize::h265(&nals, emit);
                    avc(&nals)
                }
                Codec::Vp9 => {
                    packetize::vp9(&frame.data, frame.keyframe, 7, emit);
                    frame.data.to_vec()
                }
                _ => {
                    packetize::av1(&frame.data, frame.keyframe, emit);
                    // Without the delimiter.
                    frame.data.strip_prefix(&[0x12, 0]).unwrap_or(&frame.data).to_vec()
                }
            };
            let assembled = assembler.assemble(codec, payloads.iter().map(Vec::as_slice));
            let Assembled::Frame { keyframe, data } = assembled else { panic!("{codec:?}: {assembled:?}") };
            assert_eq!(keyframe, frame.keyframe, "{codec:?}");
            assert!(data == wanted, "{codec:?}: {} and {} bytes", data.len(), wanted.len());
            seen += 1;
        }
        assert_eq!(seen, 45);
    }
}

#[test]
fn damaged_payloads_never_panic() {
    for codec in ALL {
        let (mut payloads, _) = cut(codec, 3, true, 2_500);
        payloads.iter_mut().for_each(|payload| payload.truncate(60));
        payloads.push(vec![0x64, 0x01, 0x62, 0x00, 0x93, 0xAF]);
        let valid: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        let mut assembler = Assembler::default();
        torture(&valid, |payload| {
            assembler.assemble(codec, [payload].into_iter());
            assembler.assemble(codec, [valid[0], payload, valid[valid.len() - 2]].into_iter());
            assert!(assembler.sets.len() <= CODEC_PRIVATE_BYTES_MAX);
        });
    }
}
