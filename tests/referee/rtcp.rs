//! `wire::rtcp` against crate `rtcp`.

use rtcp::goodbye::Goodbye;
use rtcp::packet::{Packet, unmarshal};
use rtcp::payload_feedbacks::full_intra_request::{FirEntry, FullIntraRequest};
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtcp::receiver_report::ReceiverReport;
use rtcp::reception_report::ReceptionReport;
use rtcp::sender_report::SenderReport;
use rtcp::source_description::{SdesType, SourceDescription};
use rtcp::transport_feedbacks::transport_layer_cc::{PacketStatusChunk, SymbolTypeTcc, TransportLayerCc};
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};
use spillway_proto::rng::Rng;
use spillway_proto::time::NtpTime;
use spillway_proto::wire::transport_cc;
use spillway_proto::wire::rtcp::{self as ours, ReportBlock, Rtcp};

const ROUNDS: usize = 5_000;

/// What a message says, whoever built it.
#[derive(Clone, PartialEq, Debug)]
enum Said {
    Sender { ssrc: u32, ntp: u64, rtp: u32, packets: u32, octets: u32, blocks: Vec<ReportBlock> },
    Receiver { ssrc: u32, blocks: Vec<ReportBlock> },
    Nack { sender: u32, media: u32, losses: Vec<u16> },
    Pli { sender: u32, media: u32 },
    Fir { sender: u32, entries: Vec<(u32, u8)> },
    Bye { ssrcs: Vec<u32> },
    Cname { ssrc: u32, cname: String },
}

fn blocks(rng: &mut Rng) -> Vec<ReportBlock> {
    (0..rng.below(32))
        .map(|_| ReportBlock {
            ssrc: rng.next_u32(),
            fraction_lost: rng.next_u32() as u8,
            // Theirs knows no negative losses.
            cumulative_lost: rng.below(0x80_0000) as i32,
            sequence_max: rng.next_u32(),
            jitter: rng.next_u32(),
            last_sr: rng.next_u32(),
            delay_since_sr: rng.next_u32(),
        })
        .collect()
}

fn losses(rng: &mut Rng) -> Vec<u16> {
    let mut at = rng.next_u32() as u16;
    (0..1 + rng.below(60))
        .map(|_| {
            at = at.wrapping_add(1 + if rng.below(4) == 0 { rng.below(400) } else { rng.below(3) } as u16);
            at
        })
        .collect()
}

fn say(rng: &mut Rng) -> Said {
    let (a, b) = (rng.next_u32(), rng.next_u32());
    match rng.below(7) {
        0 => Said::Sender { ssrc: a, ntp: rng.next_u64(), rtp: b, packets: rng.next_u32(), octets: rng.next_u32(), blocks: blocks(rng) },
        1 => Said::Receiver { ssrc: a, blocks: blocks(rng) },
        2 => Said::Nack { sender: a, media: b, losses: losses(rng) },
        3 => Said::Pli { sender: a, media: b },
        4 => Said::Fir { sender: a, entries: vec![(b, rng.next_u32() as u8)] },
        5 => Said::Bye { ssrcs: (0..1 + rng.below(31)).map(|_| rng.next_u32()).collect() },
        _ => Said::Cname { ssrc: a, cname: "c".repeat(rng.below(40) as usize) },
    }
}

fn theirs_of(blocks: &[ReportBlock]) -> Vec<ReceptionReport> {
    blocks
        .iter()
        .map(|block| ReceptionReport {
            ssrc: block.ssrc,
            fraction_lost: block.fraction_lost,
            total_lost: block.cumulative_lost as u32,
            last_sequence_number: block.sequence_max,
            jitter: block.jitter,
            last_sender_report: block.last_sr,
            delay: block.delay_since_sr,
        })
        .collect()
}

fn ours_of(reports: &[ReceptionReport]) -> Vec<ReportBlock> {
    reports
        .iter()
        .map(|report| ReportBlock {
            ssrc: report.ssrc,
            fraction_lost: report.fraction_lost,
            cumulative_lost: report.total_lost as i32,
            sequence_max: report.last_sequence_number,
            jitter: report.jitter,
            last_sr: report.last_sender_report,
            delay_since_sr: report.delay,
        })
        .collect()
}

fn built_by_them(said: &Said) -> Vec<u8> {
    let packet: Box<dyn Packet + Send + Sync> = match said.clone() {
        Said::Sender { ssrc, ntp, rtp, packets, octets, blocks } => Box::new(SenderReport {
            ssrc,
            ntp_time: ntp,
            rtp_time: rtp,
            packet_count: packets,
            octet_count: octets,
            reports: theirs_of(&blocks),
            ..SenderReport::default()
        }),
        Said::Receiver { ssrc, blocks } => {
            Box::new(ReceiverReport { ssrc, reports: theirs_of(&blocks), ..ReceiverReport::default() })
        }
        Said::Nack { sender, media, losses } => Box::new(TransportLayerNack {
            sender_ssrc: sender,
            media_ssrc: media,
            nacks: nack_pairs_from_sequence_numbers(&losses),
        }),
        Said::Pli { sender, media } => Box::new(PictureLossIndication { sender_ssrc: sender, media_ssrc: media }),
        Said::Fir { sender, entries } => Box::new(FullIntraRequest {
            sender_ssrc: sender,
            media_ssrc: 0,
            fir: entries.iter().map(|(ssrc, sequence)| FirEntry { ssrc: *ssrc, sequence_number: *sequence }).collect(),
        }),
        Said::Bye { ssrcs } => Box::new(Goodbye { sources: ssrcs, ..Goodbye::default() }),
        Said::Cname { ssrc, cname } => Box::new(SourceDescription {
            chunks: vec![rtcp::source_description::SourceDescriptionChunk {
                source: ssrc,
                items: vec![rtcp::source_description::SourceDescriptionItem { sdes_type: SdesType::SdesCname, text: cname.into() }],
            }],
        }),
    };
    rtcp::packet::marshal(&[packet]).unwrap().to_vec()
}

fn built_by_us(said: &Said) -> Vec<u8> {
    let mut out = [0xAA; 2_048];
    let length = match said {
        Said::Sender { ssrc, ntp, rtp, packets, octets, blocks } => {
            ours::write_sr(&mut out, *ssrc, NtpTime(*ntp), *rtp, *packets, *octets, blocks)
        }
        Said::Receiver { ssrc, blocks } => ours::write_rr(&mut out, *ssrc, blocks),
        Said::Nack { sender, media, losses } => ours::write_nack(&mut out, *sender, *media, losses),
        Said::Pli { sender, media } => ours::write_pli(&mut out, *sender, *media),
        Said::Fir { sender, entries } => ours::write_fir(&mut out, *sender, entries[0].0, entries[0].1),
        Said::Bye { ssrcs } => ours::write_bye(&mut out, ssrcs),
        Said::Cname { ssrc, cname } => ours::write_sdes_cname(&mut out, *ssrc, cname),
    };
    out[..length.unwrap()].to_vec()
}

/// None: for us a source description is `Other`.
fn read_by_us(packet: Rtcp<'_>) -> Option<Said> {
    Some(match packet {
        Rtcp::SenderReport { ssrc, ntp, rtp, packets, octets, blocks } => {
            Said::Sender { ssrc, ntp: ntp.0, rtp, packets, octets, blocks: blocks.collect() }
        }
        Rtcp::ReceiverReport { ssrc, blocks } => Said::Receiver { ssrc, blocks: blocks.collect() },
        Rtcp::Nack { sender, media, losses } => Said::Nack { sender, media, losses: losses.collect() },
        Rtcp::Pli { sender, media } => Said::Pli { sender, media },
        Rtcp::Fir { sender, entries } => Said::Fir { sender, entries: entries.map(|e| (e.media, e.sequence)).collect() },
        Rtcp::Bye { ssrcs } => Said::Bye { ssrcs: ssrcs.collect() },
        Rtcp::Other => return None,
    })
}

fn read_by_them(packet: &(dyn Packet + Send + Sync)) -> Said {
    let any = packet.as_any();
    if let Some(p) = any.downcast_ref::<SenderReport>() {
        Said::Sender {
            ssrc: p.ssrc,
            ntp: p.ntp_time,
            rtp: p.rtp_time,
            packets: p.packet_count,
            octets: p.octet_count,
            blocks: ours_of(&p.reports),
        }
    } else if let Some(p) = any.downcast_ref::<ReceiverReport>() {
        Said::Receiver { ssrc: p.ssrc, blocks: ours_of(&p.reports) }
    } else if let Some(p) = any.downcast_ref::<TransportLayerNack>() {
        let losses = p.nacks.iter().flat_map(|pair| pair.packet_list()).collect();
        Said::Nack { sender: p.sender_ssrc, media: p.media_ssrc, losses }
    } else if let Some(p) = any.downcast_ref::<PictureLossIndication>() {
        Said::Pli { sender: p.sender_ssrc, media: p.media_ssrc }
    } else if let Some(p) = any.downcast_ref::<FullIntraRequest>() {
        Said::Fir { sender: p.sender_ssrc, entries: p.fir.iter().map(|e| (e.ssrc, e.sequence_number)).collect() }
    } else if let Some(p) = any.downcast_ref::<Goodbye>() {
        Said::Bye { ssrcs: p.sources.clone() }
    } else if let Some(p) = any.downcast_ref::<SourceDescription>() {
        let item = &p.chunks[0].items[0];
        assert_eq!(item.sdes_type, SdesType::SdesCname);
        Said::Cname { ssrc: p.chunks[0].source, cname: String::from_utf8(item.text.to_vec()).unwrap() }
    } else {
        panic!("{packet:?}")
    }
}

#[test]
fn compounds_of_theirs_read_as_they_meant_them() {
    let mut rng = Rng::new(3);
    for round in 0..ROUNDS {
        let said: Vec<Said> = (0..1 + rng.below(4)).map(|_| say(&mut rng)).collect();
        let compound = said.iter().flat_map(built_by_them).collect::<Vec<u8>>();
        let read: Vec<Option<Said>> = ours::packets(&compound).map(read_by_us).collect();
        let expected: Vec<Option<Said>> =
            said.into_iter().map(|said| (!matches!(said, Said::Cname { .. })).then_some(said)).collect();
        assert_eq!(read, expected, "round {round}");
    }
}

#[test]
fn compounds_of_ours_are_read_by_them() {
    let mut rng = Rng::new(4);
    for round in 0..ROUNDS {
        let said: Vec<Said> = (0..1 + rng.below(4)).map(|_| say(&mut rng)).collect();
        let compound = said.iter().flat_map(built_by_us).collect::<Vec<u8>>();
        let read: Vec<Said> =
            unmarshal(&mut &compound[..]).unwrap().iter().map(|packet| read_by_them(packet.as_ref())).collect();
        assert_eq!(read, said, "round {round}");
    }
}

/// Transport-wide feedback over random losses, gaps and reorderings: what they read are the arrivals that were told, to
/// the 250 us the format has.
#[test]
fn transport_feedback_of_ours_tells_them_the_arrivals() {
    const UNIT: u64 = 250_000;
    let mut rng = Rng::new(5);
    let mut told = 0;
    for round in 0..ROUNDS {
        let count = 1 + rng.below(500) as usize;
        let lossy = rng.below(3);
        let mut at = rng.below(1 << 40);
        let arrivals: Vec<Option<u64>> = (0..count)
            .map(|_| {
                at += match rng.below(20) {
                    0 => rng.below(400_000_000),
                    1 if round % 50 == 0 => rng.below(20_000_000_000),
                    _ => rng.below(3_000_000),
                };
                // Now and then one overtook the other.
                let came = if rng.below(15) == 0 { at.saturating_sub(30_000_000) } else { at };
                (rng.below(10) >= 4 * lossy).then_some(came)
            })
            .collect();
        let (base, number) = (rng.next_u32() as u16, rng.next_u32() as u8);
        let mut out = [0xAA; 1_200];
        let written = transport_cc::write_feedback(&mut out, (1, 2), number, base, count, |n| arrivals.get(n).copied().flatten());
        let Some((length, covered)) = written else {
            assert!(arrivals.iter().take(transport_cc::STATUSES_MAX).all(Option::is_none));
            continue;
        };
        let read = unmarshal(&mut &out[..length]).unwrap();
        let theirs = read[0].as_any().downcast_ref::<TransportLayerCc>().expect("transport feedback");
        assert_eq!((theirs.sender_ssrc, theirs.media_ssrc, theirs.fb_pkt_count), (1, 2, number));
        assert_eq!((theirs.base_sequence_number, usize::from(theirs.packet_status_count)), (base, covered));
        let came: Vec<bool> = theirs
            .packet_chunks
            .iter()
            .flat_map(|chunk| match chunk {
                PacketStatusChunk::RunLengthChunk(run) => vec![run.packet_status_symbol; usize::from(run.run_length)],
                PacketStatusChunk::StatusVectorChunk(vector) => vector.symbol_list.clone(),
            })
            .map(|symbol| symbol != SymbolTypeTcc::PacketNotReceived)
            .take(covered)
            .collect();
        assert!(came.iter().eq(arrivals[..covered].iter().map(Option::is_some).collect::<Vec<_>>().iter()));
        let mut clock = u64::from(theirs.reference_time) * 64_000_000;
        for (delta, arrival) in theirs.recv_deltas.iter().zip(arrivals[..covered].iter().flatten()) {
            clock = clock.wrapping_add_signed(delta.delta * 1_000);
            assert_eq!(clock / UNIT, arrival / UNIT, "round {round}");
            told += 1;
        }
        assert_eq!(theirs.recv_deltas.len(), arrivals[..covered].iter().flatten().count());
    }
    assert!(told > 100_000);
}
