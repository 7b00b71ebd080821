// OpenAI's client for JavaScript. Usage: node openai.mjs BASE_URL MODEL
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const fast = { model, temperature: 0, max_output_tokens: 100 };
const add = {
  type: "function",
  name: "add",
  description: "Add two numbers.",
  strict: true,
  parameters: {
    type: "object",
    properties: { a: { type: "integer", maximum: 99 }, b: { type: "integer", maximum: 99 } },
    required: ["a", "b"],
    additionalProperties: false,
  },
};

const created = await client.responses.create({ ...fast, input: "Say hi." });
assert.ok(created.output_text);
assert.deepEqual(await client.responses.retrieve(created.id), { ...created });
await client.responses.delete(created.id);
await assert.rejects(client.responses.retrieve(created.id), (error) => error.status === 404);

const stream = client.responses.stream({ ...fast, input: "Say hi." });
let text = "";
stream.on("response.output_text.delta", (event) => (text += event.delta));
assert.equal((await stream.finalResponse()).output_text, text);

const question = { role: "user", content: "What is 17 plus 25?" };
const called = await client.responses.create({
  ...fast, input: [question], tools: [add], tool_choice: "required", parallel_tool_calls: false,
});
const [call] = called.output;
assert.equal(call.type, "function_call");
assert.deepEqual(Object.keys(JSON.parse(call.arguments)), ["a", "b"]);
const result = { type: "function_call_output", call_id: call.call_id, output: "42" };
assert.ok((await client.responses.create({ ...fast, input: [question, call, result] })).output_text);
assert.ok((await client.responses.create({ ...fast, input: [result], previous_response_id: called.id })).output_text);

const City = z.object({ name: z.string().max(12), isLarge: z.boolean() });
const parsed = await client.responses.parse({ ...fast, input: "Name a city.", text: { format: zodTextFormat(City, "city") } });
assert.equal(typeof parsed.output_parsed.isLarge, "boolean");

const counted = await client.responses.inputTokens.count({ model, input: "Say hi." });
assert.equal(counted.input_tokens, created.usage.input_tokens);
await assert.rejects(
  client.responses.create({ ...fast, model: "nothing", input: "x" }),
  (error) => error.status === 404 && error.code === "model_not_found" && error.param === "model" && error.requestID !== null,
);
