//! What a publisher's encoder needs to raise its bitrate: when its packets arrived (transport-cc), or a bound (REMB).
//!
//! The estimate itself is the publisher's. A publisher that negotiated neither gets receiver reports and no more.

use super::Core;
use super::session::{REPORT_SSRC, Session};
use super::timers::Timers;
use spillway_proto::limits::{REMB_BPS, TRACKS_PER_STREAM_MAX};
use spillway_proto::link::command::TrackFacts;
use spillway_proto::link::counters::CounterId;
use spillway_proto::stream::arrivals::Arrivals;
use spillway_proto::wire::rtcp;
use spillway_proto::wire::rtp::Rtp;
use spillway_proto::wire::rtp_ext;

/// Feedback packets for one publisher per turn: 1,600 arrivals, six times what 50 Mbit/s bring in 50 ms.
const FEEDBACKS_PER_TURN_MAX: usize = 4;

impl Session {
    /// A track was attached to this publisher.
    pub fn watch_arrivals(&mut self, facts: &TrackFacts, timers: &mut Timers) {
        let extension = facts.extensions.transport_cc;
        if facts.feedback.transport_cc && extension != 0 && self.arrivals.is_none() {
            self.arrivals = Some(Box::new(Arrivals::new(extension)));
            timers.feedback.push(self.id.index);
        }
    }

    /// The sources REMB speaks of; none if no track negotiated it.
    fn remb_sources(&self) -> ([u32; TRACKS_PER_STREAM_MAX], usize) {
        let mut sources = [0; TRACKS_PER_STREAM_MAX];
        let heard = self.sources.iter().filter(|source| source.facts.feedback.remb && source.facts.ssrc != 0);
        let count = heard.zip(&mut sources).map(|(source, place)| *place = source.facts.ssrc).count();
        (sources, count)
    }
}

impl Core {
    /// Every opened packet of a publisher counts, whatever becomes of it.
    pub fn note_arrival(&mut self, session: &mut Session, rtp: &Rtp<'_>) {
        let Some(arrivals) = session.arrivals.as_deref_mut() else { return };
        let Some((profile, block)) = rtp.extension else { return };
        let number = rtp_ext::elements(profile, block).find(|(id, _)| *id == arrivals.extension);
        let Some((_, &[high, low])) = number else { return };
        arrivals.on_packet(self.now, u16::from_be_bytes([high, low]));
        self.timers.feedback_at = self.timers.feedback_at.min(arrivals.deadline());
    }

    /// Tells every publisher what is due.
    pub fn send_feedback(&mut self) {
        let now = self.now;
        if self.timers.feedback_at > now {
            return;
        }
        let mut next = spillway_proto::time::Time::NEVER;
        for at in (0..self.timers.feedback.len()).rev() {
            let Some(&slot) = self.timers.feedback.get(at) else { continue };
            let Some(mut session) = self.sessions.get_mut(slot as usize).and_then(Option::take) else {
                self.timers.feedback.swap_remove(at);
                continue;
            };
            if let Some(mut arrivals) = session.arrivals.take() {
                if arrivals.deadline() <= now {
                    let media = session.sources.first().map_or(0, |source| source.facts.ssrc);
                    self.tell_arrivals(&session, &mut arrivals, media);
                }
                next = next.min(arrivals.deadline());
                session.arrivals = Some(arrivals);
            } else {
                self.timers.feedback.swap_remove(at);
            }
            self.sessions[slot as usize] = Some(session);
        }
        self.timers.feedback_at = next;
    }

    fn tell_arrivals(&mut self, session: &Session, arrivals: &mut Arrivals, media: u32) {
        let now = self.now;
        for _ in 0..FEEDBACKS_PER_TURN_MAX {
            let mut told = false;
            self.send_rtcp(session, |out| {
                let length = rtcp::write_rr(out, REPORT_SSRC, &[])?;
                let feedback = arrivals.write(now, out.get_mut(length..)?, REPORT_SSRC, media)?;
                told = true;
                Some(length + feedback)
            });
            if !told {
                return;
            }
            self.tally.add(CounterId::TransportFeedbacksSent, 1);
        }
    }

    /// With the receiver report of a publisher that knows only REMB.
    pub fn write_remb(session: &Session, out: &mut [u8]) -> Option<usize> {
        match session.remb_sources() {
            (_, 0) => Some(0),
            (sources, count) => rtcp::write_remb(out, REPORT_SSRC, REMB_BPS, sources.get(..count)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::shard::world::World;
    use spillway_proto::id::{Codec, Side, TrackId};
    use spillway_proto::link::command::{Extensions, TrackFacts, TrackFeedback};
    use spillway_proto::link::counters::CounterId;
    use std::time::Duration;

    const EXTENSION: u8 = 5;

    /// A connected publisher of a video and a sound that negotiated this.
    fn publishing(feedback: TrackFeedback, extension: u8) -> (World, usize) {
        let mut world = World::new(1);
        let publisher = world.add(0, Side::Publisher);
        let extensions = Extensions { transport_cc: extension, ..Extensions::default() };
        for (codec, payload_type, ssrc) in [(Codec::Vp8, 96, 77), (Codec::Opus, 111, 78)] {
            let facts = TrackFacts { feedback, extensions, ..TrackFacts::new(codec, payload_type, ssrc) };
            world.track_with(0, publisher, TrackId::NONE, facts);
        }
        world.connect();
        (world, publisher)
    }

    /// A packet with a transport-wide number.
    fn send(world: &mut World, publisher: usize, ssrc: u32, sequence: u16, number: u16) {
        let payload_type = if ssrc == 77 { 96 } else { 111 };
        let mut header = vec![0x90, payload_type, 0, 0, 0, 0, 0, 1, 0, 0, 0, ssrc as u8, 0xBE, 0xDE, 0, 1];
        header[2..4].copy_from_slice(&sequence.to_be_bytes());
        header.push(EXTENSION << 4 | 1);
        header.extend(number.to_be_bytes());
        header.push(0);
        let mut out = vec![0; 200];
        let client = &world.remotes[publisher].client;
        let length = client.seal_rtp(&header, &[7; 100], u64::from(sequence), &mut out).unwrap();
        out.truncate(length);
        world.push(publisher, out);
    }

    /// (base, count, statuses of "came" by its chunk of one bit each, deltas) of the transport feedback received.
    fn feedback(world: &World, publisher: usize) -> Vec<(u16, u16, Vec<u8>)> {
        let compounds = &world.remotes[publisher].compounds;
        let found = compounds.iter().filter(|compound| compound.len() > 10 && compound[8] & 0x1F == 15 && compound[9] == 205);
        found
            .map(|compound| {
                let packet = &compound[8..];
                let base = u16::from_be_bytes([packet[12], packet[13]]);
                (base, u16::from_be_bytes([packet[14], packet[15]]), packet[20..].to_vec())
            })
            .collect()
    }

    /// Both tracks count into one line of numbers, losses are told as losses, and nothing is told twice.
    #[test]
    fn a_publisher_hears_when_its_packets_arrived() {
        let feedback_wanted = TrackFeedback { transport_cc: true, ..TrackFeedback::default() };
        let (mut world, publisher) = publishing(feedback_wanted, EXTENSION);
        for n in 0..20u16 {
            let (ssrc, sequence) = if n % 2 == 0 { (77, n / 2) } else { (78, n / 2) };
            if n != 6 {
                send(&mut world, publisher, ssrc, sequence, 65_530u16.wrapping_add(n));
            }
            world.run(Duration::from_millis(2));
        }
        world.run(Duration::from_millis(100));
        let told = feedback(&world, publisher);
        assert_eq!(told.iter().map(|(_, count, _)| usize::from(*count)).sum::<usize>(), 20);
        assert_eq!((told[0].0, told[0].1), (65_530, 1), "at once after a silence");
        assert_eq!(told[1].0, 65_531);
        assert_eq!(world.counter(CounterId::TransportFeedbacksSent), told.len() as u64);
        let (count, body) = (usize::from(told[1].1), &told[1].2);
        assert!(count >= 8, "50 ms are more than one packet");
        // A vector of one bit each, five that came before the lost one.
        assert_eq!(body[0], 0b1011_1110);
        world.run(Duration::from_millis(500));
        assert_eq!(feedback(&world, publisher).len(), told.len(), "said once");
    }

    /// libwebrtc's own receivers tell every 50 to 250 ms; an encoder that hears more rarely is slow to rise.
    #[test]
    fn it_hears_twenty_times_a_second() {
        let (mut world, publisher) = publishing(TrackFeedback { transport_cc: true, ..TrackFeedback::default() }, EXTENSION);
        for n in 0..1_000 {
            send(&mut world, publisher, 77, n, n);
            world.run(Duration::from_millis(1));
        }
        let told = feedback(&world, publisher).len();
        assert!((18..=21).contains(&told), "{told} in a second");
    }

    #[test]
    fn who_did_not_negotiate_it_hears_none() {
        for (feedback_wanted, extension) in
            [(TrackFeedback::default(), EXTENSION), (TrackFeedback { transport_cc: true, ..TrackFeedback::default() }, 0)]
        {
            let (mut world, publisher) = publishing(feedback_wanted, extension);
            send(&mut world, publisher, 77, 1, 1);
            world.run(Duration::from_secs(2));
            assert_eq!(feedback(&world, publisher).len(), 0);
        }
    }

    #[test]
    fn a_publisher_with_remb_only_hears_the_bound() {
        let (mut world, publisher) = publishing(TrackFeedback { remb: true, ..TrackFeedback::default() }, 0);
        send(&mut world, publisher, 77, 1, 1);
        world.run(Duration::from_secs(2));
        let remb = |compound: &&Vec<u8>| compound.windows(4).any(|four| four == b"REMB");
        let compounds = &world.remotes[publisher].compounds;
        let last = compounds.iter().filter(remb).next_back().expect("a REMB within two seconds");
        let at = last.windows(4).position(|four| four == b"REMB").unwrap();
        let (exponent, mantissa) = (last[at + 5] >> 2, u64::from(last[at + 5] & 3) << 16 | u64::from(last[at + 6]) << 8 | u64::from(last[at + 7]));
        assert!(mantissa << exponent <= super::REMB_BPS && mantissa << exponent > super::REMB_BPS - 1_000);
        assert_eq!(last[at + 4], 2, "both sources");
    }
}
