#!/usr/bin/env node
// Puts the simulated service on Cloudflare, uploads versions of it, and sends it bounded traffic. Needs Node.js 20 or newer
// and nothing else; wrangler is the one that `npm ci` installs in the project.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const HERE = dirname(fileURLToPath(import.meta.url));
const BIN = join(HERE, "../../node_modules/.bin");

// Nobody's bill is run up by a forgotten terminal: 50 requests a second for an hour are 180,000.
const MOST_PER_SECOND = 50;
const MOST_SECONDS = 3600;
// Slow answers must not pile up: beyond this, requests are skipped and counted as such.
const MOST_IN_FLIGHT = 200;
const TIMEOUT_MS = 10_000;

const USAGE = `usage: node tests/simulated-service/service.mjs COMMAND

  start [--kind error|slow|throw] [--rate 10]
      deploys version v1, which is healthy, and uploads v2, in which one request in --rate goes wrong; v2 gets no traffic
  upload LABEL [--kind none|error|slow|throw] [--rate 10]
      uploads one more version without traffic; healthy unless --kind says otherwise
  traffic URL [--per-second 10] [--seconds 600]
      sends requests and prints how each version answers; at most ${MOST_PER_SECOND} a second and ${MOST_SECONDS} seconds
  remove
      deletes the service from the account

  --dry-run with start or upload: wrangler checks everything and uploads nothing, without an account`;

class Wrong extends Error {}

const number = (text, name, most) => {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1 || value > most) throw new Wrong(`--${name} must be a whole number from 1 to ${most}`);
  return value;
};

function wrangler(words) {
  const program = join(BIN, "wrangler");
  if (!existsSync(program)) throw new Wrong("wrangler is not installed: run `cargo run -- setup` in the project first");
  const { status, error } = spawnSync(program, [...words, "--config", join(HERE, "wrangler.toml")], {
    stdio: "inherit",
    env: { ...process.env, PATH: `${BIN}${delimiter}${process.env.PATH}`, WRANGLER_SEND_METRICS: "false" },
  });
  if (error) throw error;
  if (status !== 0) throw new Wrong(`wrangler ${words[0]} failed; its own words are above`);
}

function version(command, label, kind, rate, isDryRun) {
  if (!/^[a-z0-9-]{1,20}$/.test(label)) throw new Wrong("LABEL must be of small letters, digits and -, 20 at most");
  if (!["none", "slow", "error", "throw"].includes(kind)) throw new Wrong("--kind must be none, slow, error or throw");
  const message = kind === "none" ? `${label}: healthy` : `${label}: one in ${rate} ${kind}`;
  console.log(`\n== ${message}`);
  const vars = Object.entries({ LABEL: label, KIND: kind, RATE: rate }).flatMap(([name, value]) => ["--var", `${name}:${value}`]);
  wrangler([...command, "--tag", label, "--message", message, ...vars, ...(isDryRun ? ["--dry-run"] : [])]);
}

const quantile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;

function show(title, answers) {
  console.log(title);
  for (const [label, { statuses, times }] of [...answers].sort()) {
    const sorted = times.toSorted((a, b) => a - b);
    const counts = [...statuses].sort().map(([status, count]) => `${status}: ${count}`);
    console.log(`  ${label}  ${times.length} answers (${counts.join(", ")}), p50 ${quantile(sorted, 0.5)} ms, p99 ${quantile(sorted, 0.99)} ms`);
  }
}

async function traffic(url, perSecond, seconds) {
  const total = perSecond * seconds;
  const answers = new Map();
  const inFlight = new Set();
  let [sent, skipped] = [0, 0];
  const once = async () => {
    const began = performance.now();
    let [label, status] = ["no answer", "failed"];
    try {
      const answer = await fetch(url, { signal: AbortSignal.timeout(TIMEOUT_MS), redirect: "manual" });
      await answer.arrayBuffer();
      label = answer.headers.get("x-label") ?? "unnamed";
      status = String(answer.status);
    } catch (error) {
      status = error.name === "TimeoutError" ? "timeout" : (error.cause?.code ?? error.name);
    }
    const to = answers.get(label) ?? { statuses: new Map(), times: [] };
    answers.set(label, to);
    to.statuses.set(status, (to.statuses.get(status) ?? 0) + 1);
    to.times.push(Math.round(performance.now() - began));
  };

  let isStopped = false;
  const begun = performance.now();
  const wake = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"]) {
    process.once(signal, () => {
      isStopped = true;
      wake.abort();
    });
  }
  const pause = (ms) =>
    new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      wake.signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
    });

  console.log(`${perSecond} requests a second to ${url} for ${seconds} s, ${total} in all; Ctrl-C ends it`);
  let shownAt = 0;
  for (let turn = 0; turn < total && !isStopped; turn += 1) {
    const wait = begun + (turn * 1000) / perSecond - performance.now();
    if (wait > 0) await pause(wait);
    const elapsed = (performance.now() - begun) / 1000;
    // The bound in time holds even where this machine can't keep the pace.
    if (isStopped || elapsed >= seconds) break;
    if (inFlight.size >= MOST_IN_FLIGHT) {
      skipped += 1;
      continue;
    }
    sent += 1;
    const request = once().finally(() => inFlight.delete(request));
    inFlight.add(request);
    if (elapsed - shownAt >= 10) {
      shownAt = elapsed;
      show(`after ${Math.round(elapsed)} s:`, answers);
    }
  }
  await Promise.all(inFlight);
  show(`${isStopped ? "stopped" : "done"}: ${sent} requests sent, ${skipped} skipped`, answers);
  if (![...answers.keys()].some((label) => label !== "no answer")) throw new Wrong(`${url} never answered`);
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      kind: { type: "string" },
      rate: { type: "string", default: "10" },
      "per-second": { type: "string", default: "10" },
      seconds: { type: "string", default: "600" },
      "dry-run": { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  const [command, subject] = positionals;
  const isDryRun = values["dry-run"];
  if (values.help) return console.log(USAGE);
  const rate = number(values.rate, "rate", 1_000_000);
  switch (command) {
    case "start":
      // A Worker begins with a deployment: there is nothing to upload a version to before.
      version(["deploy"], "v1", "none", rate, isDryRun);
      version(["versions", "upload"], "v2", values.kind ?? "error", rate, isDryRun);
      if (!isDryRun) console.log("\nv1 has all traffic; v2 waits for a release");
      return;
    case "upload":
      if (!subject) throw new Wrong("upload needs a LABEL");
      return version(["versions", "upload"], subject, values.kind ?? "none", rate, isDryRun);
    case "traffic":
      if (!subject || !URL.canParse(subject)) throw new Wrong("traffic needs the URL of the service");
      return traffic(subject, number(values["per-second"], "per-second", MOST_PER_SECOND), number(values.seconds, "seconds", MOST_SECONDS));
    case "remove":
      return wrangler(["delete"]);
    default:
      throw new Wrong(USAGE);
  }
}

try {
  await main();
} catch (error) {
  // parseArgs says by this code that the command line is wrong.
  const isOurs = error instanceof Wrong || String(error.code).startsWith("ERR_PARSE_ARGS");
  console.error(isOurs ? error.message : error);
  process.exitCode = isOurs ? 2 : 1;
}
