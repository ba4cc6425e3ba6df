// SPDX-License-Identifier: MIT
//! An echo server on monoio, one thread on io_uring: the program of its README, with TCP_NODELAY, a backlog
//! for thousands and the 16 KB buffer that every server with a buffer of its own has here.

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{ListenerOpts, TcpListener, TcpStream};
use std::io;

const BUFFER_BYTES: usize = 16 * 1024;

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer: Vec<u8> = Vec::with_capacity(BUFFER_BYTES);
    let mut result;
    loop {
        (result, buffer) = stream.read(buffer).await;
        if result? == 0 {
            return Ok(());
        }
        (result, buffer) = stream.write_all(buffer).await;
        result?;
        buffer.clear();
    }
}

async fn serve(port: u16) -> io::Result<()> {
    let options = ListenerOpts::new().reuse_addr(true).backlog(4096);
    let listener = TcpListener::bind_with_config(("127.0.0.1", port), &options)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                stream.set_nodelay(true)?;
                monoio::spawn(echo(stream));
            }
            Err(_) => monoio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

fn main() -> io::Result<()> {
    let Some(port) = std::env::args().nth(1).and_then(|text| text.parse().ok()) else {
        eprintln!("usage: monoio_echo PORT");
        std::process::exit(1);
    };
    let mut runtime =
        monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().with_entries(32768).enable_timer().build()?;
    runtime.block_on(serve(port))
}
