// Runs a tape of SQL on a real local D1 and answers what D1 says that it read and wrote. Stdin: {migrations: [text],
// parts: {name: [[{sql, params}]]}}, run in that order. Stdout: {name: {read, written}}.
import { getPlatformProxy } from "wrangler";

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const { migrations, parts } = JSON.parse(Buffer.concat(chunks).toString("utf8"));

// The project's own configuration, as far as it is about the database; nothing is kept.
const { env, dispose } = await getPlatformProxy({ configPath: "wrangler.toml", persist: false, remoteBindings: false, envFiles: [] });
try {
  const db = env.DB;
  for (const text of migrations) {
    // What a trigger does ends with a semicolon, too, before its END.
    const statements = text.replace(/--.*$/gm, "").split(/;(?!\s*END\b)/);
    await db.batch(statements.filter((sql) => sql.trim()).map((sql) => db.prepare(sql)));
  }
  const counts = {};
  for (const [name, batches] of Object.entries(parts)) {
    counts[name] = { read: 0, written: 0 };
    for (const batch of batches) {
      const results = await db.batch(batch.map(({ sql, params }) => db.prepare(sql).bind(...params)));
      for (const { meta } of results) {
        counts[name].read += meta.rows_read;
        counts[name].written += meta.rows_written;
      }
    }
  }
  console.log(JSON.stringify(counts));
} finally {
  await dispose();
}
