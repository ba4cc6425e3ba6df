// SPDX-License-Identifier: MIT
//! A TCP echo server as Tokio's documentation writes it: accept, spawn, read, write_all.
//!
//! usage: tokio_echo PORT [multi_thread|current_thread]
//!
//! multi_thread has one worker, as every server is compared with one. The accept loop runs in a spawned
//! task so that it is on the worker and not on the thread of block_on.

use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BUFFER_BYTES: usize = 16 * 1024;

async fn echo(mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let n = socket.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        socket.write_all(&buffer[..n]).await?;
    }
}

async fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                // a client's reset is the client's affair
                tokio::spawn(async move {
                    let _ = echo(socket).await;
                });
            }
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

fn runtime(flavor: &str) -> io::Result<Runtime> {
    match flavor {
        "multi_thread" => Builder::new_multi_thread().worker_threads(1).enable_all().build(),
        "current_thread" => Builder::new_current_thread().enable_all().build(),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "no such flavor")),
    }
}

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let port = args.next().and_then(|text| text.parse().ok());
    let flavor = args.next().unwrap_or_else(|| "multi_thread".to_string());
    let Some(port) = port else {
        eprintln!("usage: tokio_echo PORT [multi_thread|current_thread]");
        std::process::exit(1);
    };
    let runtime = runtime(&flavor)?;
    runtime.block_on(async move { tokio::spawn(serve(port)).await.expect("serve never panics") })
}
