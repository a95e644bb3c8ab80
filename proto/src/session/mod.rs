//! One remote: ICE, DTLS, SRTP, and the record that lets its session outlive a process.

pub mod client;
pub mod dtls;
pub mod farewell;
pub mod ice;
mod own_key;
pub mod reassembler;
pub mod record;
mod rsa;
pub mod srtp;
