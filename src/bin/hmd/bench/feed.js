// What feeds the empty consumers: batches of messages like HMD's own, made and sent on request.
import { WorkerEntrypoint } from "cloudflare:workers";

export function fed(Consumer = WorkerEntrypoint) {
  return class extends Consumer {
    async fetch(request) {
      const url = new URL(request.url);
      if (url.pathname === "/healthz") {
        await this.env.DB.exec(
          "CREATE TABLE IF NOT EXISTS messages (id TEXT PRIMARY KEY, release TEXT NOT NULL, due_at INTEGER NOT NULL) WITHOUT ROWID",
        );
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
  };
}
