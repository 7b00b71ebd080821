// Calls the edge by gRPC from Node: node responses_client.mjs [TARGET]
// ANTIPHON_API_KEY: a key, if the edge asks for one. ANTIPHON_CA: PEM file of its authority, for TLS.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import protobuf from "protobufjs";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const { antiphon } = grpc.loadPackageDefinition(
  loadSync("antiphon/responses/v1/responses_service.proto", {
    includeDirs: [here("../../protos")],
    enums: String,
    longs: Number,
    oneofs: true,
    defaults: true, // zeros are not sent
  }),
);

// What a failed call carries in `grpc-status-details-bin`: google.rpc.Status with an ErrorInfo and perhaps a RetryInfo.
const rpc = protobuf.parse(`syntax = "proto3"; package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Duration { int64 seconds = 1; int32 nanos = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message RetryInfo { Duration retry_delay = 1; }`).root;

function detailsOf(error) {
  const found = {};
  const [bytes] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (!bytes) return found; // gRPC itself ended the call: a deadline, a lost connection, a message that is too large
  for (const { typeUrl, value } of rpc.lookupType("google.rpc.Status").decode(bytes).details) {
    const name = typeUrl.split("/").pop();
    if (name === "google.rpc.ErrorInfo") found.info = rpc.lookupType(name).decode(value);
    if (name === "google.rpc.RetryInfo") {
      const { seconds, nanos } = rpc.lookupType(name).decode(value).retryDelay;
      found.retryAfterMs = Number(seconds) * 1000 + nanos / 1e6;
    }
  }
  return found;
}

const target = process.argv[2] ?? "127.0.0.1:50051";
const { ANTIPHON_API_KEY: apiKey, ANTIPHON_CA: authority } = process.env;
const client = new antiphon.responses.v1.ResponsesService(
  target,
  authority ? grpc.credentials.createSsl(readFileSync(authority)) : grpc.credentials.createInsecure(),
  {
    "grpc.service_config": readFileSync(here("../service_config.json"), "utf8"), // what may be retried by itself
    "grpc.max_receive_message_length": 64 * 2 ** 20, // long conversations exceed gRPC's 4 MiB
    "grpc.keepalive_time_ms": 30_000,
  },
);

function metadata(fields = {}) {
  const made = new grpc.Metadata();
  for (const [name, value] of Object.entries(fields)) made.set(name, value);
  if (apiKey) made.set("authorization", `Bearer ${apiKey}`);
  return made;
}

const within = (seconds) => ({ deadline: new Date(Date.now() + seconds * 1000) });
const call = (method, request, { headers, seconds = 10 } = {}) =>
  promisify(client[method]).call(client, request, metadata(headers), within(seconds));

// Only with an idempotency key may a response be asked for again: however often it is, it is made once.
async function create(params) {
  const headers = { "idempotency-key": randomUUID() };
  for (let attempt = 1; ; attempt += 1) {
    try {
      return (await call("CreateResponse", { params }, { headers, seconds: 120 })).response;
    } catch (error) {
      const { retryAfterMs } = detailsOf(error);
      const mayRetry = error.code === grpc.status.UNAVAILABLE || retryAfterMs !== undefined;
      if (!mayRetry || attempt === 4) throw error;
      await sleep(retryAfterMs ?? 200 * 2 ** attempt);
    }
  }
}

const user = (text) => ({ message: { role: "ROLE_USER", content: [{ inputText: { text } }] } });
const { models } = await call("ListModels", {});
const params = (text, more = {}) => ({ model: models[0].id, input: [user(text)], maxOutputTokens: 32, ...more });

const created = await create(params("Say hello."));
console.log(created.status, created.output[0].message.content[0].outputText.text);

// Leaving the loop cancels the call, and that ends the generation, as a deadline that passes does.
for await (const { event } of client.StreamResponse({ params: params("Count.") }, metadata(), within(120))) {
  process.stdout.write(event.outputTextDelta?.delta ?? "");
  if (["completed", "failed", "incomplete"].includes(event.event)) console.log(`\n${event.event}`);
}

// A background response goes on by itself. A stream of its events that breaks off is resumed behind the last one seen.
const started = await create(params("Tell a story.", { background: true }));
let last;
for (let streams = 1; ; streams += 1) {
  const request = { responseId: started.id, startingAfter: last };
  let isEnded = false;
  for await (const { event } of client.ResumeResponse(request, metadata(), within(120))) {
    last = event.sequenceNumber;
    isEnded = ["completed", "failed", "incomplete"].includes(event.event);
    if (streams === 1 && last === 2) break; // as if the connection was lost
  }
  if (isEnded) {
    console.log(`resumed: ${last + 1} events in ${streams} streams`);
    break;
  }
}

try {
  await call("CreateResponse", { params: params("Too late.") }, { seconds: 0.001 });
} catch (error) {
  console.log(grpc.status[error.code]);
}

for (const { id } of [created, started]) await call("DeleteResponse", { responseId: id });
try {
  await call("GetResponse", { responseId: created.id });
} catch (error) {
  const { info } = detailsOf(error);
  console.log(`${grpc.status[error.code]}: ${info.reason} of ${info.domain}`);
}
client.close();
