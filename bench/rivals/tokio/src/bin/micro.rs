// SPDX-License-Identifier: MIT
//! Tokio's side of bench_runtime.c: the same loops, one for one, printed as the same CSV.
//!
//! usage: tokio_micro [current_thread|multi_thread|multi_thread_2] [ROUNDS]
//!
//! Operations a round are those of bench_runtime.c. The best case for Tokio is wanted, so nothing is boxed or
//! cloned that need not be.

use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::{self, JoinHandle};

#[path = "../common.rs"]
mod common;
#[path = "../harness.rs"]
mod harness;

async fn yield_many() -> u64 {
    const TASKS: u64 = 200;
    const YIELDS: u64 = 1000;
    let mut handles = Vec::with_capacity(TASKS as usize);
    for _ in 0..TASKS {
        handles.push(tokio::spawn(async {
            for _ in 0..YIELDS {
                task::yield_now().await;
            }
        }));
    }
    for handle in handles {
        handle.await.unwrap();
    }
    TASKS * YIELDS
}

async fn yield_one() -> u64 {
    const YIELDS: u64 = 200_000;
    for _ in 0..YIELDS {
        task::yield_now().await;
    }
    YIELDS
}

async fn spawn_join_10000() -> u64 {
    const TASKS: u64 = 10_000;
    let mut handles: Vec<JoinHandle<()>> = Vec::with_capacity(TASKS as usize);
    for _ in 0..TASKS {
        handles.push(tokio::spawn(async {}));
    }
    for handle in handles {
        handle.await.unwrap();
    }
    TASKS
}

/// A task that allocates 1 to 5 KB, clears and frees it; joined a thousand at a time.
async fn alloc_task_1000() -> u64 {
    const WINDOWS: usize = 20;
    const WINDOW: usize = 1000;
    for window in 0..WINDOWS {
        let mut handles: Vec<JoinHandle<()>> = Vec::with_capacity(WINDOW);
        for i in 0..WINDOW {
            let size = 1024 + ((window * WINDOW + i) & 4095);
            handles.push(tokio::spawn(async move {
                std::hint::black_box(vec![0u8; size]);
            }));
        }
        for handle in handles {
            handle.await.unwrap();
        }
    }
    (WINDOWS * WINDOW) as u64
}

async fn spawn_join_1() -> u64 {
    const TASKS: u64 = 50_000;
    for _ in 0..TASKS {
        tokio::spawn(async {}).await.unwrap();
    }
    TASKS
}

fn chain(done: tokio::sync::oneshot::Sender<()>, left: u64) {
    tokio::spawn(async move {
        if left == 0 {
            let _ = done.send(());
        } else {
            chain(done, left - 1);
        }
    });
}

async fn chained_spawn() -> u64 {
    const TASKS: u64 = 10_000;
    let (done, finished) = tokio::sync::oneshot::channel();
    chain(done, TASKS - 1);
    finished.await.unwrap();
    TASKS
}

async fn timer_cancel() -> u64 {
    const TIMERS: u64 = 100_000;
    for _ in 0..TIMERS {
        let _ = tokio::time::timeout(Duration::from_secs(10), task::consume_budget()).await;
    }
    TIMERS
}

async fn timer_cancel_polled() -> u64 {
    const TIMERS: u64 = 100_000;
    for _ in 0..TIMERS {
        let never = std::future::pending::<()>();
        tokio::select! {
            biased;
            _ = tokio::time::timeout(Duration::from_secs(10), never) => unreachable!(),
            _ = std::future::ready(()) => {}
        }
    }
    TIMERS
}

async fn chan_pingpong() -> u64 {
    const TRIPS: u64 = 50_000;
    let (to, mut from_main) = mpsc::channel::<u64>(1);
    let (back, mut from_peer) = mpsc::channel::<u64>(1);
    let peer = tokio::spawn(async move {
        while let Some(item) = from_main.recv().await {
            if back.send(item).await.is_err() {
                return;
            }
        }
    });
    for i in 0..TRIPS {
        to.send(i).await.unwrap();
        from_peer.recv().await.unwrap();
    }
    drop(to);
    peer.await.unwrap();
    TRIPS
}

async fn chan_stream(senders: u64, capacity: usize) -> u64 {
    const ITEMS: u64 = 100_000;
    let (to, mut from) = mpsc::channel::<u64>(capacity);
    for _ in 0..senders {
        let to = to.clone();
        tokio::spawn(async move {
            for i in 0..ITEMS / senders {
                to.send(i).await.unwrap();
            }
        });
    }
    drop(to);
    let mut got = 0;
    while from.recv().await.is_some() {
        got += 1;
    }
    got
}

fn main() {
    let bench = harness::from_arguments("tokio_micro");
    bench.run("yield_200", yield_many);
    bench.run("yield_alone", yield_one);
    bench.run("spawn_join_10000", spawn_join_10000);
    bench.run("spawn_join_1", spawn_join_1);
    bench.run("alloc_task_1000", alloc_task_1000);
    bench.run("chained_spawn", chained_spawn);
    bench.run("timeout_unused", timer_cancel);
    bench.run("timer_armed_cancelled", timer_cancel_polled);
    bench.run("chan_pingpong", chan_pingpong);
    bench.run("chan_spsc_1", || chan_stream(1, 1));
    bench.run("chan_spsc_128", || chan_stream(1, 128));
    bench.run("chan_mpsc_1", || chan_stream(5, 1));
    bench.run("chan_mpsc_128", || chan_stream(5, 128));
}
