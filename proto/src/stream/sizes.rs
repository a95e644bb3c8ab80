//! Which packets of a picture get a byte of padding, so that the picture is one GSO send and not two.
//!
//! Libwebrtc splits a picture "about equally": the first packets have s bytes, the last ones s + 1. The segments of a send
//! have one size, and a send costs the kernel as much as three packets do. So where a track splits like that, what has s
//! bytes is followed by one byte of RTP padding (RFC 3550 section 5.1).
//!
//! It is decided once, when the packet comes, for all viewers and all repeats: what is sealed again under its nonce must
//! be the same bytes. Pure; owned by the publisher's shard.

use crate::limits::PADDED_BYTES_MAX;

/// For so many pictures without the step of one byte a track is still taken for one that has it: a picture that divides
/// without rest has none.
const TRUST: u8 = 32;

#[derive(Clone, Copy, Default, Debug)]
pub struct Sizes {
    timestamp: u32,
    /// Packets of this picture so far, and the last one's size.
    packets: u32,
    before: usize,
    /// This picture has a packet that is one byte longer than the one before it.
    stepped: bool,
    /// What this picture's packets are padded to; 0: nothing was padded yet.
    target: usize,
    trust: u8,
}

impl Sizes {
    /// A packet in order, of a picture: whether it is padded. `is_whole`: it is all of the picture.
    pub fn pads(&mut self, timestamp: u32, size: usize, is_whole: bool) -> bool {
        if self.packets == 0 || timestamp != self.timestamp {
            let doubt = u8::from(self.packets > 1 && !self.stepped);
            *self = Sizes { timestamp, trust: self.trust.saturating_sub(doubt), ..Sizes::default() };
        }
        let is_trusted = self.trust > 0;
        if self.packets > 0 && size == self.before + 1 {
            (self.stepped, self.trust) = (true, TRUST);
        }
        self.packets += 1;
        self.before = size;
        if !is_trusted || is_whole || size >= PADDED_BYTES_MAX {
            return false;
        }
        if size > self.target {
            self.target = size + 1;
        }
        size + 1 == self.target
    }
}

#[cfg(test)]
mod tests {
    //! Goal: pictures that are split about equally come out in packets of one size, and nobody else's are touched.
    //! Method: pictures as libwebrtc, OBS and ffmpeg split them, one after the other.

    use super::*;

    /// What the packets of one picture come to.
    fn picture(sizes: &mut Sizes, timestamp: u32, packets: &[usize]) -> Vec<usize> {
        packets.iter().map(|size| size + usize::from(sizes.pads(timestamp, *size, packets.len() == 1))).collect()
    }

    #[test]
    fn from_the_second_picture_on_all_packets_of_one_have_one_size() {
        let mut sizes = Sizes::default();
        assert_eq!(picture(&mut sizes, 0, &[900, 900, 900, 901]), [900, 900, 900, 901], "nothing is known yet");
        assert_eq!(picture(&mut sizes, 1, &[700, 700, 701, 701]), [701; 4]);
        assert_eq!(picture(&mut sizes, 2, &[650, 650, 650]), [651; 3], "it divides without rest, which is not known at the first");
        assert_eq!(picture(&mut sizes, 3, &[333]), [333], "one packet is one send");
        assert_eq!(picture(&mut sizes, 4, &[40, 1_100, 1_100, 1_101]), [41, 1_101, 1_101, 1_101], "parameter sets, then the picture");
        assert_eq!(picture(&mut sizes, 5, &[800, 800, 801, 200]), [801, 801, 801, 200], "a short last one");
    }

    #[test]
    fn who_fills_packets_up_is_left_alone() {
        let mut sizes = Sizes::default();
        for n in 0..100 {
            assert_eq!(picture(&mut sizes, n, &[1_200, 1_200, 1_200, 77]), [1_200, 1_200, 1_200, 77]);
        }
    }

    #[test]
    fn who_changes_its_way_of_splitting_is_left_alone_after_a_while() {
        let mut sizes = Sizes::default();
        picture(&mut sizes, 0, &[900, 901]);
        let padded = (1..200).filter(|n| picture(&mut sizes, *n, &[1_100, 1_100, 77]) != [1_100, 1_100, 77]).count();
        assert_eq!(padded, usize::from(TRUST));
        // The same moment again (a clock that stands still) is one picture that goes on.
        let mut sizes = Sizes::default();
        picture(&mut sizes, 0, &[900, 901]);
        assert_eq!(picture(&mut sizes, 0, &[900, 900]), [901, 901]);
    }

    #[test]
    fn a_packet_never_grows_beyond_the_bound() {
        let mut sizes = Sizes::default();
        picture(&mut sizes, 0, &[900, 901]);
        let largest = PADDED_BYTES_MAX;
        assert_eq!(picture(&mut sizes, 1, &[largest - 1, largest - 1, largest]), [largest; 3]);
        assert_eq!(picture(&mut sizes, 2, &[largest, largest, largest + 1]), [largest, largest, largest + 1]);
    }
}
