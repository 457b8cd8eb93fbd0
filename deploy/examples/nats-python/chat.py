"""A chat behind the gateway, over NATS: what clients do comes as messages, and an answer to one goes to its client.

  pip install nats-py
  python deploy/examples/nats-python/chat.py nats://127.0.0.1:4222
  gateway --config deploy/examples/nats-python/gateway.toml
  websocat ws://127.0.0.1:8080/chat

Start more of them to share the work: they are one queue group. Each message then goes to any of them; who needs those of
a connection in order gives each worker partitions of its own instead, as in `chat.py nats://127.0.0.1:4222 0 1 2 3`.

Core NATS delivers to whoever listens at the moment. With `bus.nats.jetstream = true` in the gateway and a stream over
`gateway.inbound.>` nothing is lost; then there are three differences here:
  * subscribe by `bus.jetstream().subscribe(subject, durable="chat", cb=told, manual_ack=True)`;
  * answer by `bus.publish(event.headers["Gateway-Reply-To"], …)`: `event.respond` would talk to the stream;
  * `await event.ack()` when all is done. An event may come twice: Gateway-Connection and Gateway-Sequence tell.
"""

import asyncio
import signal
import sys

import nats

GROUP = "chat"


async def handle(bus, event):
    who = event.headers["Gateway-Connection"].split("-", 1)[1]
    match event.headers["Gateway-Event"]:
        case "opened":
            # The answer goes to the connection that the event is of. Headers would say what it is; UTF-8 is text.
            await event.respond(f"welcome, you are {who}".encode())
        # Clients that send lines, such as websocat, send their ends as well.
        case "message" if event.data.rstrip() == b"/who":
            await event.respond(f"you are {who}".encode())
        case "message":
            # To everybody in the channel, on whichever node.
            await bus.publish("gateway.channel.chat", f"{who}: {event.data.decode(errors='replace')}".encode())
        case "closed":
            await bus.publish("gateway.channel.chat", f"{who} has left".encode())
        case "gap":
            pass  # A node was cut off for a while, from and to when is in its body: what it heard then did not come.


async def main(url, partitions):
    bus = await nats.connect(url, max_reconnect_attempts=-1)

    async def told(event):
        await handle(bus, event)

    if partitions:
        for partition in partitions:
            await bus.subscribe(f"gateway.inbound.chat.{partition}", cb=told)
    else:
        await bus.subscribe("gateway.inbound.chat.*", queue=GROUP, cb=told)
    await bus.flush()
    print("ready", flush=True)
    end = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    await end.wait()
    # No new events, and those that have come are handled.
    await bus.drain()


if __name__ == "__main__":
    url, *partitions = sys.argv[1:] or ["nats://127.0.0.1:4222"]
    asyncio.run(main(url, partitions))
