// The least that a consumer which keeps what it gets can do: one D1 batch for each batch of messages, a row a message.
import { WorkerEntrypoint } from "cloudflare:workers";
import { probe } from "./probe.js";

class Empty extends WorkerEntrypoint {
  async fetch(request) {
    const url = new URL(request.url);
    if (url.pathname === "/healthz") {
      await this.env.DB.exec("CREATE TABLE IF NOT EXISTS messages (id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID");
    }
    if (url.pathname === "/feed") {
      const count = Number(url.searchParams.get("messages"));
      for (let from = 0; from < count; from += 100) {
        const messages = Array.from({ length: Math.min(100, count - from) }, () => ({
          body: JSON.stringify({ schema: 1, kind: "check", release: `rel_${crypto.randomUUID()}`, due_at: Date.now() }),
          contentType: "text",
        }));
        await this.env.CHECKS.sendBatch(messages);
      }
    }
    return new Response();
  }

  async queue(batch) {
    const insert = this.env.DB.prepare("INSERT INTO messages (id, body) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING");
    await this.env.DB.batch(batch.messages.map((message) => insert.bind(message.id, message.body)));
    batch.ackAll();
  }
}

export default probe(Empty);
