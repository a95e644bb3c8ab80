//! Goal: what `proto` reads and writes is what independent implementations write and read.
//! Method: random messages, from seeds, built by the one and read by the other, both ways round; sealed
//! bytes compared; handshakes finished with code that shares nothing with ours.

mod containers;
mod dtls;
mod rsa;
mod rtcp;
mod rtp;
mod srtp;
mod stun;
