//! The elements of an RTP header extension (RFC 8285), one-byte and two-byte form. What an id means is
//! negotiated in SDP and not known here.

/// RFC 8285 section 4.2.
const ONE_BYTE: u16 = 0xBEDE;
/// RFC 8285 section 4.3: 0x100 and four bits for the application.
const TWO_BYTE: u16 = 0x1000;

/// Ids and values of the block, in order. Broken or unknown forms yield what stands before the damage.
pub fn elements(profile: u16, block: &[u8]) -> Elements<'_> {
    let form = match profile {
        ONE_BYTE => Form::OneByte,
        _ if profile & 0xFFF0 == TWO_BYTE => Form::TwoByte,
        _ => return Elements { rest: &[], form: Form::OneByte },
    };
    Elements { rest: block, form }
}

#[derive(Clone, Copy, Debug)]
enum Form {
    OneByte,
    TwoByte,
}

/// Every turn takes at least one byte of the block.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    rest: &'a [u8],
    form: Form,
}

impl<'a> Iterator for Elements<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        // An id of 0 is one byte of padding in both forms.
        let skip = self.rest.iter().take_while(|byte| **byte == 0).count();
        let rest = std::mem::take(&mut self.rest).get(skip..)?;
        let (id, length, value) = match (self.form, rest) {
            // Id 0 with a length and id 15 end the block (RFC 8285 section 4.2).
            (Form::OneByte, [head, value @ ..]) => match head >> 4 {
                0 | 15 => return None,
                id => (id, usize::from(head & 0x0F) + 1, value),
            },
            (Form::TwoByte, [id, length, value @ ..]) => (*id, usize::from(*length), value),
            _ => return None,
        };
        let (value, rest) = value.split_at_checked(length)?;
        self.rest = rest;
        Some((id, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::torture::torture;

    fn all(profile: u16, block: &[u8]) -> Vec<(u8, Vec<u8>)> {
        elements(profile, block).map(|(id, value)| (id, value.to_vec())).collect()
    }

    #[test]
    fn one_byte_elements_with_padding_between_and_after() {
        // The third example of RFC 8285 section 4.2, with values.
        let block = b"\x10\xAA\x21\xB0\xB1\x00\x00\x33\xC0\xC1\xC2\xC3\x00";
        assert_eq!(
            all(0xBEDE, block),
            [(1, vec![0xAA]), (2, vec![0xB0, 0xB1]), (3, vec![0xC0, 0xC1, 0xC2, 0xC3])]
        );
    }

    #[test]
    fn two_byte_elements_may_be_empty_and_long() {
        let mut block = vec![1, 0, 0, 0, 2, 1, 0xBB, 200, 40];
        block.extend([7; 40]);
        assert_eq!(all(0x1000, &block), [(1, vec![]), (2, vec![0xBB]), (200, vec![7; 40])]);
        assert_eq!(all(0x100F, &block).len(), 3, "the application's bits do not matter");
    }

    #[test]
    fn damage_ends_the_block_and_keeps_what_stood_before() {
        assert_eq!(all(0xBEDE, b"\x10\xAA\xF0\xBB\x10\xCC"), [(1, vec![0xAA])], "id 15");
        assert_eq!(all(0xBEDE, b"\x10\xAA\x03\xBB\x10\xCC"), [(1, vec![0xAA])], "id 0 with a length");
        assert_eq!(all(0xBEDE, b"\x10\xAA\x22\xBB"), [(1, vec![0xAA])], "value past the end");
        assert_eq!(all(0x1000, b"\x01\x01\xAA\x02"), [(1, vec![0xAA])], "no length byte");
        assert_eq!(all(0x1234, b"\x10\xAA"), [], "another profile");
    }

    #[test]
    fn damaged_blocks_never_panic() {
        let blocks: [&[u8]; 2] = [b"\x10\xAA\x21\xB0\xB1\x00\x33\xC0\xC1\xC2\xC3\x00", b"\x01\x00\x02\x03abc\x00\x05\x01z"];
        torture(&blocks, |block| {
            for profile in [0xBEDE, 0x1000] {
                assert!(elements(profile, block).count() <= block.len());
            }
        });
    }
}
