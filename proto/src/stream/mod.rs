//! One stream: from a publisher's packets to the packets of each feed.

pub mod arrivals;
pub mod feedback;
pub mod intake;
pub mod keyframe;
pub mod nack;
pub mod numbering;
pub mod pacer;
pub mod reel;
mod reel_memory;
pub mod resend;
pub mod rewrite;
mod sizes;
pub mod start;
pub mod tap;
