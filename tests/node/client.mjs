// One client of the TypeScript SDK: a line of JSON on standard input is a call,
// a line on standard output its answer. The first line says what was agreed.
//
//   node client.mjs v1|v2 ERA stdio COMMAND [ARGUMENT...]
//   node client.mjs v1|v2 ERA streamable-http|sse URL
//
// ERA is a protocol version of the stateless era, or `legacy` for the handshake.

import { createInterface } from "node:readline";

const [sdk, era, transportName, ...target] = process.argv.slice(2);
const info = { name: `typescript-sdk-${sdk}`, version: "1" };

async function parts() {
  if (sdk === "v2") {
    const [client, stdio] = await Promise.all([
      import("@modelcontextprotocol/client"),
      import("@modelcontextprotocol/client/stdio"),
    ]);
    return { ...client, ...stdio };
  }
  const root = "@modelcontextprotocol/sdk";
  const modules = await Promise.all([
    import(`${root}/client/index.js`),
    import(`${root}/client/stdio.js`),
    import(`${root}/client/streamableHttp.js`),
    import(`${root}/client/sse.js`),
    import(`${root}/types.js`),
  ]);
  return Object.assign({}, ...modules);
}

function transport(from) {
  if (transportName === "stdio") {
    const [command, ...args] = target;
    return new from.StdioClientTransport({ command, args, env: process.env });
  }
  const url = new URL(target[0]);
  return transportName === "sse"
    ? new from.SSEClientTransport(url)
    : new from.StreamableHTTPClientTransport(url);
}

// Agrees to whatever the server asks the user.
function agreeing(client, from) {
  const accepted = ({ params }) => ({
    action: "accept",
    content: Object.fromEntries(
      Object.entries(params.requestedSchema.properties).map(([name, schema]) => [
        name,
        schema.type === "boolean" ? true : schema.default,
      ]),
    ),
  });
  const method = sdk === "v2" ? "elicitation/create" : from.ElicitRequestSchema;
  client.setRequestHandler(method, accepted);
}

async function answer(client, { method, params }) {
  try {
    return { result: await client[method](...params) };
  } catch (error) {
    return { error: { code: error.code, message: error.message } };
  }
}

const from = await parts();
const agrees = process.env.CLIENT_AGREES === "1";
const client = new from.Client(info, {
  capabilities: agrees ? { elicitation: {} } : {},
  ...(sdk === "v2" && {
    versionNegotiation: { mode: era === "legacy" ? "legacy" : { pin: era } },
  }),
});
if (agrees) agreeing(client, from);
const wire = transport(from);
// Version 1 tells the version to its transport and to nobody else.
let version;
const tell = wire.setProtocolVersion?.bind(wire);
wire.setProtocolVersion = (agreed) => {
  version = agreed;
  tell?.(agreed);
};
await client.connect(wire);

const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
say({
  server: client.getServerVersion(),
  capabilities: client.getServerCapabilities(),
  instructions: client.getInstructions(),
  version: client.getNegotiatedProtocolVersion?.() ?? version,
});
for await (const line of createInterface({ input: process.stdin })) {
  say(await answer(client, JSON.parse(line)));
}
await client.close();
