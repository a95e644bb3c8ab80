//! Adapters: processes of their own that read a stream's reel (a tap) and know nothing else of this node.
//!
//! Started by the supervisor, never by hand. `recorder` is the first: a thread that reads the reel every 20 ms
//! (`tap`, then spillway-proto's `mux::recording`), and a thread that writes (`writer`). `finish` closes what it left.
//!
//! ```text
//!   reel --tap--> Recording --pieces, notes--> bounded queue --> Muxer --> 0001.mp4 ..., journal.jsonl
//! ```

mod directory;
mod finish;
pub mod journal;
pub mod recorder;
mod sys;
mod tap;
mod writer;
