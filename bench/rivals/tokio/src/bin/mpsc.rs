// SPDX-License-Identifier: MIT
//! Tokio's sync_mpsc benchmarks as plain programs: the other side of bench_mpsc.c, with the same counts.
//!
//! usage: tokio_mpsc [current_thread|multi_thread|multi_thread_2] [ROUNDS [FILTER]]

use std::hint::black_box;
use tokio::sync::mpsc;

#[path = "../common.rs"]
mod common;
#[path = "../harness.rs"]
mod harness;

const SENDERS: usize = 5;
const MESSAGES: usize = 1000;
const ALL: usize = SENDERS * MESSAGES;
const ROOMY: usize = 1_000_000;
const TIGHT: usize = 100;
const SEND_ROOM: usize = 1000;
const TURNS: usize = 1000;

type Medium = [u64; 64];
type Large = [Medium; 64];

async fn create(capacity: usize) -> u64 {
    for _ in 0..TURNS {
        black_box(mpsc::channel::<Medium>(capacity));
    }
    TURNS as u64
}

async fn send_medium() -> u64 {
    for _ in 0..TURNS {
        let (tx, mut rx) = mpsc::channel::<Medium>(SEND_ROOM);
        tx.send([0; 64]).await.unwrap();
        black_box(rx.recv().await.unwrap());
    }
    TURNS as u64
}

async fn send_large() -> u64 {
    for _ in 0..TURNS {
        let (tx, mut rx) = mpsc::channel::<Large>(SEND_ROOM);
        tx.send([[0; 64]; 64]).await.unwrap();
        black_box(rx.recv().await.unwrap());
    }
    TURNS as u64
}

async fn receive(mut rx: mpsc::Receiver<u64>, many: bool) -> u64 {
    if !many {
        for _ in 0..ALL {
            rx.recv().await.unwrap();
        }
        return ALL as u64;
    }
    let mut buffer = Vec::with_capacity(ALL);
    let mut done = 0;
    while done < ALL {
        done += rx.recv_many(&mut buffer, ALL).await;
    }
    done as u64
}

async fn receive_unbounded(mut rx: mpsc::UnboundedReceiver<u64>, many: bool) -> u64 {
    if !many {
        for _ in 0..ALL {
            rx.recv().await.unwrap();
        }
        return ALL as u64;
    }
    let mut buffer = Vec::with_capacity(ALL);
    let mut done = 0;
    while done < ALL {
        done += rx.recv_many(&mut buffer, ALL).await;
    }
    done as u64
}

async fn contention(capacity: usize, many: bool) -> u64 {
    let (tx, rx) = mpsc::channel::<u64>(capacity);
    for _ in 0..SENDERS {
        let tx = tx.clone();
        tokio::spawn(async move {
            for i in 0..MESSAGES as u64 {
                tx.send(i).await.unwrap();
            }
        });
    }
    receive(rx, many).await
}

async fn contention_unbounded(many: bool) -> u64 {
    let (tx, rx) = mpsc::unbounded_channel::<u64>();
    for _ in 0..SENDERS {
        let tx = tx.clone();
        tokio::spawn(async move {
            for i in 0..MESSAGES as u64 {
                tx.send(i).unwrap();
            }
        });
    }
    receive_unbounded(rx, many).await
}

async fn uncontended(many: bool) -> u64 {
    let (tx, rx) = mpsc::channel::<u64>(ROOMY);
    for i in 0..ALL as u64 {
        tx.send(i).await.unwrap();
    }
    receive(rx, many).await
}

async fn uncontended_unbounded(many: bool) -> u64 {
    let (tx, rx) = mpsc::unbounded_channel::<u64>();
    for i in 0..ALL as u64 {
        tx.send(i).unwrap();
    }
    receive_unbounded(rx, many).await
}

fn main() {
    let bench = harness::from_arguments("tokio_mpsc");
    bench.run("mpsc_create_1", || create(1));
    bench.run("mpsc_create_100", || create(100));
    bench.run("mpsc_create_100000", || create(100_000));
    bench.run("mpsc_send_medium", send_medium);
    bench.run("mpsc_send_large", send_large);
    bench.run("mpsc_contention", || contention(ROOMY, false));
    bench.run("mpsc_contention_many", || contention(ROOMY, true));
    bench.run("mpsc_contention_full", || contention(TIGHT, false));
    bench.run("mpsc_contention_full_many", || contention(TIGHT, true));
    bench.run("mpsc_contention_unbounded", || contention_unbounded(false));
    bench.run("mpsc_contention_unbounded_many", || contention_unbounded(true));
    bench.run("mpsc_uncontended", || uncontended(false));
    bench.run("mpsc_uncontended_many", || uncontended(true));
    bench.run("mpsc_uncontended_unbounded", || uncontended_unbounded(false));
    bench.run("mpsc_uncontended_unbounded_many", || uncontended_unbounded(true));
}
