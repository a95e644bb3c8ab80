//! RTCP: bounded whatever a compound claims, and every packet that is read is the same when it is written and
//! read again.

use spillway_proto::limits::LOSSES_PER_NACK_MAX;
use spillway_proto::wire::rtcp::{
    ReportBlock, Rtcp, packets, write_bye, write_fir, write_nack, write_pli, write_rr, write_sr,
};
use std::collections::BTreeSet;

/// The count field has five bits.
const COUNT_MAX: usize = 31;

/// The bytes as they are, and once more cut into packets whose version and length are right.
pub fn rtcp(bytes: &[u8]) {
    read(bytes);
    let mut framed = bytes[..bytes.len() / 4 * 4].to_vec();
    let mut at = 0;
    while at < framed.len() {
        framed[at] = framed[at] & 0x3F | 0x80;
        framed[at + 1] = 200 + framed[at + 1] % 8;
        let words = usize::from(framed[at + 3]).min(framed.len() / 4 - at / 4 - 1);
        framed[at + 2..at + 4].copy_from_slice(&(words as u16).to_be_bytes());
        at += 4 + 4 * words;
    }
    read(&framed);
}

fn read(compound: &[u8]) {
    let mut count = 0;
    for packet in packets(compound) {
        count += 1;
        again(&packet, compound.len());
    }
    assert!(count * 4 <= compound.len());
}

/// The one packet that `write` makes.
fn written(write: impl Fn(&mut [u8]) -> Option<usize>, check: impl Fn(&Rtcp<'_>)) {
    let mut out = [0; 8 * 1_024];
    let length = write(&mut out).expect("what was read can be written");
    let mut all = packets(&out[..length]);
    check(&all.next().expect("what was written can be read"));
    assert!(all.next().is_none());
}

fn again(packet: &Rtcp<'_>, length: usize) {
    match packet {
        Rtcp::SenderReport { ssrc, ntp, rtp, packets, octets, blocks } => {
            let blocks: Vec<ReportBlock> = blocks.clone().collect();
            assert!(blocks.len() <= COUNT_MAX && 28 + 24 * blocks.len() <= length);
            written(
                |out| write_sr(out, *ssrc, *ntp, *rtp, *packets, *octets, &blocks),
                |second| {
                    let Rtcp::SenderReport { ssrc: s, ntp: n, rtp: r, packets: p, octets: o, blocks: b } = second else {
                        panic!("{second:?}")
                    };
                    assert_eq!((s, n, r, p, o), (ssrc, ntp, rtp, packets, octets));
                    assert!(b.clone().eq(blocks.iter().copied()));
                },
            );
        }
        Rtcp::ReceiverReport { ssrc, blocks } => {
            let blocks: Vec<ReportBlock> = blocks.clone().collect();
            assert!(blocks.len() <= COUNT_MAX && 8 + 24 * blocks.len() <= length);
            written(
                |out| write_rr(out, *ssrc, &blocks),
                |second| {
                    let Rtcp::ReceiverReport { ssrc: s, blocks: b } = second else { panic!("{second:?}") };
                    assert!(s == ssrc && b.clone().eq(blocks.iter().copied()));
                },
            );
        }
        Rtcp::Nack { sender, media, losses } => {
            let all: Vec<u16> = losses.clone().collect();
            assert!(all.len() <= LOSSES_PER_NACK_MAX && all.len() * 4 <= length * 17);
            let expected: BTreeSet<u16> = all.iter().copied().collect();
            if all.is_empty() {
                return;
            }
            written(
                |out| write_nack(out, *sender, *media, &all),
                |second| {
                    let Rtcp::Nack { sender: s, media: m, losses: l } = second else { panic!("{second:?}") };
                    assert_eq!((s, m), (sender, media));
                    assert_eq!(l.clone().collect::<BTreeSet<u16>>(), expected);
                },
            );
        }
        Rtcp::Pli { sender, media } => written(
            |out| write_pli(out, *sender, *media),
            |second| assert!(matches!(second, Rtcp::Pli { sender: s, media: m } if s == sender && m == media)),
        ),
        Rtcp::Fir { sender, entries } => {
            assert!(entries.clone().count() * 8 <= length);
            for entry in entries.clone() {
                written(
                    |out| write_fir(out, *sender, entry.media, entry.sequence),
                    |second| {
                        let Rtcp::Fir { sender: s, entries: e } = second else { panic!("{second:?}") };
                        assert!(s == sender && e.clone().eq([entry]));
                    },
                );
            }
        }
        Rtcp::Bye { ssrcs } => {
            let all: Vec<u32> = ssrcs.clone().collect();
            assert!(all.len() <= COUNT_MAX);
            written(
                |out| write_bye(out, &all),
                |second| assert!(matches!(second, Rtcp::Bye { ssrcs: s } if s.clone().eq(all.iter().copied()))),
            );
        }
        _ => {}
    }
}
