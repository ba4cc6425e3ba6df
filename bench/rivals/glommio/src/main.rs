// SPDX-License-Identifier: MIT
//! An echo server on glommio, one executor: its examples/echo.rs, with the 16 KB buffer that every server with
//! a buffer of its own has here.

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};
use std::io;

const BUFFER_BYTES: usize = 16 * 1024;

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0u8; BUFFER_BYTES];
    loop {
        let got = stream.read(&mut buffer).await?;
        if got == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..got]).await?;
    }
}

async fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    loop {
        match listener.accept().await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                glommio::spawn_local(echo(stream)).detach();
            }
            Err(_) => glommio::timer::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

fn main() -> io::Result<()> {
    let Some(port) = std::env::args().nth(1).and_then(|text| text.parse().ok()) else {
        eprintln!("usage: glommio_echo PORT");
        std::process::exit(1);
    };
    let executor = LocalExecutorBuilder::new(Placement::Unbound).make()?;
    executor.run(serve(port))
}
