// SPDX-License-Identifier: MIT
//! Tokio's side of bench_million.c's parked tasks: so many tasks (a million), each in a sleep; resident bytes a task.
//!
//! usage: tokio_idle [TASKS]

use std::time::{Duration, Instant};

#[path = "../common.rs"]
mod common;

fn resident() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc");
    let pages: i64 = statm.split(' ').nth(1).and_then(|text| text.parse().ok()).expect("statm");
    pages * 4096
}

async fn measure(tasks: usize) {
    let mut handles = Vec::with_capacity(tasks);
    let (before, start) = (resident(), Instant::now());
    for _ in 0..tasks {
        handles.push(tokio::spawn(tokio::time::sleep(Duration::from_secs(3600))));
    }
    tokio::task::yield_now().await;
    let ns = start.elapsed().as_nanos() as f64;
    println!("bytes_per_task {:.1}", (resident() - before) as f64 / tasks as f64);
    println!("ns_per_task {:.1}", ns / tasks as f64);
    for handle in handles {
        handle.abort();
    }
}

fn main() {
    let tasks = std::env::args().nth(1).map_or(1_000_000, |text| text.parse().expect("TASKS is a number"));
    common::current_thread().block_on(measure(tasks));
}
