#!/usr/bin/env python3
"""loadtest/scale/joins.py nats|redis [CONNECTIONS]: very many connections, each with a channel of its own, beside a bus.

Starts a server of the bus and a gateway of the release build, lets `loadtest hold` open the connections, and prints when
all channels are subscribed to, how many operations that took, and the gateway's memory. Then it kills the server,
starts it again, and prints when the server knows all subscriptions again. Status 1 when that takes longer than 10 s.
"""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

BACK_WITHIN = 10  # s
root = pathlib.Path(__file__).resolve().parents[2]
target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target")) / "release"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def get(port, path):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(f"http://127.0.0.1:{port}{path}", timeout=10).read().decode()


def metric(http, name):
    return float(re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)$", get(http, "/metrics"), re.M).group(1))


def until(what, patience, holds):
    """Seconds until it holds."""
    began = time.monotonic()
    while True:
        try:
            if holds():
                return time.monotonic() - began
        except OSError:
            pass
        if time.monotonic() - began > patience:
            sys.exit(f"never happened: {what}")
        time.sleep(0.02)


class Nats:
    def __init__(self, folder):
        self.port, self.monitoring = free_port(), free_port()
        unpacked = root / ".tools/nats-server"
        program = str(unpacked) if unpacked.exists() else shutil.which("nats-server") or "/usr/sbin/nats-server"
        self.command = [program, "-a", "127.0.0.1", "-p", str(self.port), "-m", str(self.monitoring)]
        self.configuration = f"[bus]\nkind = 'nats'\n[bus.nats]\nservers = ['nats://127.0.0.1:{self.port}']\n"

    def subscriptions(self):
        return int(re.search(r'"num_subscriptions": (\d+)', get(self.monitoring, "/subsz")).group(1))


class Redis:
    def __init__(self, folder):
        self.port = free_port()
        unpacked = root / ".tools/redis/redis-server"
        program = shutil.which("redis-server") or str(unpacked)
        self.command = [program, "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--dir", folder]
        self.configuration = f"[bus]\nkind = 'redis'\n[bus.redis]\nserver = 'redis://127.0.0.1:{self.port}'\n"

    def subscriptions(self):
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as one:
            one.sendall(b"INFO stats\r\n")
            text = b""
            while b"pubsub_channels:" not in text or not text.endswith(b"\r\n"):
                text += one.recv(65536)
        return int(re.search(rb"pubsub_channels:(\d+)", text).group(1))


def main(kind, connections):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            bus = {"nats": Nats, "redis": Redis}[kind](folder)
            server = subprocess.Popen(bus.command, **quiet)
            running.append(server)
            ws, http = free_port(), free_port()
            file = pathlib.Path(folder) / "gateway.toml"
            file.write_text(
                f"[listen]\naddress = '127.0.0.1:{ws}'\n[http]\naddress = '127.0.0.1:{http}'\n"
                f"[shards]\ncount = 4\nown_descriptors = true\n{bus.configuration}"
                "[[route]]\nname = 'rooms'\npath = '/rooms/{room}'\nsubscribe = ['room.{room}']\n"
                "inbound = { publish = 'room.{room}' }\n"
            )
            gateway = subprocess.Popen([target / "gateway", "--config", file], **quiet)
            running.append(gateway)
            until("the bus is up", 30, lambda: metric(http, "gateway_bus_up") == 1)
            before = metric(http, "process_resident_memory_bytes")
            hold = [target / "loadtest", "hold", "--url", f"ws://127.0.0.1:{ws}", "--channel-path", "/rooms/r{n}"]
            hold += ["--connections", str(connections), "--rate", "50000", "--seconds", "120", "--json", "-"]
            clients = subprocess.Popen(hold, **quiet)
            running.append(clients)
            until("the first join", 60, lambda: metric(http, "gateway_connections") > 0)
            opened = time.monotonic()
            until("all are there", 300, lambda: metric(http, "gateway_connections") >= connections)
            came = time.monotonic() - opened
            until("all joined", 300, lambda: metric(http, "gateway_bus_subscriptions") >= connections)
            until("the server knows", 300, lambda: bus.subscriptions() >= connections)
            joined = time.monotonic() - opened
            operations = metric(http, "gateway_bus_subscription_operations_total")
            resident = metric(http, "process_resident_memory_bytes")
            print(f"{connections} connections within {came:.1f} s, all subscribed on {kind} after {joined:.1f} s")
            print(f"  {operations:.0f} bus operations, {before / 1e6:.1f} MB, then {resident / 1e6:.1f} MB resident")
            server.kill()
            server.wait()
            until("the bus is away", 30, lambda: metric(http, "gateway_bus_up") == 0)
            time.sleep(3)
            server = subprocess.Popen(bus.command, **quiet)
            running.append(server)
            until("it answers", 30, lambda: bus.subscriptions() >= 0)
            back = until("all are subscribed again", 60, lambda: bus.subscriptions() >= connections)
            resident = metric(http, "process_resident_memory_bytes")
            kept = metric(http, "gateway_connections")
            print(f"  subscribed again {back:.1f} s after the server was back, {resident / 1e6:.1f} MB, {kept:.0f} connections")
            return 0 if back <= BACK_WITHIN and kept == connections else 1
        finally:
            for one in running:
                one.kill()
                one.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 50_000))
