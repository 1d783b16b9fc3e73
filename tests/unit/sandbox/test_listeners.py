"""The ports on which the processes of a step listen, as seen from outside."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from packhorse.sandbox.network import Listener, find_listeners

pytestmark = pytest.mark.system

SERVER = """
import socket, subprocess, sys
if len(sys.argv) > 2:
    sys.exit(subprocess.run([sys.executable, "-c", {source!r}, sys.argv[1]]).returncode)
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.create_server((sys.argv[1], 0), family=family) as server:
    print(server.getsockname()[1], flush=True)
    sys.stdin.read()
"""
SOURCE = SERVER.format(source="")


@contextmanager
def server(address: str, *more: str) -> Iterator[tuple[int, int]]:
    """A process that listens at an address, or whose child does; its pid and port."""
    words = [sys.executable, "-c", SERVER.format(source=SOURCE), address, *more]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        yield process.pid, int(process.stdout.readline())
        process.stdin.close()


def test_only_what_the_processes_themselves_listen_on_is_found_on_the_hosts_network() -> None:
    with server("0.0.0.0") as (first, port), server("127.0.0.1") as (second, other):
        assert find_listeners(first, own_network=False) == {Listener(port, loopback=False)}
        assert find_listeners(second, own_network=False) == {Listener(other, loopback=True)}


def test_a_child_listens_for_the_process_above_it() -> None:
    with server("0.0.0.0", "child") as (pid, port):
        assert find_listeners(pid, own_network=False) == {Listener(port, loopback=False)}


def test_addresses_of_version_6_are_told_from_loopback() -> None:
    with server("::") as (first, port), server("::1") as (second, other):
        assert find_listeners(first, own_network=False) == {Listener(port, loopback=False)}
        assert find_listeners(second, own_network=False) == {Listener(other, loopback=True)}


def test_connections_are_no_listeners() -> None:
    with server("127.0.0.1") as (_, port), socket.create_connection(("127.0.0.1", port)) as one:
        assert Listener(one.getsockname()[1], loopback=True) not in find_listeners(
            os.getpid(), own_network=True
        )
        assert Listener(port, loopback=True) in find_listeners(os.getpid(), own_network=True)


def test_a_process_that_is_gone_listens_nowhere() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
        assert find_listeners(process.pid, own_network=False) == frozenset()
