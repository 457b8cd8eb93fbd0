"""A chat behind the gateway, over Redis: what clients do comes by streams, what they are told goes by PUBLISH.

  pip install redis
  python deploy/examples/redis-python/chat.py redis://127.0.0.1:6379 0-15
  gateway --config deploy/examples/redis-python/gateway.toml
  websocat ws://127.0.0.1:8080/chat

The last argument says which partitions this worker takes. Start more workers with other ones to share the work: each
connection stays in order, because it is in one partition and a partition is with one worker.
"""

import collections
import sys

import redis

GROUP = "chat"
LEFT_MAX = 10_000  # connections that have ended and are remembered, because their end may be told twice


def field(number, payload):
    """A field of a Protobuf message that is bytes or text: its number, its length, itself."""
    length, size = len(payload), b""
    while length > 0x7F:
        size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + payload


def tell_one(bus, event, text):
    """To the connection of an event: an Envelope (gateway/v1/bus.proto) with its id and a text message."""
    envelope = field(3, event[b"connection"]) + field(4, field(1, text.encode()))
    bus.publish(b"gateway:connection:" + event[b"node"], b"\0" + envelope)


def tell_all(bus, text):
    """To a channel: plain text needs no envelope."""
    bus.publish("gateway:channel:chat", text)


def handle(bus, event):
    who = event[b"connection"].decode().split("-", 1)[1]
    if event[b"event"] == b"opened":
        tell_one(bus, event, f"welcome, you are {who}")
    elif event[b"event"] == b"message":
        # Text may be answered as it is; binary would have to go in an envelope.
        tell_all(bus, f"{who}: {event[b'payload'].decode(errors='replace')}")
    elif event[b"event"] == b"closed":
        tell_all(bus, f"{who} has left")


def once(bus, event, done, left):
    """Handles an event unless it was before. An event may come twice; its connection and sequence tell."""
    connection, sequence = event[b"connection"], int(event[b"sequence"])
    if sequence <= done.get(connection, 0):
        return
    handle(bus, event)
    done[connection] = sequence
    if event[b"event"] == b"closed":
        left.append(connection)
        if len(left) > LEFT_MAX:
            del done[left.popleft()]


def main(url, partitions):
    # Longer than it waits for entries below: else a quiet moment would count as a broken connection.
    bus = redis.Redis.from_url(url, socket_timeout=15)
    first, last = map(int, partitions.split("-"))
    streams = [f"gateway:inbound:chat:{number}" for number in range(first, last + 1)]
    for stream in streams:
        try:
            # From the first entry there is: what clients did before we came is for us, too.
            bus.xgroup_create(stream, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
    # First what we were given and had not acknowledged when we ended last time, then what is new.
    after = dict.fromkeys(streams, "0")
    done, left = {}, collections.deque()  # connection: sequence of its last event that was handled; those that ended
    print("ready", flush=True)
    while True:
        for stream, entries in bus.xreadgroup(GROUP, partitions, after, count=100, block=5000):
            name = stream.decode()
            if after[name] != ">":
                after[name] = entries[-1][0] if entries else ">"
            for entry, event in entries:
                if event[b"event"] != b"gap":
                    once(bus, event, done, left)
                bus.xack(stream, GROUP, entry)


if __name__ == "__main__":
    main(*(sys.argv[1:] + ["redis://127.0.0.1:6379", "0-15"][len(sys.argv) - 1:]))
