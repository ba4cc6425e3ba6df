// SPDX-License-Identifier: MIT
//! The harness of the microbenchmarks: rounds, medians and the CSV of bench.h.
//!
//! Each body runs in a task of the runtime (spawn and await, so that on multi_thread it is on a worker) and
//! returns how many operations it did; the warm-up round is not counted.

use std::future::Future;
use std::time::Instant;
use tokio::runtime::{Builder, Runtime};

const ALLOCATOR: &str = if cfg!(feature = "mimalloc") { "mimalloc" } else { "system" };

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    }
}

pub struct Bench {
    runtime: Runtime,
    pub flavor: String,
    rounds: usize,
    filter: String,
}

impl Bench {
    pub fn run<F, T>(&self, name: &str, body: F)
    where
        F: Fn() -> T,
        T: Future<Output = u64> + Send + 'static,
    {
        if !name.contains(&self.filter) {
            return;
        }
        let mut times = Vec::new();
        for round in 0..=self.rounds {
            let future = body();
            let (operations, elapsed) = self.runtime.block_on(async move {
                tokio::spawn(async move {
                    let start = Instant::now();
                    let operations = future.await;
                    (operations, start.elapsed())
                })
                .await
                .unwrap()
            });
            if round > 0 {
                times.push(elapsed.as_secs_f64() * 1e9 / operations as f64);
            }
        }
        times.sort_by(f64::total_cmp);
        println!(
            "{},tokio/{}/{},{},{:.2},{:.2},{:.2}",
            name,
            self.flavor,
            ALLOCATOR,
            self.rounds,
            times[0],
            median(&times),
            times[times.len() - 1]
        );
    }
}

/// Reads FLAVOR, ROUNDS and a FILTER for names from the command line; exits when they do not parse.
pub fn from_arguments(usage: &str) -> Bench {
    let mut args = std::env::args().skip(1);
    let flavor = args.next().unwrap_or_else(|| "current_thread".to_string());
    let rounds = args.next().map_or(7, |text| text.parse().expect("ROUNDS is a number"));
    let filter = args.next().unwrap_or_default();
    let runtime = match flavor.as_str() {
        "current_thread" => Builder::new_current_thread().enable_all().build(),
        "multi_thread" => Builder::new_multi_thread().worker_threads(1).enable_all().build(),
        "multi_thread_2" => Builder::new_multi_thread().worker_threads(2).enable_all().build(),
        _ => {
            eprintln!("usage: {usage} [current_thread|multi_thread|multi_thread_2] [ROUNDS [FILTER]]");
            std::process::exit(1);
        }
    };
    Bench { runtime: runtime.expect("a runtime"), flavor, rounds, filter }
}
