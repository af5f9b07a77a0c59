// The simulated service: 10 to 30 ms per request, but for one request in RATE, which goes wrong in the way of KIND.
// `?rate=` and `?kind=` stand in for the variables for one request, whatever version answers it; a rate alone makes requests
// slow where nothing else goes wrong.

const KINDS = ["none", "slow", "error", "throw"];

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const between = (low, high) => low + Math.random() * (high - low);

export default {
  async fetch(request, env) {
    const { pathname, searchParams } = new URL(request.url);
    if (pathname === "/favicon.ico") return new Response(null, { status: 404 });
    const asked = searchParams.get("rate");
    const kind = searchParams.get("kind") ?? (asked !== null && env.KIND === "none" ? "slow" : env.KIND);
    const rate = Number(asked ?? env.RATE);
    if (!KINDS.includes(kind) || !Number.isInteger(rate) || rate < 1) {
      return new Response(`kind must be one of ${KINDS.join(", ")}, and rate a whole number from 1\n`, { status: 400 });
    }

    const isHit = kind !== "none" && Math.floor(Math.random() * rate) === 0;
    const went = isHit ? kind : "well";
    await sleep(went === "slow" ? between(1000, 1200) : between(10, 30));
    if (went === "throw") throw new Error("simulated exception");

    const version = env.VERSION?.id ?? "unknown";
    const headers = {
      "content-type": "text/plain; charset=utf-8",
      "cache-control": "no-store",
      "x-label": env.LABEL,
      "x-version": version,
      "x-went": went,
    };
    return new Response(`${env.LABEL} (version ${version}): ${went}\n`, { status: went === "error" ? 500 : 200, headers });
  },
};
