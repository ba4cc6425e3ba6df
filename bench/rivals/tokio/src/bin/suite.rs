// SPDX-License-Identifier: MIT
//! Tokio's own benchmarks (tokio/benches in its repository), with their names, as plain programs: the other
//! side of bench_suite.c, with the same counts.
//!
//! usage: tokio_suite [current_thread|multi_thread|multi_thread_2] [ROUNDS]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, Instant};
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
const SENDERS: usize = 5;
const MESSAGES: usize = 1000;
const ROOMY: usize = 1_000_000;
const TIGHT: usize = 100;
const REQUESTS: usize = 1000;
const NOTIFIED: usize = 500;
const SHOWS: usize = 100;
const ACQUIRES: usize = 6;
const TURNS: usize = 10_000;
const BLOCKING: usize = 2000;
const TIMEOUTS: usize = 10_000;

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

// ---- sync_mpsc, sync_mpsc_oneshot

async fn mpsc_create() -> u64 {
    for _ in 0..TURNS {
        black_box(mpsc::channel::<u64>(TIGHT));
    }
    TURNS as u64
}

async fn mpsc_contention(capacity: usize) -> u64 {
    let (tx, mut rx) = mpsc::channel::<u64>(capacity);
    for _ in 0..SENDERS {
        let tx = tx.clone();
        tokio::spawn(async move {
            for i in 0..MESSAGES as u64 {
                tx.send(i).await.unwrap();
            }
        });
    }
    for _ in 0..SENDERS * MESSAGES {
        rx.recv().await.unwrap();
    }
    (SENDERS * MESSAGES) as u64
}

async fn mpsc_uncontended() -> u64 {
    let (tx, mut rx) = mpsc::channel::<u64>(ROOMY);
    for _ in 0..SENDERS {
        for i in 0..MESSAGES as u64 {
            tx.send(i).await.unwrap();
        }
    }
    for _ in 0..SENDERS * MESSAGES {
        rx.recv().await.unwrap();
    }
    (SENDERS * MESSAGES) as u64
}

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

async fn semaphore_concurrent() -> u64 {
    let semaphore = Arc::new(Semaphore::new(ACQUIRES - 1));
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

async fn rwlock_contended() -> u64 {
    let lock = Arc::new(RwLock::new(()));
    for _ in 0..TURNS / 10 {
        let write = lock.write().await;
        let handles: [_; ACQUIRES] = std::array::from_fn(|_| {
            let lock = lock.clone();
            tokio::spawn(async move {
                let read = lock.read().await;
                task::yield_now().await;
                drop(read);
            })
        });
        task::yield_now().await;
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
    bench.run("mpsc_create", mpsc_create);
    bench.run("mpsc_contention", || mpsc_contention(ROOMY));
    bench.run("mpsc_contention_full", || mpsc_contention(TIGHT));
    bench.run("mpsc_uncontended", mpsc_uncontended);
    bench.run("request_reply", request_reply);
    bench.run("notify_one_10", || notify_tasks(10, false));
    bench.run("notify_one_500", || notify_tasks(500, false));
    bench.run("notify_waiters_10", || notify_tasks(10, true));
    bench.run("notify_waiters_500", || notify_tasks(500, true));
    bench.run("broadcast_10", || broadcast_to(10));
    bench.run("broadcast_100", || broadcast_to(100));
    bench.run("watch_10", || watch_by(10));
    bench.run("watch_100", || watch_by(100));
    bench.run("semaphore_uncontended", semaphore_uncontended);
    bench.run("semaphore_concurrent", semaphore_concurrent);
    bench.run("rwlock_read", rwlock_read);
    bench.run("rwlock_contended", rwlock_contended);
    bench.run("mutex_uncontended", mutex_uncontended);
    bench.run("mutex_contended", mutex_contended);
    bench.run("spawn_blocking", spawn_blocking);
    bench.run("time_now", time_now);
    bench.run("timeout", timeout);
    bench.run("spawn_alloc_A2", spawn_alloc);
    if bench.flavor == "multi_thread_2" {
        bench.run("spawn_many_remote_idle", spawn_many_remote_idle);
        bench.run("spawn_many_remote_busy", spawn_many_remote_busy);
    }
}
