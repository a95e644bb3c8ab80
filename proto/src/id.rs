//! Names of things that live in tables: an index and the generation that was in it.
//!
//! A generation is never 0 in a live name, and grows with each reuse of the index, so that an old name
//! never means a new thing.

use std::fmt;

macro_rules! slab_id {
    ($(#[$doc:meta])* $name:ident, $letter:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(C)]
        pub struct $name {
            pub index: u32,
            pub generation: u32,
        }

        impl $name {
            pub const NONE: $name = $name { index: 0, generation: 0 };

            pub const fn new(index: u32, generation: u32) -> $name {
                $name { index, generation }
            }
            pub const fn is_none(self) -> bool {
                self.generation == 0
            }
            pub const fn to_bits(self) -> u64 {
                (self.generation as u64) << 32 | self.index as u64
            }
            pub const fn from_bits(bits: u64) -> $name {
                $name { index: bits as u32, generation: (bits >> 32) as u32 }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($letter, "{}.{}"), self.index, self.generation)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }
    };
}

slab_id!(
    /// A session: one remote's ICE, DTLS and SRTP association.
    SessionId, "s"
);
slab_id!(
    /// A track: one audio or video of a stream. Its reel has the same index.
    TrackId, "t"
);
slab_id!(
    /// A feed: one track as sent to one session.
    FeedId, "f"
);
slab_id!(
    /// A stream's place: the number of its reel file.
    StreamId, "m"
);

/// What is coded in a track's packets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum Codec {
    H264 = 1,
    Vp8 = 2,
    Opus = 3,
    Vp9 = 4,
    Av1 = 5,
    H265 = 6,
}

impl Codec {
    /// One more than the largest discriminant: the length of a table indexed by codec.
    pub const COUNT: usize = 8;

    #[inline]
    pub const fn from_u8(value: u8) -> Option<Codec> {
        Some(match value {
            1 => Codec::H264,
            2 => Codec::Vp8,
            3 => Codec::Opus,
            4 => Codec::Vp9,
            5 => Codec::Av1,
            6 => Codec::H265,
            _ => return None,
        })
    }
    #[inline]
    pub const fn kind(self) -> Kind {
        match self {
            Codec::Opus => Kind::Audio,
            _ => Kind::Video,
        }
    }
    pub const fn clock_rate(self) -> u32 {
        match self {
            Codec::Opus => 48_000,
            _ => 90_000,
        }
    }
    /// The name as SDP writes it (RFC 8866 section 6.6).
    pub const fn sdp_name(self) -> &'static str {
        match self {
            Codec::H264 => "H264",
            Codec::Vp8 => "VP8",
            Codec::Opus => "opus",
            Codec::Vp9 => "VP9",
            Codec::Av1 => "AV1",
            Codec::H265 => "H265",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    Audio = 1,
    Video = 2,
}

/// Which side of a stream a session is on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Side {
    Publisher = 1,
    Viewer = 2,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_carry_index_and_generation() {
        let id = SessionId::new(70_000, 3);
        assert_eq!(SessionId::from_bits(id.to_bits()), id);
        assert!(SessionId::NONE.is_none() && !id.is_none());
        assert_eq!(format!("{id}"), "s70000.3");
    }
}
