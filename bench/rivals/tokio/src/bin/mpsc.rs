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

// Tokio's two kinds of channel have the same methods and no trait in common; sending to the one is awaited.
macro_rules! receive {
    ($rx:expr, $many:expr) => {{
        let mut rx = $rx;
        let mut done = 0;
        let mut buffer = Vec::with_capacity(if $many { ALL } else { 0 });
        while done < ALL {
            done += if $many {
                rx.recv_many(&mut buffer, ALL).await
            } else {
                rx.recv().await.unwrap();
                1
            };
        }
        done as u64
    }};
}

macro_rules! contention {
    ($channel:expr, $many:expr, |$tx:ident, $message:ident| $send:expr) => {{
        let (tx, rx) = $channel;
        for _ in 0..SENDERS {
            let $tx = tx.clone();
            tokio::spawn(async move {
                for $message in 0..MESSAGES as u64 {
                    $send.unwrap();
                }
            });
        }
        receive!(rx, $many)
    }};
}

macro_rules! uncontended {
    ($channel:expr, $many:expr, |$tx:ident, $message:ident| $send:expr) => {{
        let ($tx, rx) = $channel;
        for $message in 0..ALL as u64 {
            $send.unwrap();
        }
        receive!(rx, $many)
    }};
}

async fn contention(capacity: usize, many: bool) -> u64 {
    contention!(mpsc::channel::<u64>(capacity), many, |tx, message| tx.send(message).await)
}

async fn contention_unbounded(many: bool) -> u64 {
    contention!(mpsc::unbounded_channel::<u64>(), many, |tx, message| tx.send(message))
}

async fn uncontended(many: bool) -> u64 {
    uncontended!(mpsc::channel::<u64>(ROOMY), many, |tx, message| tx.send(message).await)
}

async fn uncontended_unbounded(many: bool) -> u64 {
    uncontended!(mpsc::unbounded_channel::<u64>(), many, |tx, message| tx.send(message))
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
