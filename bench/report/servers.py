# SPDX-License-Identifier: MIT
"""How each server is started, by workload.

A function takes where to listen ("7000", "udp:7000" or "unix:/path"), the number of workers and the bytes one
connection has in flight (the roofline is told them), and gives the command and its environment.
"""
from build import built


def address(where):
    """What weir's examples and echoload call it."""
    if where.startswith("unix:"):
        return where
    return f"udp:127.0.0.1:{where[4:]}" if where.startswith("udp:") else f"127.0.0.1:{where}"


def weir_echo(where, workers, _bytes):
    return [built("examples", "echo"), address(where)], {"WEIR_WORKERS": str(workers)}


def weir_udp(where, workers, _bytes):
    return ([built("examples", "udp"), address(where).removeprefix("udp:")],
            {"WEIR_WORKERS": str(workers)})


def uring_echo(where, _workers, in_flight):
    class_bytes = 256
    while class_bytes < in_flight and class_bytes < 65536:
        class_bytes *= 2
    return [built("bench", "rival_uring"), where, "--buffers", "128",
            "--buffer-bytes", str(class_bytes)], {}


def epoll_echo(where, _workers, _bytes):
    return [built("bench", "rival_epoll"), where], {}


def tokio(target, program):
    def command(where, workers, _bytes):
        path = built("bench", target, "release", "tokio_" + program)
        return [path, where, "multi_thread", str(workers)], {}
    return command


def rust_echo(crate):
    def command(where, _workers, _bytes):
        return [built("bench", crate, "release", crate + "_echo"), where], {}
    return command


def go(program):
    def command(where, workers, _bytes):
        return [built("bench", "go", program), where], {"GOMAXPROCS": str(workers)}
    return command


def libuv_echo(where, _workers, _bytes):
    return [built("bench", "libuv", "echo"), where], {}


def weir_example(name):
    def command(where, workers, _bytes):
        return [built("examples", name), address(where)], {"WEIR_WORKERS": str(workers)}
    return command


def redis(where, _workers, _bytes):
    return ["redis-server", "--port", where, "--bind", "127.0.0.1", "--save", "",
            "--appendonly", "no", "--daemonize", "no"], {}


# Proxies: the number in the third place is the port of the server behind.
def weir_proxy(where, workers, behind):
    return ([built("examples", "proxy"), address(where), f"127.0.0.1:{behind}"],
            {"WEIR_WORKERS": str(workers)})


def tokio_proxy(target):
    def command(where, workers, behind):
        return [built("bench", target, "release", "tokio_proxy"), f"{where}:{behind}",
                "multi_thread", str(workers)], {}
    return command


def go_proxy(where, workers, behind):
    return [built("bench", "go", "proxy"), where, str(behind)], {"GOMAXPROCS": str(workers)}


ECHO = {
    "weir": weir_echo,
    "uring": uring_echo,
    "epoll": epoll_echo,
    "tokio": tokio("tokio", "echo"),
    "tokio-mi": tokio("tokio-mimalloc", "echo"),
    "monoio": rust_echo("monoio"),
    "glommio": rust_echo("glommio"),
    "go": go("echo"),
    "libuv": libuv_echo,
}
UDP = {name: ECHO[name] for name in ("epoll", "tokio", "tokio-mi", "go")} | {"weir": weir_udp}
PROXY = {
    "weir": weir_proxy,
    "tokio": tokio_proxy("tokio"),
    "tokio-mi": tokio_proxy("tokio-mimalloc"),
    "go": go_proxy,
}
HTTP = {
    "weir": weir_example("http"),
    "tokio": tokio("tokio", "http"),
    "tokio-mi": tokio("tokio-mimalloc", "http"),
    "go": go("http"),
}
# What redis-benchmark sends, in bytes, and what it is told. The key-value servers take these in the third place.
FIXED = {"get": (36, "$3\r\nVXK\r\n"), "set": (45, "+OK\r\n")}


def fixed(command):
    """A roofline that gives every request the same answer, unread."""
    def fixed_command(where, workers, kind):
        request_bytes, answer = FIXED[kind]
        program, env = command(where, workers, 16 * request_bytes)
        return [*program, "--fixed", f"{request_bytes}:{answer}"], env
    return fixed_command


KV = {"weir": weir_example("kv"), "redis": redis, "uring": fixed(uring_echo),
      "epoll": fixed(epoll_echo)}
