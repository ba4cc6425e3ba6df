// SPDX-License-Identifier: MIT
//! A TCP proxy as Tokio's own example writes it: accept, spawn, connect, copy_bidirectional.
//!
//! usage: tokio_proxy PORT:SERVER-PORT [multi_thread|current_thread] [WORKERS]
//!
//! The accept loop runs in a spawned task so that it is on a worker and not on the thread of block_on.

use std::io;
use tokio::net::{TcpListener, TcpStream};

#[path = "../common.rs"]
mod common;

async fn proxy(mut client: TcpStream, server: u16) -> io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", server)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

// a client's reset is the client's affair
async fn serve(port: u16, server: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                tokio::spawn(proxy(client, server));
            }
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

fn main() -> io::Result<()> {
    let (ports, runtime) = common::arguments("tokio_proxy PORT:SERVER-PORT");
    let (port, server) = ports.split_once(':').expect("PORT:SERVER-PORT");
    let number = |text: &str| text.parse().expect("a port is a number");
    let (port, server) = (number(port), number(server));
    runtime.block_on(async move { tokio::spawn(serve(port, server)).await.expect("serve never panics") })
}
