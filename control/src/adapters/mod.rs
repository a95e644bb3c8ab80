//! Adapters: processes of their own that read a stream's reel (a tap) and know nothing else of this node.
//!
//! Started by the supervisor, never by hand. Here stands what they share and what control must know of them.

pub mod journal;
