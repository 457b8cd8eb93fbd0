// A one-threaded Bun server that does what the gateway's default routes do: /echo answers every message with itself,
// /rooms/{room} publishes every message to everybody in the room, its sender included.
//
// Usage: bun bun.js PORT

const port = Number(Bun.argv[2] ?? 8080);

const server = Bun.serve({
  hostname: "127.0.0.1",
  port,
  fetch(request, server) {
    const { pathname } = new URL(request.url);
    const room = pathname.startsWith("/rooms/") ? pathname.slice("/rooms/".length) : null;
    if (room === null && pathname !== "/echo") return new Response("no such route\n", { status: 404 });
    if (server.upgrade(request, { data: { room } })) return;
    return new Response("a WebSocket route\n", { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    idleTimeout: 120,
    sendPings: true,
    open(ws) {
      if (ws.data.room !== null) ws.subscribe(ws.data.room);
    },
    message(ws, message) {
      if (ws.data.room === null) ws.send(message);
      else server.publish(ws.data.room, message);
    },
  },
});

console.log(`listening ws=127.0.0.1:${server.port}`);
