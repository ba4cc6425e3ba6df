# SPDX-License-Identifier: MIT
"""Builds weir and the rivals, and knows why a rival is not there.

A rival that cannot be built is left out of every row and named with the reason; nothing stands in
for it.
"""
import os
import re
import subprocess

import machine

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(REPO, os.environ.get("B", "build"))
RIVALS = os.path.join(REPO, "bench", "rivals")
CARGO_SECONDS_MAX = 900


def built(*parts):
    return os.path.join(BUILD, *parts)


def attempt(command, cwd=REPO, env=None):
    """None when the command succeeds, else the line that says why not."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True,
                              timeout=CARGO_SECONDS_MAX, env={**os.environ, **(env or {})})
    except FileNotFoundError:
        return f"no {command[0]} here"
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not end within {CARGO_SECONDS_MAX} s"
    if done.returncode == 0:
        return None
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"\s*(fatal )?error", line, re.IGNORECASE)]
    return (errors or lines or [f"exit code {done.returncode}"])[0].strip()[:200]


def cargo(crate, features=(), target=None):
    command = ["cargo", "build", "-q", "--release", "--locked",
               "--manifest-path", os.path.join(RIVALS, crate, "Cargo.toml"),
               "--target-dir", built("bench", target or crate)]
    return attempt(command + (["--features", ",".join(features)] if features else []))


def locked_version(crate, package):
    text = machine.read(os.path.join(RIVALS, crate, "Cargo.lock"), "")
    found = re.search(rf'name = "{package}"\nversion = "(.*)"', text)
    return found.group(1) if found else "unknown version"


def build_go():
    return attempt(["go", "build", "-o", built("bench", "go") + "/", "./..."],
                   cwd=os.path.join(RIVALS, "go"))


def build_libuv():
    flags = machine.first_line(["pkg-config", "--cflags", "--libs", "libuv"])
    if flags is None:
        return "no libuv here (libuv1-dev; .ci/deps bench installs it)"
    os.makedirs(built("bench", "libuv"), exist_ok=True)
    return attempt([os.environ.get("CC", "cc"), "-O2", "-o", built("bench", "libuv", "echo"),
                    os.path.join(RIVALS, "libuv", "echo.c")] + flags.split())


def present(command):
    """A build step for a program that the machine has or has not."""
    def look():
        return None if machine.first_line([command, "--version"]) else f"no {command} here"
    return look


def rust_version():
    return machine.first_line(["rustc", "--version"]) or "no rustc"


class Rival:
    def __init__(self, name, what, build, version):
        self.name, self.what, self.build, self.version = name, what, build, version
        self.missing = None  # or the reason


ALL = [
    Rival("uring", "the roofline: callbacks on raw liburing, told the message size",
          lambda: None, lambda: machine.first_line(["pkg-config", "--modversion", "liburing"])),
    Rival("epoll", "level-triggered epoll, the plainest fast server", lambda: None, lambda: ""),
    Rival("tokio", "Tokio multi_thread, the default allocator", lambda: cargo("tokio"),
          lambda: f"{locked_version('tokio', 'tokio')}, hyper {locked_version('tokio', 'hyper')}, "
                  f"{rust_version()}"),
    Rival("tokio-mi", "Tokio with mimalloc",
          lambda: cargo("tokio", ["mimalloc"], "tokio-mimalloc"),
          lambda: "mimalloc crate " + locked_version("tokio", "mimalloc")),
    Rival("monoio", "monoio on io_uring", lambda: cargo("monoio"),
          lambda: locked_version("monoio", "monoio")),
    Rival("glommio", "glommio on io_uring", lambda: cargo("glommio"),
          lambda: locked_version("glommio", "glommio")),
    Rival("go", "Go: a goroutine per connection; net/http", build_go,
          lambda: machine.first_line(["go", "version"])),
    Rival("libuv", "libuv, one loop", build_libuv,
          lambda: machine.first_line(["pkg-config", "--modversion", "libuv"])),
    Rival("redis", "Redis, no persistence, one thread", present("redis-server"),
          lambda: machine.first_line(["redis-server", "--version"])),
]


def make_weir():
    """None, or why weir and the C programs could not be built."""
    jobs = f"-j{len(os.sched_getaffinity(0))}"
    shim = os.path.relpath(built("libweir-malloc.so"), REPO)
    return attempt(["make", "-s", jobs, "--no-print-directory", "examples", "bench-build", shim])


def build_all(say, wanted=None):
    """Builds weir and the rivals named in `wanted` (all). Gives the error of weir's own build."""
    say("building weir")
    error = make_weir()
    for rival in ALL if error is None else []:
        if wanted is not None and rival.name not in wanted:
            rival.missing = "not asked for"
            continue
        say(f"building {rival.name}")
        rival.missing = rival.build()
    return error
