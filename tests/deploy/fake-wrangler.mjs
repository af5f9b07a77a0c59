#!/usr/bin/env node
// Answers like the pinned wrangler, for an account that lives in a file. FAKE_DIR holds `account.json` (the account) and
// `calls.ndjson` (every call with its arguments and environment). FAKE_TROUBLE is a JSON object: {command, code, text, always}.
import { appendFileSync, existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";

const directory = process.env.FAKE_DIR;
const argv = process.argv.slice(2);
const accountFile = join(directory, "account.json");
const account = existsSync(accountFile)
  ? JSON.parse(readFileSync(accountFile, "utf8"))
  : { databases: [], queues: [], migrations: [], versions: [], active: [], subdomain: "me", consumers: [], crons: [] };

const options = {};
const words = [];
for (let i = 0; i < argv.length; i += 1) {
  const flags = ["--json", "--remote", "--dry-run"];
  if (!argv[i].startsWith("--")) words.push(argv[i]);
  else if (flags.includes(argv[i])) options[argv[i].slice(2)] = true;
  else options[argv[i].slice(2)] = argv[(i += 1)];
}
const command = words.join(" ");
appendFileSync(join(directory, "calls.ndjson"), `${JSON.stringify({ command, argv, env: process.env })}\n`);

const report = (entry) => {
  const path = process.env.WRANGLER_OUTPUT_FILE_PATH;
  if (!path) return;
  mkdirSync(dirname(path), { recursive: true });
  appendFileSync(path, `${JSON.stringify(entry)}\n`);
};
const save = () => writeFileSync(accountFile, JSON.stringify(account, null, 1));
const fail = (text, code) => {
  save();
  report({ type: "command-failed", version: 1, code, message: text });
  console.error(`\n✘ [ERROR] ${text}${code ? ` [code: ${code}]` : ""}\n`);
  process.exit(1);
};

if (!process.env.CLOUDFLARE_API_TOKEN) {
  if (command === "whoami") {
    console.log('{"loggedIn":false}');
    process.exit(1);
  }
  fail("In a non-interactive environment, it's necessary to set a CLOUDFLARE_API_TOKEN environment variable for wrangler to work.");
}
const trouble = process.env.FAKE_TROUBLE ? JSON.parse(process.env.FAKE_TROUBLE) : undefined;
if (trouble && command === trouble.command) fail(trouble.text, trouble.code);

const config = JSON.parse(readFileSync(options.config, "utf8"));
const beside = (path) => resolve(dirname(options.config), path);
const queueNames = () => [
  ...(config.queues?.producers ?? []).map((it) => it.queue),
  ...(config.queues?.consumers ?? []).flatMap((it) => [it.queue, it.dead_letter_queue]).filter(Boolean),
];
const database = () => {
  const it = config.d1_databases[0];
  if (!account.databases.some((found) => found.uuid === it.database_id && found.name === it.database_name)) {
    fail(`The database ${it.database_id} could not be found`, 7404);
  }
  return it;
};
const migrationFiles = () => readdirSync(beside(database().migrations_dir)).filter((it) => it.endsWith(".sql")).sort();
const pending = () => migrationFiles().filter((it) => !account.migrations.includes(it));
const uuid = () => `00000000-0000-4000-8000-${String(account.versions.length + account.databases.length + 1).padStart(12, "0")}`;

const setTriggers = () => {
  if (!account.subdomain) {
    fail("You can either deploy your worker to one or more routes by specifying them in your wrangler.json file, or register a workers.dev subdomain here:\nhttps://dash.cloudflare.com/acc/workers/onboarding");
  }
  account.crons = config.triggers?.crons ?? [];
  account.consumers = (config.queues?.consumers ?? []).map((it) => it.queue);
  const targets = [`https://${config.name}.${account.subdomain}.workers.dev`, ...account.crons.map((it) => `schedule: ${it}`)];
  console.log(`Deployed ${config.name} triggers (0.30 sec)`);
  for (const target of targets) console.log(`  ${target}`);
  return targets;
};

const [first, second, third, fourth] = words;
if (command === "whoami") {
  console.log(JSON.stringify({ loggedIn: true, authType: "User API Token", accounts: account.logins ?? [{ name: "me", id: "acc-1" }] }));
} else if (process.env.CLOUDFLARE_ACCOUNT_ID === undefined) {
  fail("More than one account available but unable to select one in non-interactive mode.");
} else if (command === "d1 list") {
  console.log(JSON.stringify(account.databases));
} else if (first === "d1" && second === "create") {
  if (account.databases.some((it) => it.name === third)) fail(`A database with that name already exists`, 7502);
  account.databases.push({ uuid: uuid(), name: third, version: "production" });
  console.log(`✅ Successfully created DB '${third}'`);
} else if (first === "d1" && third === "list" && options.remote) {
  const left = pending();
  console.log(left.length === 0 ? "✅ No migrations to apply!" : `Migrations to be applied:\n${left.join("\n")}`);
} else if (first === "d1" && third === "apply" && options.remote && fourth === config.d1_databases[0].database_name) {
  account.migrations.push(...pending());
  console.log("🌀 Executing on remote database");
} else if (first === "queues" && second === "info") {
  if (!account.queues.includes(third)) fail(`Queue "${third}" does not exist. To create it, run: wrangler queues create ${third}`);
  console.log(`Queue Name: ${third}`);
} else if (first === "queues" && second === "create") {
  if (account.queues.includes(third)) fail("Queue name is already taken", 11009);
  account.queues.push(third);
  console.log(`✅ Created queue '${third}'`);
} else if (command === "deployments status") {
  if (account.versions.length === 0) fail("This Worker does not exist on your account.", 10007);
  console.log(JSON.stringify({ id: "deployment", versions: account.active }));
} else if (first === "versions" && second === "view") {
  console.log(JSON.stringify(account.versions.find((it) => it.id === third)));
} else if (command === "deploy") {
  const it = database();
  for (const name of queueNames()) if (!account.queues.includes(name)) fail(`Queue "${name}" does not exist.`);
  if (!existsSync(beside(config.main)) || !statSync(beside("worker/index_bg.wasm")).size) fail(`The entry-point file at "${config.main}" was not found.`);
  let secrets = {};
  const file = options["secrets-file"];
  if (file) {
    if ((statSync(file).mode & 0o777) !== 0o600) fail("the secrets file can be read by others");
    secrets = JSON.parse(readFileSync(file, "utf8"));
  }
  const kept = account.versions.at(-1)?.secrets ?? {};
  const held = { ...kept, ...secrets };
  const bindings = [
    { type: "d1", name: it.binding, id: it.database_id },
    ...Object.entries(config.vars).map(([name, text]) => ({ type: "plain_text", name, text })),
    ...Object.keys(held).map((name) => ({ type: "secret_text", name })),
  ];
  const version = { id: uuid(), annotations: { "workers/tag": options.tag, "workers/message": options.message }, resources: { bindings }, secrets: held };
  account.versions.push(version);
  account.active = [{ version_id: version.id, percentage: 100 }];
  console.log(`Uploaded ${config.name} (3.20 sec)`);
  const targets = setTriggers();
  report({ type: "deploy", version: 1, worker_name: config.name, version_id: version.id, targets });
} else if (command === "triggers deploy") {
  setTriggers();
} else {
  fail(`Unknown command: ${argv.join(" ")}`);
}
save();
