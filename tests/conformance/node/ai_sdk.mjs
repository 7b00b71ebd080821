// Vercel's AI SDK with both of its providers for this API. Usage: node ai_sdk.mjs BASE_URL MODEL
import assert from "node:assert/strict";
import { createOpenResponses } from "@ai-sdk/open-responses";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, isStepCount, Output, streamText, tool } from "ai";
import { z } from "zod";

const [baseURL, name] = process.argv.slice(2);
const models = {
  openai: createOpenAI({ baseURL, apiKey: "none" }).responses(name),
  "open-responses": createOpenResponses({ name: "antiphon", url: `${baseURL}/responses`, apiKey: "none" })(name),
};
const fail = ({ error }) => {
  throw error;
};

for (const [provider, model] of Object.entries(models)) {
  console.log(provider);
  const fast = { model, temperature: 0, maxOutputTokens: 100, maxRetries: 0 };

  const { text, usage } = await generateText({ ...fast, prompt: "Say hi." });
  assert.ok(text);
  assert.ok(usage.totalTokens > 0);

  const stream = streamText({ ...fast, prompt: "Say hi.", onError: fail });
  let streamed = "";
  for await (const delta of stream.textStream) streamed += delta;
  assert.equal(streamed, text);

  const calls = [];
  const weather = tool({
    description: "Get the weather of a city.",
    inputSchema: z.object({ city: z.string().max(20) }),
    execute: async ({ city }) => (calls.push(city), "64 degrees and clear"),
  });
  const loop = {
    ...fast,
    prompt: "What is the weather in Paris?",
    tools: { weather },
    stopWhen: isStepCount(2),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
  };
  const looped = await generateText(loop);
  assert.equal(calls.length > 0, true);
  assert.ok(looped.text);
  const loopStream = streamText({ ...loop, onError: fail });
  const parts = [];
  for await (const part of loopStream.fullStream) parts.push(part.type);
  assert.ok(parts.includes("tool-call") && parts.includes("tool-result") && parts.includes("text-delta"), parts.join());

  const schema = z.object({ name: z.string().max(12), isLarge: z.boolean() });
  const { output } = await generateText({ ...fast, prompt: "Name a city.", output: Output.object({ schema }) });
  assert.equal(typeof output.isLarge, "boolean");
}
