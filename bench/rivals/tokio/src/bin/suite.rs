// SPDX-License-Identifier: MIT
//! Tokio's own benchmarks (tokio/benches in its repository), with their names, as plain programs: the other
//! side of bench_suite.c, with the same counts.
//!
//! usage: tokio_suite [current_thread|multi_thread|multi_thread_2] [ROUNDS]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{signal, SignalKind};
use tokio::sync::{broadcast, mpsc, oneshot, watch, Mutex, Notify, RwLock, Semaphore};
use tokio::task;

#[path = "../common.rs"]
mod common;
#[path = "../harness.rs"]
mod harness;

const SPAWNS: usize = 10_000;
const BUSY_TASKS: usize = 4;
const STALL: Duration = Duration::from_micros(10);
const PINGS: usize = 1000;
const TIGHT: usize = 100;
const REQUESTS: usize = 1000;
const NOTIFIED: usize = 500;
const SHOWS: usize = 100;
const ACQUIRES: usize = 6;
const TURNS: usize = 10_000;
const BLOCKING: usize = 2000;
const TIMEOUTS: usize = 10_000;
const BLOCKS: usize = 1000;
const BLOCK_BYTES: usize = 4096;
const BATCH: usize = 16;
const LISTENERS: usize = 10;
const SIGNALS: usize = 200;

// ---- rt_multi_threaded, rt_current_thread

async fn spawn_many_local() -> u64 {
    let (tx, rx) = oneshot::channel();
    let (tx, left) = (Arc::new(std::sync::Mutex::new(Some(tx))), Arc::new(AtomicUsize::new(SPAWNS)));
    for _ in 0..SPAWNS {
        let (tx, left) = (tx.clone(), left.clone());
        tokio::spawn(async move {
            if left.fetch_sub(1, Relaxed) == 1 {
                let _ = tx.lock().unwrap().take().unwrap().send(());
            }
        });
    }
    rx.await.unwrap();
    SPAWNS as u64
}

/// As Tokio's spawn_many_remote_idle: a thread that is no worker spawns and then awaits every handle.
fn spawn_many_remote(handle: tokio::runtime::Handle) -> u64 {
    let handles: Vec<_> = (0..SPAWNS).map(|_| handle.spawn(async {})).collect();
    handle.block_on(async {
        for handle in handles {
            handle.await.unwrap();
        }
    });
    SPAWNS as u64
}

async fn spawn_many_remote_idle() -> u64 {
    let handle = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || spawn_many_remote(handle)).await.unwrap()
}

async fn spawn_many_remote_busy() -> u64 {
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..BUSY_TASKS {
        let stop = stop.clone();
        tokio::spawn(async move {
            while !stop.load(Relaxed) {
                let start = Instant::now();
                while start.elapsed() < STALL {}
                task::yield_now().await;
            }
        });
    }
    let done = spawn_many_remote_idle().await;
    stop.store(true, Relaxed);
    done
}

async fn ping_pong() -> u64 {
    let (done, finished) = oneshot::channel();
    let (done, left) = (Arc::new(std::sync::Mutex::new(Some(done))), Arc::new(AtomicUsize::new(PINGS)));
    for _ in 0..PINGS {
        let (done, left) = (done.clone(), left.clone());
        tokio::spawn(async move {
            let (ping_tx, ping_rx) = oneshot::channel();
            let (pong_tx, pong_rx) = oneshot::channel();
            tokio::spawn(async move {
                ping_rx.await.unwrap();
                pong_tx.send(()).unwrap();
            });
            ping_tx.send(()).unwrap();
            pong_rx.await.unwrap();
            if left.fetch_sub(1, Relaxed) == 1 {
                done.lock().unwrap().take().unwrap().send(()).unwrap();
            }
        });
    }
    finished.await.unwrap();
    PINGS as u64
}

// ---- sync_mpsc_oneshot (sync_mpsc is mpsc.rs)

async fn request_reply() -> u64 {
    let (tx, mut rx) = mpsc::channel::<oneshot::Sender<()>>(TIGHT);
    tokio::spawn(async move {
        while let Some(request) = rx.recv().await {
            request.send(()).unwrap();
        }
    });
    for _ in 0..REQUESTS {
        let (answer, answered) = oneshot::channel();
        tx.send(answer).await.unwrap();
        answered.await.unwrap();
    }
    REQUESTS as u64
}

// ---- sync_notify

async fn notify_tasks(tasks: usize, all: bool) -> u64 {
    let notify = Arc::new(Notify::new());
    let awake = Arc::new(AtomicUsize::new(0));
    let handles: Vec<_> = (0..tasks)
        .map(|_| {
            let (notify, awake) = (notify.clone(), awake.clone());
            tokio::spawn(async move {
                loop {
                    notify.notified().await;
                    awake.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    while awake.load(Relaxed) < NOTIFIED {
        if all {
            notify.notify_waiters();
        } else {
            notify.notify_one();
        }
        task::yield_now().await;
    }
    let done = awake.load(Relaxed);
    for handle in handles {
        handle.abort();
        let _ = handle.await;
    }
    done as u64
}

// ---- sync_broadcast, sync_watch: one sender, so many readers; all read each item before the next is sent

struct Audience {
    all_read: Notify,
    left: AtomicUsize, // readers of this item that have not read it
}

impl Audience {
    fn of(readers: usize) -> Arc<Self> {
        Arc::new(Audience { all_read: Notify::new(), left: AtomicUsize::new(readers) })
    }

    fn item_read(&self) {
        if self.left.fetch_sub(1, std::sync::atomic::Ordering::AcqRel) == 1 {
            self.all_read.notify_one();
        }
    }
}

async fn broadcast_to(readers: usize) -> u64 {
    let (tx, _) = broadcast::channel::<u64>(TIGHT);
    let audience = Audience::of(readers);
    for _ in 0..readers {
        let (mut rx, audience) = (tx.subscribe(), audience.clone());
        tokio::spawn(async move {
            audience.item_read();
            while rx.recv().await.is_ok() {
                audience.item_read();
            }
        });
    }
    for i in 0..SHOWS as u64 {
        audience.all_read.notified().await;
        audience.left.store(readers, Relaxed);
        tx.send(i).unwrap();
    }
    audience.all_read.notified().await;
    (SHOWS * readers) as u64
}

async fn watch_by(readers: usize) -> u64 {
    let (tx, rx) = watch::channel::<u64>(0);
    let audience = Audience::of(readers);
    for _ in 0..readers {
        let (mut rx, audience) = (rx.clone(), audience.clone());
        tokio::spawn(async move {
            audience.item_read();
            while rx.changed().await.is_ok() {
                black_box(*rx.borrow_and_update());
                audience.item_read();
            }
        });
    }
    for i in 0..SHOWS as u64 {
        audience.all_read.notified().await;
        audience.left.store(readers, Relaxed);
        tx.send(i).unwrap();
    }
    audience.all_read.notified().await;
    (SHOWS * readers) as u64
}

// ---- sync_semaphore, sync_rwlock, mutex

async fn semaphore_uncontended() -> u64 {
    let semaphore = Semaphore::new(10);
    for _ in 0..TURNS {
        drop(semaphore.acquire().await.unwrap());
    }
    TURNS as u64
}

async fn semaphore_concurrent(permits: usize) -> u64 {
    let semaphore = Arc::new(Semaphore::new(permits));
    for _ in 0..TURNS / 10 {
        let handles: [_; ACQUIRES] = std::array::from_fn(|_| {
            let semaphore = semaphore.clone();
            tokio::spawn(async move {
                let permit = semaphore.acquire().await.unwrap();
                task::yield_now().await;
                drop(permit);
            })
        });
        for handle in handles {
            handle.await.unwrap();
        }
    }
    (TURNS / 10 * ACQUIRES) as u64
}

async fn rwlock_read() -> u64 {
    let lock = RwLock::new(());
    for _ in 0..TURNS {
        drop(black_box(lock.read().await));
    }
    TURNS as u64
}

async fn rwlock_concurrent(while_written: bool) -> u64 {
    let lock = Arc::new(RwLock::new(()));
    for _ in 0..TURNS / 10 {
        let write = if while_written { Some(lock.write().await) } else { None };
        let handles: [_; ACQUIRES] = std::array::from_fn(|_| {
            let lock = lock.clone();
            tokio::spawn(async move {
                let read = lock.read().await;
                task::yield_now().await;
                drop(read);
            })
        });
        if while_written {
            task::yield_now().await;
        }
        drop(write);
        for handle in handles {
            handle.await.unwrap();
        }
    }
    (TURNS / 10 * ACQUIRES) as u64
}

async fn mutex_uncontended() -> u64 {
    let mutex = Mutex::new(());
    for _ in 0..TURNS {
        drop(black_box(mutex.lock().await));
    }
    TURNS as u64
}

async fn mutex_contended() -> u64 {
    let mutex = Arc::new(Mutex::new(()));
    let handles: [_; ACQUIRES] = std::array::from_fn(|_| {
        let mutex = mutex.clone();
        tokio::spawn(async move {
            for _ in 0..TURNS / 10 {
                let held = mutex.lock().await;
                task::yield_now().await;
                drop(held);
            }
        })
    });
    for handle in handles {
        handle.await.unwrap();
    }
    (TURNS / 10 * ACQUIRES) as u64
}

// ---- spawn_blocking, time_now, time_timeout

async fn spawn_blocking() -> u64 {
    for _ in 0..BLOCKING {
        task::spawn_blocking(|| {}).await.unwrap();
    }
    BLOCKING as u64
}

async fn spawn_blocking_batch() -> u64 {
    for _ in 0..BLOCKING / BATCH {
        let handles: [_; BATCH] = std::array::from_fn(|_| task::spawn_blocking(|| {}));
        for handle in handles {
            handle.await.unwrap();
        }
    }
    (BLOCKING / BATCH * BATCH) as u64
}

// ---- fs, signal

async fn fs_read() -> u64 {
    let mut file = tokio::fs::File::open("/dev/zero").await.unwrap();
    let mut block = [0u8; BLOCK_BYTES];
    for _ in 0..BLOCKS {
        file.read(&mut block).await.unwrap();
    }
    BLOCKS as u64
}

extern "C" {
    fn kill(pid: i32, number: i32) -> i32;
}

/// Ten tasks wait for each of two signals, which come in turn and are told to all ten.
async fn many_signals() -> u64 {
    let kinds = [SignalKind::child(), SignalKind::io()];
    let (tx, mut heard) = mpsc::channel::<()>(LISTENERS);
    let handles: Vec<_> = (0..2 * LISTENERS)
        .map(|i| {
            let (tx, mut come) = (tx.clone(), signal(kinds[i % 2]).unwrap());
            tokio::spawn(async move { while come.recv().await.is_some() && tx.send(()).await.is_ok() {} })
        })
        .collect();
    task::yield_now().await;
    for i in 0..SIGNALS {
        assert_eq!(unsafe { kill(std::process::id() as i32, kinds[i % 2].as_raw_value()) }, 0);
        for _ in 0..LISTENERS {
            heard.recv().await.unwrap();
        }
    }
    for handle in handles {
        handle.abort();
    }
    SIGNALS as u64
}

async fn time_now() -> u64 {
    for _ in 0..TURNS {
        black_box(tokio::time::Instant::now());
    }
    TURNS as u64
}

async fn timeout() -> u64 {
    let handles: Vec<_> = (0..TIMEOUTS)
        .map(|_| {
            tokio::spawn(async {
                let _ = tokio::time::timeout(Duration::from_secs(10), task::yield_now()).await;
            })
        })
        .collect();
    for handle in handles {
        handle.await.unwrap();
    }
    TIMEOUTS as u64
}

// ---- A2 of the Zokio document

async fn spawn_alloc() -> u64 {
    let mut i = 0;
    while i < SPAWNS {
        let handles: Vec<_> = (i..i + 1000)
            .map(|i| {
                tokio::spawn(async move {
                    let mut block = vec![0u8; 1024 + i % 4096];
                    block[0] = 1;
                    black_box(block);
                })
            })
            .collect();
        for handle in handles {
            handle.await.unwrap();
        }
        i += 1000;
    }
    SPAWNS as u64
}

fn main() {
    let bench = harness::from_arguments("tokio_suite");
    bench.run("spawn_many_local", spawn_many_local);
    bench.run("ping_pong", ping_pong);
    bench.run("request_reply", request_reply);
    bench.run("notify_one_10", || notify_tasks(10, false));
    bench.run("notify_one_50", || notify_tasks(50, false));
    bench.run("notify_one_100", || notify_tasks(100, false));
    bench.run("notify_one_200", || notify_tasks(200, false));
    bench.run("notify_one_500", || notify_tasks(500, false));
    bench.run("notify_waiters_10", || notify_tasks(10, true));
    bench.run("notify_waiters_50", || notify_tasks(50, true));
    bench.run("notify_waiters_100", || notify_tasks(100, true));
    bench.run("notify_waiters_200", || notify_tasks(200, true));
    bench.run("notify_waiters_500", || notify_tasks(500, true));
    bench.run("broadcast_10", || broadcast_to(10));
    bench.run("broadcast_100", || broadcast_to(100));
    bench.run("broadcast_500", || broadcast_to(500));
    bench.run("broadcast_1000", || broadcast_to(1000));
    bench.run("watch_10", || watch_by(10));
    bench.run("watch_100", || watch_by(100));
    bench.run("watch_500", || watch_by(500));
    bench.run("watch_1000", || watch_by(1000));
    bench.run("semaphore_uncontended", semaphore_uncontended);
    bench.run("semaphore_concurrent", || semaphore_concurrent(10));
    bench.run("semaphore_contended", || semaphore_concurrent(ACQUIRES - 1));
    bench.run("rwlock_read", rwlock_read);
    bench.run("rwlock_concurrent", || rwlock_concurrent(false));
    bench.run("rwlock_contended", || rwlock_concurrent(true));
    bench.run("mutex_uncontended", mutex_uncontended);
    bench.run("mutex_contended", mutex_contended);
    bench.run("spawn_blocking", spawn_blocking);
    bench.run("spawn_blocking_16", spawn_blocking_batch);
    bench.run("fs_read", fs_read);
    bench.run("many_signals", many_signals);
    bench.run("time_now", time_now);
    bench.run("timeout", timeout);
    bench.run("spawn_alloc_A2", spawn_alloc);
    if bench.flavor == "multi_thread_2" {
        bench.run("spawn_many_remote_idle", spawn_many_remote_idle);
        bench.run("spawn_many_remote_busy", spawn_many_remote_busy);
    }
}
