// SPDX-License-Identifier: MIT
//! The allocator, and the command line that the servers share: PLACE [multi_thread|current_thread] [WORKERS].

use tokio::runtime::{Builder, Runtime};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[allow(dead_code)] // not every program has use for each of these
pub fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[allow(dead_code)]
pub fn arguments(usage: &str) -> (String, Runtime) {
    let mut args = std::env::args().skip(1);
    let place = args.next();
    let flavor = args.next().unwrap_or_else(|| "multi_thread".to_string());
    let workers = args.next().map_or(Some(1), |text| text.parse().ok());
    let (Some(place), Some(workers)) = (place, workers) else {
        eprintln!("usage: {usage} [multi_thread|current_thread] [WORKERS]");
        std::process::exit(1);
    };
    let runtime = match flavor.as_str() {
        "current_thread" => current_thread(),
        _ => Builder::new_multi_thread().worker_threads(workers).enable_all().build().expect("a runtime"),
    };
    (place, runtime)
}
