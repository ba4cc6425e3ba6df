// SPDX-License-Identifier: MIT
//! Plaintext HTTP/1.1 on hyper, as its guide writes it, with the pipelining that benchmarks of it turn on.
//!
//! usage: tokio_http PORT [multi_thread|current_thread] [WORKERS]

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io;
use tokio::net::TcpListener;

#[path = "../common.rs"]
mod common;

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"Hello, World!\n")));
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("text/plain"));
    Ok(response)
}

async fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut builder = http1::Builder::new();
            builder.pipeline_flush(true);
            let _ = builder.serve_connection(TokioIo::new(socket), service_fn(hello)).await;
        });
    }
}

fn main() -> io::Result<()> {
    let (place, runtime) = common::arguments("tokio_http PORT");
    let port = place.parse().expect("PORT is a number");
    runtime.block_on(async move { tokio::spawn(serve(port)).await.expect("serve never panics") })
}
