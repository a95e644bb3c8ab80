//! Offers to facts, facts to answers. Used by control and bench; the engine never sees SDP.

pub mod answer;
pub mod offer;
