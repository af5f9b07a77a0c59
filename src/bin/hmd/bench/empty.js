// The least that a consumer which keeps what it gets can do: one D1 batch for each batch of messages, a row a message.
import { fed } from "./feed.js";
import { probe } from "./probe.js";

const INSERT = "INSERT INTO messages (id, release, due_at) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO NOTHING";

class Empty extends fed() {
  async queue(batch) {
    const insert = this.env.DB.prepare(INSERT);
    const rows = batch.messages.map((message) => {
      const { release, due_at } = JSON.parse(message.body);
      return insert.bind(message.id, release, due_at);
    });
    await this.env.DB.batch(rows);
    batch.ackAll();
  }
}

export default probe(Empty);
