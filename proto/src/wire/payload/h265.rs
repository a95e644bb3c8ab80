//! H265 payloads (RFC 7798): single NAL units, aggregation packets, fragmentation units, and PACI around one of them.
//!
//! ```text
//!  +-+-----------+-----------+-----+
//!  |F|   Type    |  LayerId  | TID |   16 bits before every unit and every payload structure
//!  +-+-----------+-----------+-----+
//! ```

use super::PayloadFacts;

/// NAL unit types of ITU-T H.265 table 7-1, and of RFC 7798 section 4.4.
pub const IRAP_FIRST: u8 = 16;
pub const IRAP_LAST: u8 = 23;
pub const VPS: u8 = 32;
pub const SPS: u8 = 33;
pub const PPS: u8 = 34;
pub const AUD: u8 = 35;
pub const AP: u8 = 48;
pub const FU: u8 = 49;
pub const PACI: u8 = 50;

pub const HEADER_BYTES: usize = 2;

/// The type of a NAL unit, by its first byte.
pub const fn nal_type(first: u8) -> u8 {
    first >> 1 & 0x3F
}

/// The layer of a NAL unit; 0 for everything but scalable and multiview extensions.
const fn layer_id(header: [u8; HEADER_BYTES]) -> u8 {
    (header[0] & 1) << 5 | header[1] >> 3
}

pub fn facts(payload: &[u8]) -> PayloadFacts {
    let mut facts = PayloadFacts::NONE;
    if let Some((header, rest)) = payload.split_first_chunk::<HEADER_BYTES>() {
        take_payload(&mut facts, nal_type(header[0]), layer_id(*header), rest);
    }
    facts
}

fn take_payload(facts: &mut PayloadFacts, kind: u8, layer: u8, rest: &[u8]) {
    match kind {
        AP => take_aggregate(facts, rest),
        FU => take_fragment(facts, layer, rest),
        PACI => {
            // RFC 7798 section 4.4.4: A, cType (6 bits), PHSsize (5), F0..2 and Y; PHES; then the payload of a
            // packet of type cType, whose header is PACI's own. PACI does not nest.
            let Some((fields, rest)) = rest.split_first_chunk::<2>() else { return };
            let (kind, extension) = (fields[0] >> 1 & 0x3F, usize::from((fields[0] & 1) << 4 | fields[1] >> 4));
            let Some(rest) = rest.get(extension..) else { return };
            match kind {
                PACI => {}
                AP => take_aggregate(facts, rest),
                FU => take_fragment(facts, layer, rest),
                kind => take(facts, kind, layer, rest),
            }
        }
        kind => take(facts, kind, layer, rest),
    }
}

/// RFC 7798 section 4.4.2, without DONL: nobody negotiates sprop-max-don-diff above 0.
fn take_aggregate(facts: &mut PayloadFacts, rest: &[u8]) {
    let mut rest = rest;
    // Two bytes of size before each unit; every turn takes at least these.
    while let Some((size, units)) = rest.split_first_chunk() {
        let Some((unit, units)) = units.split_at_checked(usize::from(u16::from_be_bytes(*size))) else {
            break;
        };
        if let Some((header, body)) = unit.split_first_chunk::<HEADER_BYTES>() {
            take(facts, nal_type(header[0]), layer_id(*header), body);
        }
        rest = units;
    }
}

/// RFC 7798 section 4.4.3: S, E, FuType; the unit's own header is left out.
fn take_fragment(facts: &mut PayloadFacts, layer: u8, rest: &[u8]) {
    let Some((head, body)) = rest.split_first() else { return };
    if head & 0x80 != 0 {
        take(facts, head & 0x3F, layer, body);
    } else {
        facts.frame_start = Some(false);
    }
}

/// `body`: the unit's bytes behind its header, as far as this packet has them.
fn take(facts: &mut PayloadFacts, kind: u8, layer: u8, body: &[u8]) {
    if layer != 0 {
        return;
    }
    match kind {
        VPS | SPS | PPS => facts.parameter_sets = true,
        // H.265 section 7.4.2.4.4: nothing of the picture stands before its delimiter.
        AUD => facts.frame_start = Some(true),
        // A slice segment begins with first_slice_segment_in_pic_flag (H.265 section 7.3.6.1). A CRA's leading
        // pictures cannot be decoded by who begins there, and decoders leave them out by themselves.
        IRAP_FIRST..=IRAP_LAST => facts.keyframe |= body.first().is_some_and(|byte| byte & 0x80 != 0),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::torture::torture;

    const NOTHING: PayloadFacts = PayloadFacts::NONE;
    const KEYFRAME: PayloadFacts = PayloadFacts { keyframe: true, ..PayloadFacts::NONE };
    const SETS: PayloadFacts = PayloadFacts { parameter_sets: true, ..PayloadFacts::NONE };
    const BOTH: PayloadFacts = PayloadFacts { keyframe: true, parameter_sets: true, ..PayloadFacts::NONE };
    const MIDDLE: PayloadFacts = PayloadFacts { frame_start: Some(false), ..PayloadFacts::NONE };

    #[test]
    fn single_units() {
        assert_eq!(facts(&[0x26, 0x01, 0xAF, 0x08]), KEYFRAME, "IDR_W_RADL, first slice");
        assert_eq!(facts(&[0x28, 0x01, 0xAF]), KEYFRAME, "IDR_N_LP");
        assert_eq!(facts(&[0x2A, 0x01, 0xAF]), KEYFRAME, "CRA");
        assert_eq!(facts(&[0x20, 0x01, 0xAF]), KEYFRAME, "BLA_W_LP, the first of the IRAP types");
        assert_eq!(facts(&[0x2E, 0x01, 0xAF]), KEYFRAME, "type 23, the last of them");
        assert_eq!(facts(&[0x30, 0x01, 0xAF]), NOTHING, "type 24");
        assert_eq!(facts(&[0x1E, 0x01, 0xAF]), NOTHING, "type 15");
        assert_eq!(facts(&[0x26, 0x01, 0x2F]), NOTHING, "a later slice of the same picture");
        assert_eq!(facts(&[0x26, 0x09, 0xAF]), NOTHING, "another layer");
        assert_eq!(facts(&[0x02, 0x01, 0xD0]), NOTHING, "TRAIL_R");
        for set in [0x40, 0x42, 0x44] {
            assert_eq!(facts(&[set, 0x01, 0x0C]), SETS, "VPS, SPS, PPS");
        }
        assert_eq!(facts(&[0x46, 0x01, 0x50]).frame_start, Some(true), "a delimiter");
        assert_eq!(facts(&[0x26, 0x01]), NOTHING, "no slice behind the header");
        assert_eq!(facts(&[0x26]), NOTHING);
        assert_eq!(facts(&[]), NOTHING);
    }

    #[test]
    fn aggregates() {
        let sets = [0x60, 0x01, 0, 3, 0x40, 0x01, 0x0C, 0, 3, 0x42, 0x01, 0x01, 0, 3, 0x44, 0x01, 0xC0];
        assert_eq!(facts(&sets), SETS);
        let with_idr = [&sets[..], &[0, 3, 0x26, 0x01, 0xAF]].concat();
        assert_eq!(facts(&with_idr), BOTH);
        assert_eq!(facts(&with_idr[..with_idr.len() - 1]), SETS, "the damaged unit is left out");
        assert_eq!(facts(&[0x60, 0x01, 0, 0, 0, 3, 0x26, 0x01, 0xAF]), KEYFRAME, "an empty unit is passed over");
        assert_eq!(facts(&[0x60, 0x01, 0]), NOTHING);
    }

    #[test]
    fn fragments() {
        assert_eq!(facts(&[0x62, 0x01, 0x93, 0xAF]), KEYFRAME, "start of an IDR slice");
        assert_eq!(facts(&[0x62, 0x01, 0x13, 0xAF]), MIDDLE);
        assert_eq!(facts(&[0x62, 0x01, 0x53, 0xAF]), MIDDLE, "its end");
        assert_eq!(facts(&[0x62, 0x01, 0x93, 0x2F]), NOTHING, "start of a later slice");
        assert_eq!(facts(&[0x62, 0x01, 0x81, 0xD0]), NOTHING, "start of a TRAIL_R slice");
        assert_eq!(facts(&[0x62, 0x01, 0xA0, 0x0C]), SETS, "a VPS that needs two packets");
        assert_eq!(facts(&[0x62, 0x09, 0x93, 0xAF]), NOTHING, "another layer");
        assert_eq!(facts(&[0x62, 0x01, 0x93]), NOTHING);
        assert_eq!(facts(&[0x62, 0x01]), NOTHING);
    }

    #[test]
    fn paci_is_looked_through() {
        // cType 19 (IDR_W_RADL), a header extension of three bytes (TSCI, F0).
        assert_eq!(facts(&[0x64, 0x01, 0x26, 0x38, 1, 2, 3, 0xAF]), KEYFRAME);
        // Around the start of a fragment, and around an aggregate.
        assert_eq!(facts(&[0x64, 0x01, 0x62, 0x00, 0x93, 0xAF]), KEYFRAME);
        assert_eq!(facts(&[0x64, 0x01, 0x60, 0x10, 9, 0, 3, 0x42, 0x01, 0x01]), SETS);
        // Size 17: its highest bit stands in the first byte.
        let mut long = vec![0x64, 0x01, 0x27, 0x10];
        long.extend([0; 17]);
        assert_eq!(facts(&long), NOTHING);
        long.push(0xAF);
        assert_eq!(facts(&long), KEYFRAME);
        assert_eq!(facts(&[0x64, 0x01, 0x64, 0x00, 0x26, 0x00, 0xAF]), NOTHING, "PACI in PACI");
        assert_eq!(facts(&[0x64, 0x01, 0x26]), NOTHING);
    }

    #[test]
    fn damaged_payloads_never_panic() {
        let valid: [&[u8]; 4] = [
            &[0x60, 0x01, 0, 3, 0x40, 0x01, 0x0C, 0, 3, 0x26, 0x01, 0xAF],
            &[0x62, 0x01, 0x93, 0xAF],
            &[0x64, 0x01, 0x26, 0x38, 1, 2, 3, 0xAF],
            &[0x26, 0x01, 0xAF],
        ];
        torture(&valid, |payload| {
            facts(payload);
        });
    }
}
