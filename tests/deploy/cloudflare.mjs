#!/usr/bin/env node
// The part of Cloudflare's API that the pinned wrangler calls when it deploys HMD, for an empty account. Prints its port.
// `GET /state` answers the account and every call that could have changed it; `POST /forbid?PATTERN` lets writes to paths with
// that text end like those of a token without the permission, until it is called without one.
import { createServer } from "node:http";

const ACCOUNT = { id: "acc1acc1acc1acc1acc1acc1acc1acc1", name: "stand-in" };
const SCRIPT = "/workers/scripts/hmd";
const account = { databases: [], queues: [], versions: [], migrations: [], crons: [], assets: [] };
let writes = [];
let forbidden = "";

class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { status, code });
  }
}
const noWorker = () => new Refused(404, 10007, "This Worker does not exist on your account.");
const paged = (items) => ({ result: items, result_info: { page: 1, per_page: 50, count: items.length, total_count: items.length, total_pages: 1 } });
const queueOf = (path) => account.queues.find((it) => path.includes(`/queues/${it.queue_id}/`));
const newest = () => account.versions.at(-1);

function upload(body) {
  const metadata = JSON.parse(body.match(/name="metadata"\r\n\r\n([\s\S]*?)\r\n--/)[1]);
  if (metadata.assets?.jwt !== "complete") throw new Refused(400, 10021, "the static assets are not complete");
  const isSecret = (binding) => binding.type === "secret_text";
  // Values of secrets are never answered; those that an upload does not name are kept, as it asks for.
  const bindings = metadata.bindings.map(({ text, ...rest }) => (isSecret(rest) ? rest : { ...rest, text }));
  const kept = (newest()?.resources.bindings ?? []).filter((old) => isSecret(old) && !bindings.some((it) => it.name === old.name));
  const version = {
    id: `00000000-0000-4000-8000-${String(account.versions.length + 1).padStart(12, "0")}`,
    metadata: { created_on: "2026-11-22T00:00:00Z", author_email: "me@example.com", source: "wrangler" },
    annotations: metadata.annotations ?? {},
    resources: { bindings: [...bindings, ...kept], script: { handlers: ["fetch"], etag: "e" }, script_runtime: { compatibility_date: metadata.compatibility_date } },
  };
  account.versions.push(version);
  return { ...version, deployment_id: version.id, tag: "t", etag: "e", startup_time_ms: 5, available_on_subdomain: true };
}

function query({ sql }) {
  const names = [...sql.matchAll(/insert into "?d1_migrations"? \(name\)\s*values \('([^']+)'\)/gi)].map((it) => it[1]);
  account.migrations.push(...names);
  const isList = /^\s*select \*\s+from "?d1_migrations/i.test(sql);
  const results = isList ? account.migrations.map((name, index) => ({ id: index + 1, name, applied_at: "2026-11-22" })) : [];
  return [{ success: true, results, meta: { duration: 1, changes: 0, rows_read: 0, rows_written: 0, last_row_id: 0, changed_db: true, size_after: 0 } }];
}

function answer(method, path, names, body) {
  const json = () => JSON.parse(body);
  const is = (wanted, pattern) => method === wanted && (typeof pattern === "string" ? path === pattern : pattern.test(path));
  const named = (items, key) => items.filter((it) => names.length === 0 || names.includes(it[key]));

  if (is("GET", "/user")) return { id: "u", email: "me@example.com" };
  if (is("GET", "/user/tokens/verify")) return { id: "t", status: "active" };
  if (is("GET", "/accounts")) return paged([ACCOUNT]);
  if (is("GET", "/memberships")) return paged([{ id: "m", account: ACCOUNT }]);

  if (is("GET", "/d1/database")) return named(account.databases, "name");
  if (is("POST", "/d1/database")) {
    const database = { uuid: "11111111-2222-4333-8444-555555555555", name: json().name, version: "production", created_at: "2026-11-22T00:00:00Z" };
    account.databases.push(database);
    return database;
  }
  if (is("POST", /^\/d1\/database\/11111111-2222-4333-8444-555555555555\/query$/)) return query(json());

  if (is("GET", "/queues")) return paged(named(account.queues, "queue_name"));
  if (is("POST", "/queues")) {
    const queue = { queue_id: `q${account.queues.length}`, queue_name: json().queue_name, created_on: "-", modified_on: "-", producers: [], consumers: [], producers_total_count: 0, consumers_total_count: 0 };
    account.queues.push(queue);
    return queue;
  }
  if (is("POST", /^\/queues\/q\d+\/consumers$/)) {
    const { consumers } = queueOf(path);
    consumers.push({ ...json(), type: "worker", script: json().script_name, consumer_id: `c${consumers.length}` });
    queueOf(path).consumers_total_count = consumers.length;
    return consumers.at(-1);
  }
  if (is("PUT", /^\/queues\/q\d+\/consumers\/c\d+$/)) return {};

  if (is("GET", "/workers/subdomain")) return { subdomain: "stand-in" };
  // A session names what is still to be sent; its token is that of the upload once nothing is.
  if (is("POST", `${SCRIPT}/assets-upload-session`)) {
    const missing = Object.values(json().manifest).map((it) => it.hash).filter((hash) => !account.assets.includes(hash));
    return { jwt: missing.length ? "session" : "complete", buckets: missing.length ? [missing] : [] };
  }
  if (is("POST", "/workers/assets/upload")) {
    account.assets.push(...[...body.matchAll(/ name="([0-9a-f]{32})"/g)].map((it) => it[1]));
    return { jwt: "complete" };
  }
  if (is("PUT", SCRIPT) || is("POST", `${SCRIPT}/versions`)) return upload(body);
  if (path.startsWith(SCRIPT) || path === "/workers/services/hmd") {
    if (!newest()) throw noWorker();
    if (is("GET", "/workers/services/hmd")) return { id: "hmd", default_environment: { environment: "production", script: { id: "hmd", last_deployed_from: "wrangler", tag: "t", tags: null } } };
    if (is("GET", `${SCRIPT}/deployments`)) return { deployments: [{ id: "d", source: "wrangler", strategy: "percentage", author_email: "me@example.com", created_on: "2026-11-22T00:00:00Z", versions: [{ version_id: newest().id, percentage: 100 }] }] };
    if (is("POST", `${SCRIPT}/deployments`)) return { id: "d" };
    if (is("GET", /\/versions\/[^/]+$/)) return account.versions.find((it) => path.endsWith(it.id));
    if (is("GET", `${SCRIPT}/secrets`)) return newest().resources.bindings.filter((it) => it.type === "secret_text");
    if (is("GET", `${SCRIPT}/settings`)) return { bindings: newest().resources.bindings };
    if (is("PATCH", `${SCRIPT}/script-settings`)) return {};
    if (is("POST", `${SCRIPT}/subdomain`) || is("GET", `${SCRIPT}/subdomain`)) return { enabled: true, previews_enabled: false };
    if (is("PUT", `${SCRIPT}/schedules`)) {
      account.crons = json().map((it) => it.cron);
      return { schedules: [] };
    }
  }
  if (is("GET", "/workers/workers/hmd")) return { id: "w", name: "hmd", subdomain: { enabled: false, previews_enabled: false } };
  throw new Refused(404, 7003, `the stand-in has no ${method} ${path}`);
}

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const { pathname, search, searchParams } = new URL(request.url, "http://stand-in");
  const reply = (status, content) => {
    response.writeHead(status, { "content-type": "application/json" });
    response.end(JSON.stringify(content));
  };
  if (pathname === "/state") {
    reply(200, { ...account, writes });
    writes = [];
    return;
  }
  if (pathname === "/forbid") {
    forbidden = decodeURIComponent(search.slice(1));
    reply(200, {});
    return;
  }
  const path = pathname.replace("/client/v4", "").replace(`/accounts/${ACCOUNT.id}`, "");
  try {
    if (request.method !== "GET") {
      writes.push(`${request.method} ${path}`);
      if (forbidden && path.includes(forbidden)) throw new Refused(403, 10000, "Authentication error");
    }
    const result = answer(request.method, path, searchParams.getAll("name"), Buffer.concat(chunks).toString("latin1"));
    const envelope = result?.result_info ? result : { result };
    reply(200, { success: true, errors: [], messages: [], ...envelope });
  } catch (error) {
    const { status = 500, code = 1, message } = error;
    reply(status, { success: false, errors: [{ code, message }], messages: [], result: null });
  }
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
