//! The load tester, and what the benches share. `run` is the story; the other modules are its parts.

mod bare;
mod burst;
pub mod cli;
pub mod crowd;
pub mod find_max;
mod generator;
mod histogram;
pub mod lab;
mod ledger;
mod live;
pub mod model;
pub mod null;
mod offer;
pub mod page;
mod plot;
pub mod price;
mod process;
mod publishers;
mod remote;
pub mod run;
pub mod scenario;
#[cfg(test)]
mod schema;
mod seal;
mod sequence;
pub mod source;
pub mod spec;
pub mod summary;
pub mod sys;
mod target;
pub mod text;
mod threshold;
mod timeline;
mod totals;
mod viewer;
mod witness;

pub use sys::thread_cpu_time;

/// The middle of the rounds' results; 0 of none.
pub fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds.get(rounds.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_counts_work_and_the_median_is_in_the_middle() {
        let begin = thread_cpu_time();
        let mut x = 1u64;
        while thread_cpu_time() == begin {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(thread_cpu_time() > begin);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![]), 0.0);
    }
}
