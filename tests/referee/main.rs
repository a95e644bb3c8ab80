//! Independent implementations as referees of what proto does by itself: the same bytes, or a finished
//! handshake, with code that shares nothing with ours.

mod srtp;
mod dtls;
