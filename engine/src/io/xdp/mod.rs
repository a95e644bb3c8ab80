//! Ready-made Ethernet frames through AF_XDP sockets.

pub mod device;
pub mod netlink;
pub mod routes;
