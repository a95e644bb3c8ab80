//! Goal: what `proto` reads and writes is what independent implementations write and read.
//! Method: random messages, from seeds, built by the one and read by the other, both ways round.

mod rtcp;
mod rtp;
mod stun;
