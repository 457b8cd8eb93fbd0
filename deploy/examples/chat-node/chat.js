// A chat behind the gateway. It keeps nothing of its clients: what it needs comes with every event.
//
//   npm install --prefix deploy/examples/chat-node
//   node deploy/examples/chat-node/chat.js 127.0.0.1:50051
//   gateway --config deploy/examples/chat.toml
//   websocat 'ws://127.0.0.1:8080/chat/lobby?user=ada'

const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const protos = path.join(__dirname, "../../../gateway/crates/backend/proto");
const definition = loader.loadSync("gateway/v1/backend.proto", {
  includeDirs: [protos],
  keepCase: true,
  longs: Number,
  oneofs: true,
});
const { Backend } = grpc.loadPackageDefinition(definition).gateway.v1;
const streams = new Set();

// Anybody who says a name comes in. A real one would look at a cookie or a token here.
function authorize({ request }, answer) {
  const user = new URLSearchParams(request.query ?? "").get("user") ?? "";
  if (!/^\w{1,32}$/.test(user)) {
    return answer(null, { refuse: { status: 403, reason: "say who you are: ?user=NAME" } });
  }
  const room = "chat." + request.path.split("/").at(-1);
  answer(null, { allow: { user, channels: [room], state: Buffer.from(room) } });
}

// One stream, thousands of clients. Answer each event with orders, and say that it is done.
function session(stream) {
  streams.add(stream);
  stream.write({ ack: {} }); // ready
  stream.on("data", ({ event }) => {
    if (!event) return;
    for (const order of happened(event)) stream.write({ command: order });
    stream.write({ ack: { through: event.position } });
  });
  stream.on("error", () => streams.delete(stream)); // the gateway sends what it has not heard of elsewhere
  stream.on("end", () => {
    streams.delete(stream);
    stream.end(); // the gateway has no more to say
  });
}

// The orders that follow from an event. `state` is what authorize gave: the room.
function happened({ connection, user, state, occurrence, message }) {
  if (message?.text?.trimEnd() === "/bye") {
    return [{ close: { connection, code: 4500, reason: "you asked for it" } }];
  }
  const said = {
    opened: () => `${user} is here`,
    closed: () => `${user} has left`,
    message: () => `${user}: ${message.text ?? "(something that is not text)"}`,
  }[occurrence]();
  return [{ publish: { channel: state.toString(), message: { text: said } } }];
}

const server = new grpc.Server();
server.addService(Backend.service, { Authorize: authorize, Session: session });
server.bindAsync(process.argv[2] ?? "127.0.0.1:50051", grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(`listening on port ${port}`);
});

// Events under way are acknowledged, the rest goes to other streams; then the gateway ends the streams.
process.on("SIGTERM", () => {
  for (const stream of streams) stream.write({ go_away: {} });
  server.tryShutdown(() => process.exit(0));
});
