// SPDX-License-Identifier: MIT
//! Tokio's copy benchmark (tokio/benches in its repository), with its names, as a plain program: the other side
//! of bench_copy.c, with the same counts. An operation is 1 KB of 256.
//!
//! usage: tokio_copy [current_thread|multi_thread|multi_thread_2] [ROUNDS]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{copy, repeat, AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{interval, Interval, MissedTickBehavior};

#[path = "../common.rs"]
mod common;
#[path = "../harness.rs"]
mod harness;

const SOURCE_BYTES: u64 = 256 * 1024;
const CHUNK_BYTES: usize = 2 * 1024;
const DISK_BUFFER_BYTES: usize = 40 * 1024;
const CHUNK_PERIOD: Duration = Duration::from_millis(1);
const DISK_PERIOD: Duration = Duration::from_millis(20);

// has room for so much until it is serviced; at random a writer waits for that all the same
struct SlowDisk {
    service: Interval,
    random: u64,
    used: usize,
}

impl SlowDisk {
    fn new() -> Self {
        let mut service = interval(DISK_PERIOD);
        service.set_missed_tick_behavior(MissedTickBehavior::Delay);
        SlowDisk { service, random: 88172645463325252, used: 0 }
    }

    fn one_in_ten(&mut self) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % 10 == 0
    }

    fn poll_service(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let serviced = self.service.poll_tick(cx).map(|_| Ok(()));
        if serviced.is_ready() {
            self.used = 0;
        }
        serviced
    }
}

impl AsyncWrite for SlowDisk {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.poll_service(cx).is_pending() && self.one_in_ten() {
            return Poll::Pending;
        }
        let written = data.len().min(DISK_BUFFER_BYTES - self.used);
        if written == 0 {
            return Poll::Pending;
        }
        self.used += written;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_service(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_service(cx)
    }
}

// a chunk for each tick; who comes late gets those that were due
struct Chunks {
    data: Vec<u8>,
    ticks: Interval,
}

impl Chunks {
    fn new() -> Self {
        let mut ticks = interval(CHUNK_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        Chunks { data: vec![0; CHUNK_BYTES], ticks }
    }
}

impl AsyncRead for Chunks {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ticks.poll_tick(cx).is_pending() {
            return Poll::Pending;
        }
        to.put_slice(&self.data[..to.remaining().min(CHUNK_BYTES)]);
        Poll::Ready(Ok(()))
    }
}

async fn mem_to_mem() -> u64 {
    let mut sum = 0;
    for _ in 0..100 {
        let mut sink = Vec::new();
        sum += copy(&mut repeat(0).take(SOURCE_BYTES), &mut sink).await.unwrap();
    }
    sum / 1024
}

async fn mem_to_slow() -> u64 {
    copy(&mut repeat(0).take(SOURCE_BYTES), &mut SlowDisk::new()).await.unwrap() / 1024
}

async fn chunk_to_mem() -> u64 {
    let mut sink = Vec::new();
    copy(&mut Chunks::new().take(SOURCE_BYTES), &mut sink).await.unwrap() / 1024
}

async fn chunk_to_slow() -> u64 {
    copy(&mut Chunks::new().take(SOURCE_BYTES), &mut SlowDisk::new()).await.unwrap() / 1024
}

fn main() {
    let bench = harness::from_arguments("tokio_copy");
    bench.run("copy_mem_to_mem", mem_to_mem);
    bench.run("copy_mem_to_slow_disk", mem_to_slow);
    bench.run("copy_chunk_to_mem", chunk_to_mem);
    bench.run("copy_chunk_to_slow_disk", chunk_to_slow);
}
