// Stands between the runtime and a queue consumer, HMD's or the empty one, and counts what each batch costs: round trips
// to D1, sends to queues, and when it began and ended. The consumer itself is the one that is deployed, unchanged.
import { WorkerEntrypoint } from "cloudflare:workers";

let batches = [];
// While it holds, checks are lost on arrival: so that the sweep then sends them all at once.
let holds = false;

// A call that waits, with when it began and ended.
async function timed(spans, call) {
  const start = Date.now();
  try {
    return await call();
  } finally {
    spans.push([start, Date.now()]);
  }
}

// Every wait for telemetry, which the simulated Cloudflare has in memory, from the request to the end of its answer: that time is not HMD's. HMD then reads
// the answer from memory.
let waits = [];
const ask = globalThis.fetch;
globalThis.fetch = (request, ...more) => {
  const { pathname } = new URL(request.url ?? request);
  if (!pathname.endsWith("/telemetry/query")) return ask(request, ...more);
  return timed(waits, async () => {
    const answer = await ask(request, ...more);
    return new Response(await answer.arrayBuffer(), answer);
  });
};

function counted(binding, names, count, spans = []) {
  return new Proxy(binding, {
    get(target, name) {
      const value = target[name];
      // The Worker knows its bindings by the name of their constructor.
      if (typeof value !== "function" || name === "constructor") return value;
      return (...parameters) => {
        if (!names.includes(name)) return value.apply(target, parameters);
        count();
        return timed(spans, () => value.apply(target, parameters));
      };
    },
  });
}

// How long after the moment that each message is for its batch was done with. Those that came too early are only sent on.
function lateness(batch, { start_ms, end_ms }) {
  return batch.messages
    .map((message) => JSON.parse(message.body).due_at)
    .filter((due_at) => due_at <= start_ms)
    .map((due_at) => end_ms - due_at);
}

export function probe(Consumer) {
  return class extends WorkerEntrypoint {
    #consumer(seen) {
      const env = { ...this.env };
      env.DB = counted(env.DB, ["batch", "exec"], () => (seen.d1 += 1), seen.d1_spans);
      for (const queue of ["CHECKS", "TRANSITIONS"]) {
        if (env[queue]) env[queue] = counted(env[queue], ["send", "sendBatch"], () => (seen.sends += 1), seen.send_spans);
      }
      return new Consumer(this.ctx, env);
    }

    async fetch(request) {
      const url = new URL(request.url);
      if (url.pathname === "/bench/batches") return Response.json(batches.splice(0));
      if (url.pathname === "/bench/hold") {
        holds = url.searchParams.get("on") === "true";
        return new Response();
      }
      if (url.pathname === "/bench/sql") {
        await this.env.DB.prepare(await request.text()).run();
        return new Response();
      }
      const seen = { d1: 0, sends: 0 };
      const answer = await this.#consumer(seen).fetch(request);
      const headers = new Headers(answer.headers);
      headers.set("x-bench-d1", seen.d1);
      return new Response(answer.body, { status: answer.status, headers });
    }

    async queue(batch) {
      if (holds && batch.queue === "hmd-checks") return batch.ackAll();
      const seen = { queue: batch.queue, size: batch.messages.length, d1: 0, sends: 0, d1_spans: [], send_spans: [], start_ms: Date.now() };
      await this.#consumer(seen).queue(batch);
      seen.end_ms = Date.now();
      seen.wait_spans = waits.splice(0);
      seen.late_ms = lateness(batch, seen);
      batches.push(seen);
    }

    async scheduled(event) {
      return this.#consumer({}).scheduled(event);
    }
  };
}
