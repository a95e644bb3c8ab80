//! H264 payloads (RFC 6184, packetization modes 0 and 1): single NAL units, STAP-A, FU-A.

use super::PayloadFacts;

/// NAL unit types of ITU-T H.264 table 7-1, and of RFC 6184 section 5.2.
pub const SLICE_IDR: u8 = 5;
pub const SPS: u8 = 7;
pub const PPS: u8 = 8;
pub const STAP_A: u8 = 24;
pub const FU_A: u8 = 28;

/// The type of a NAL unit, by its first byte.
pub const fn nal_type(first: u8) -> u8 {
    first & 0x1F
}

pub fn facts(payload: &[u8]) -> PayloadFacts {
    let mut facts = PayloadFacts::NONE;
    let Some((first, rest)) = payload.split_first() else {
        return facts;
    };
    match nal_type(*first) {
        1..=23 => take(&mut facts, nal_type(*first), rest),
        STAP_A => {
            // Two bytes of size before each unit; every turn takes at least these.
            let mut rest = rest;
            while let Some((size, units)) = rest.split_first_chunk() {
                let Some((unit, units)) = units.split_at_checked(usize::from(u16::from_be_bytes(*size))) else {
                    break;
                };
                if let Some((first, body)) = unit.split_first() {
                    take(&mut facts, nal_type(*first), body);
                }
                rest = units;
            }
        }
        FU_A => {
            if let Some((head, body)) = rest.split_first() {
                match head & 0x80 != 0 {
                    true => take(&mut facts, nal_type(*head), body),
                    // It goes on with a unit that began before.
                    false => facts.frame_start = Some(false),
                }
            }
        }
        // STAP-B, MTAP and FU-B belong to the interleaved mode, which nobody negotiates.
        _ => {}
    }
    facts
}

/// `body`: the unit's bytes behind its header byte, as far as this packet has them.
fn take(facts: &mut PayloadFacts, kind: u8, body: &[u8]) {
    match kind {
        SPS => facts.parameter_sets = true,
        PPS => facts.picture_sets = true,
        // A slice begins with first_mb_in_slice (H.264 section 7.3.3); zero is coded as a single 1 bit.
        // Encoders that slice by thread (x264 zerolatency) send many IDR slices per picture.
        SLICE_IDR => facts.keyframe |= body.first().is_some_and(|byte| byte & 0x80 != 0),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::torture::torture;

    const NOTHING: PayloadFacts = PayloadFacts::NONE;
    const KEYFRAME: PayloadFacts = PayloadFacts { keyframe: true, ..PayloadFacts::NONE };
    const SPS_ALONE: PayloadFacts = PayloadFacts { parameter_sets: true, ..PayloadFacts::NONE };
    const MIDDLE: PayloadFacts = PayloadFacts { frame_start: Some(false), ..PayloadFacts::NONE };
    const PPS_ALONE: PayloadFacts = PayloadFacts { picture_sets: true, ..PayloadFacts::NONE };
    const SETS: PayloadFacts = PayloadFacts { picture_sets: true, ..SPS_ALONE };
    const ALL: PayloadFacts = PayloadFacts { keyframe: true, ..SETS };

    #[test]
    fn single_units() {
        assert_eq!(facts(&[0x65, 0x88, 0x84]), KEYFRAME, "IDR slice from macroblock 0");
        assert_eq!(facts(&[0x65, 0x48, 0x84]), NOTHING, "a later slice of the same IDR picture");
        assert_eq!(facts(&[0x41, 0x9A, 0x00]), NOTHING, "P slice");
        assert_eq!(facts(&[0x67, 0x42, 0xE0]), SPS_ALONE, "SPS");
        assert_eq!(facts(&[0x68, 0xCE]), PPS_ALONE, "PPS");
        assert_eq!(facts(&[0x65]), NOTHING, "no slice behind the header");
        assert_eq!(facts(&[]), NOTHING);
    }

    #[test]
    fn aggregates() {
        let sps_pps = [0x78, 0, 3, 0x67, 0x42, 0xE0, 0, 2, 0x68, 0xCE];
        assert_eq!(facts(&sps_pps), SETS);
        let mut with_idr = sps_pps.to_vec();
        with_idr.extend([0, 2, 0x65, 0x88]);
        assert_eq!(facts(&with_idr), ALL);
        with_idr[12] = 0xFF;
        with_idr.truncate(13);
        assert_eq!(facts(&with_idr), SETS, "the damaged unit is left out");
        assert_eq!(facts(&[0x78, 0, 0, 0, 2, 0x65, 0x88]), KEYFRAME, "an empty unit is passed over");
        assert_eq!(facts(&[0x78, 0]), NOTHING);
    }

    #[test]
    fn fragments() {
        assert_eq!(facts(&[0x7C, 0x85, 0x88]), KEYFRAME, "start of an IDR slice");
        assert_eq!(facts(&[0x7C, 0x05, 0x88]), MIDDLE, "its middle");
        assert_eq!(facts(&[0x7C, 0x45, 0x88]), MIDDLE, "its end");
        assert_eq!(facts(&[0x7C, 0x85, 0x48]), NOTHING, "start of a later slice");
        assert_eq!(facts(&[0x5C, 0x81, 0x9A]), NOTHING, "start of a P slice");
        assert_eq!(facts(&[0x7C, 0x87, 0x42]), SPS_ALONE, "an SPS that needs two packets");
        assert_eq!(facts(&[0x7C]), NOTHING);
        assert_eq!(facts(&[0x7C, 0x85]), NOTHING);
    }

    #[test]
    fn damaged_payloads_never_panic() {
        torture(&[&[0x78, 0, 3, 0x67, 0x42, 0xE0, 0, 2, 0x65, 0x88], &[0x7C, 0x85, 0x88], &[0x65, 0x88]], |payload| {
            facts(payload);
        });
    }
}
