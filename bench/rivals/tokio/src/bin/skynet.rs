// SPDX-License-Identifier: MIT
//! Tokio's side of `bench_million skynet`: a tree of 1,111,111 tasks, ten children each; the leaves are
//! numbers, to be summed. Prints the rounds and the peak of the process's memory.
//!
//! usage: skynet [current_thread|multi_thread] [WORKERS]

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;
use tokio::runtime::Builder;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn grow(first: u64, leaves: u64) -> Pin<Box<dyn Future<Output = u64> + Send>> {
    Box::pin(async move {
        if leaves == 1 {
            return first;
        }
        let each = leaves / 10;
        let mut children = Vec::with_capacity(10);
        for i in 0..10 {
            children.push(tokio::spawn(grow(first + i * each, each)));
        }
        let mut sum = 0;
        for child in children {
            sum += child.await.unwrap();
        }
        sum
    })
}

fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let workers = args.get(2).map_or(1, |n| n.parse().unwrap());
    let mut builder = match args.get(1).map(String::as_str) {
        Some("multi_thread") => Builder::new_multi_thread(),
        _ => Builder::new_current_thread(),
    };
    let runtime = builder.worker_threads(workers).build().unwrap();
    for _ in 0..5 {
        let before = peak_bytes();
        let start = Instant::now();
        let sum = runtime.block_on(async { tokio::spawn(grow(0, 1_000_000)).await.unwrap() });
        let ns = start.elapsed().as_nanos() as f64 / 1_111_111.0;
        assert_eq!(sum, 499_999_500_000);
        println!("  skynet {ns:9.1} ns each, peak {:6.1} MiB (was {:.1})", peak_bytes() as f64 / 1048576.0,
            before as f64 / 1048576.0);
    }
}
