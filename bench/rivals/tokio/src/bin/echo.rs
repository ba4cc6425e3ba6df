// SPDX-License-Identifier: MIT
//! An echo server as Tokio's documentation writes it: accept, spawn, read, write_all; recv_from, send_to.
//!
//! usage: tokio_echo PORT|udp:PORT|unix:PATH [multi_thread|current_thread] [WORKERS]
//!
//! multi_thread has one worker unless more are asked for. The accept loop runs in a spawned task so that it
//! is on a worker and not on the thread of block_on.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket, UnixListener};

#[path = "../common.rs"]
mod common;

const BUFFER_BYTES: usize = 16 * 1024;

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let n = socket.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        socket.write_all(&buffer[..n]).await?;
    }
}

async fn pause() {
    tokio::time::sleep(std::time::Duration::from_millis(10)).await
}

// a client's reset is the client's affair
async fn serve_tcp(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                tokio::spawn(async move {
                    socket.set_nodelay(true)?;
                    echo(socket).await
                });
            }
            Err(_) => pause().await,
        }
    }
}

async fn serve_unix(path: String) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                tokio::spawn(echo(socket));
            }
            Err(_) => pause().await,
        }
    }
}

// what cannot be sent is lost, as datagrams are
async fn serve_udp(port: u16) -> io::Result<()> {
    let socket = UdpSocket::bind(("127.0.0.1", port)).await?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        if let Ok((n, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..n], from).await;
        }
    }
}

async fn serve(place: String) -> io::Result<()> {
    let port = |text: &str| text.parse().expect("PORT is a number");
    match place.split_once(':') {
        Some(("unix", path)) => serve_unix(path.to_string()).await,
        Some(("udp", text)) => serve_udp(port(text)).await,
        _ => serve_tcp(port(&place)).await,
    }
}

fn main() -> io::Result<()> {
    let (place, runtime) = common::arguments("tokio_echo PORT|udp:PORT|unix:PATH");
    runtime.block_on(async move { tokio::spawn(serve(place)).await.expect("serve never panics") })
}
