"""A chat behind the gateway. It keeps nothing of its clients: what it needs comes with every event.

  pip install grpcio grpcio-tools
  python deploy/examples/chat-python/chat.py 127.0.0.1:50051
  gateway --config deploy/examples/chat.toml
  websocat 'ws://127.0.0.1:8080/chat/lobby?user=ada'
"""

import asyncio
import pathlib
import signal
import sys
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "gateway/crates/backend/proto"))
import grpc

pb, rpc = grpc.protos_and_services("gateway/v1/backend.proto")
Message = grpc.protos("gateway/v1/message.proto").Message


class Chat(rpc.BackendServicer):
    def __init__(self):
        self.leaving = asyncio.Event()

    async def Authorize(self, request, context):
        """Anybody who says a name comes in. A real one would look at a cookie or a token here."""
        user = dict(urllib.parse.parse_qsl(request.query)).get("user", "")
        if not user.isidentifier():
            return pb.AuthorizeResponse(refuse=pb.Refuse(status=403, reason="say who you are: ?user=NAME"))
        room = "chat." + request.path.rsplit("/", 1)[-1]
        return pb.AuthorizeResponse(allow=pb.Allow(user=user, channels=[room], state=room.encode()))

    async def Session(self, requests, context):
        """One stream, thousands of clients. Answer each event with orders, and say that it is done."""
        yield pb.ToGateway(ack=pb.Ack())  # ready
        leaving = asyncio.ensure_future(self.leaving.wait())
        reading = asyncio.ensure_future(anext(requests, None))
        while True:
            await asyncio.wait({leaving, reading}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done() and not leaving.cancelled():
                yield pb.ToGateway(go_away=pb.GoAway())  # the gateway takes its events elsewhere
                leaving = asyncio.get_running_loop().create_future()
            if reading.done():
                message = reading.result()
                if message is None:  # the gateway has no more to say
                    return
                if message.HasField("event"):
                    for order in self.happened(message.event):
                        yield pb.ToGateway(command=order)
                    yield pb.ToGateway(ack=pb.Ack(through=message.event.position))
                reading = asyncio.ensure_future(anext(requests, None))

    def happened(self, event):
        """The orders that follow from an event. `event.state` is what Authorize gave: the room."""
        said = {
            "opened": lambda: f"{event.user} is here",
            "closed": lambda: f"{event.user} has left",
            "message": lambda: f"{event.user}: {event.message.text or '(something that is not text)'}",
        }[event.WhichOneof("occurrence")]()
        # Clients that send lines, such as websocat, send their ends as well.
        if event.message.text.rstrip() == "/bye":
            close = pb.Command.CloseOne(connection=event.connection, code=4500, reason="you asked for it")
            return [pb.Command(close=close)]
        to_room = pb.Command.PublishTo(channel=event.state.decode(), message=Message(text=said))
        return [pb.Command(publish=to_room)]


async def main(address):
    chat, server = Chat(), grpc.aio.server()
    rpc.add_BackendServicer_to_server(chat, server)
    port = server.add_insecure_port(address)
    await server.start()
    print(f"listening on port {port}", flush=True)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, chat.leaving.set)
    await chat.leaving.wait()
    await server.stop(grace=10)  # events under way are acknowledged, the rest goes to other streams


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"))
