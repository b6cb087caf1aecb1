//! Measuring: interleaved runs, medians. Benchmarks report; they never fail a build.

use std::time::{Duration, Instant};

/// Runs the candidates in turn, `rounds` times each after one warm-up round, and gives each one's median.
pub fn medians(
    rounds: usize,
    candidates: &mut [(&str, &mut dyn FnMut())],
) -> Vec<(String, Duration)> {
    let mut times = vec![Vec::with_capacity(rounds); candidates.len()];
    for round in 0..=rounds {
        for ((_, run), times) in candidates.iter_mut().zip(&mut times) {
            let started = Instant::now();
            run();
            if round > 0 {
                times.push(started.elapsed());
            }
        }
    }
    candidates
        .iter()
        .zip(times)
        .map(|((name, _), times)| ((*name).to_owned(), median(times)))
        .collect()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_runs_once_per_round_and_once_to_warm_up() {
        let mut counts = [0, 0];
        let [first, second] = &mut counts;
        let found = medians(
            5,
            &mut [("a", &mut || *first += 1), ("b", &mut || *second += 1)],
        );
        assert_eq!(found.len(), 2);
        assert_eq!(counts, [6, 6]);
    }
}
