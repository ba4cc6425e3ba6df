# SPDX-License-Identifier: MIT
"""Servers and programs under measurement: started on their CPU, stopped for certain."""
import os
import re
import signal
import socket
import subprocess
import time

START_SECONDS_MAX = 10


class Failure(Exception):
    """A sample that could not be taken; the text says why."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def placed(cpu):
    """A preexec function: runs on `cpu`, or anywhere when it is None."""
    return (lambda: os.sched_setaffinity(0, {cpu})) if cpu is not None else None


def last_words(text):
    """The last line that says something, to end an error with."""
    lines = [line.strip() for line in text.splitlines() if re.search("[a-z]", line)]
    return ": " + lines[-1][:200] if lines else ""


def run(command, cpu=None, env=None, timeout=120):
    """Runs a program to its end and gives what it printed. Raises Failure when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout,
                              env={**os.environ, **(env or {})}, preexec_fn=placed(cpu))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise Failure(f"{os.path.basename(command[0])}: exit code {done.returncode}"
                      + last_words(done.stderr or done.stdout))
    return done.stdout


class Server:
    """A server process: in a with statement it listens inside and has ended after."""

    def __init__(self, command, address, cpu=None, env=None):
        self.command, self.address, self.cpu, self.env = command, address, cpu, env
        self.process = None

    def __enter__(self):
        try:
            self.process = subprocess.Popen(
                self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                env={**os.environ, **(self.env or {})}, preexec_fn=placed(self.cpu))
        except OSError as error:
            raise Failure(f"{self.command[0]}: {error}") from error
        end = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < end and self.process.poll() is None:
            if self.answers():
                return self
            time.sleep(0.01)
        self.__exit__()
        raise Failure(f"{os.path.basename(self.command[0])} does not listen"
                      + last_words(self.process.stderr.read().decode(errors="replace")))

    def answers(self):
        try:
            if self.address.startswith("unix:"):
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(self.address[5:])
            elif self.address.startswith("udp:"):
                with socket.socket(type=socket.SOCK_DGRAM) as probe:
                    probe.settimeout(0.2)
                    probe.connect(("127.0.0.1", int(self.address[4:])))
                    probe.send(b"?")
                    probe.recv(16)
            else:
                with socket.create_connection(("127.0.0.1", int(self.address)), 1):
                    pass
            return True
        except OSError:
            return False

    @property
    def pid(self):
        return self.process.pid

    def __exit__(self, *_):
        for number in (signal.SIGTERM, signal.SIGKILL):
            self.process.send_signal(number)
            try:
                self.process.wait(2)
                break
            except subprocess.TimeoutExpired:
                continue
        if self.address.startswith("unix:") and os.path.exists(self.address[5:]):
            os.unlink(self.address[5:])
