// The dashboard in a real Chromium: a newcomer's whole path, people's decisions, keys alone, a small screen, no JavaScript,
// and axe-core on every page in both themes. Run by `cargo test --test browser`, which starts HMD and a simulated Cloudflare.
import assert from 'node:assert/strict';
import { createHmac, generateKeyPairSync, sign } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import puppeteer from 'puppeteer-core';

const { HMD_URL, HMD_TOKEN, CLOUDFLARE_TOKEN, KEYS_PORT, AUDIENCE, SIGN_IN_LINK, SIM_URL, CHROMIUM, SHOTS } = process.env;
const ACCOUNT = '0123456789abcdef0123456789abcdef';
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
mkdirSync(SHOTS, { recursive: true });

let passed = 0;
const said = [];
const say = (line) => process.stdout.write(`browser: ${line}\n`);

async function sim(method, path, body) {
  const response = await fetch(`${SIM_URL}/sim${path}`, {
    method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body),
  });
  assert.ok(response.ok, `${method} ${path}: ${response.status} ${await response.clone().text()}`);
  return response.status === 204 ? null : response.json().catch(() => null);
}

async function api(method, path, body) {
  const headers = { authorization: `Bearer ${HMD_TOKEN}`, 'content-type': 'application/json' };
  const response = await fetch(`${HMD_URL}${path}`, { method, headers, body: body && JSON.stringify(body) });
  const text = await response.text();
  assert.ok(response.ok, `${method} ${path}: ${response.status} ${text}`);
  return text ? JSON.parse(text) : null;
}

const behavior = (error_rate) => ({
  error_rate, exception_rate: 0, wall_ms: { median: 40, p99: 180 }, cpu_ms: { median: 3, p99: 12 },
});

const worker = (script, newErrors) => sim('PUT', `/workers/${ACCOUNT}/${script}`, {
  requests_per_second: 120,
  versions: [{ tag: 'v1', message: 'the one before', behavior: behavior(0) }, { tag: 'v2', message: 'Checkout in one step', behavior: behavior(newErrors) }],
});

const plan = (script, manual) => ({
  worker: { account_id: ACCOUNT, script_name: script }, check_interval: '1s',
  stages: [{ percent: 25, soak: '4s', advance: manual ? 'manual' : 'auto', description: 'look at the funnel' }, { percent: 100, soak: '3s' }],
  slos: [
    { name: 'errors', sli: { kind: 'error_rate' }, objective: { max: 0.05 }, min_requests: 40 },
    { name: 'errors against old', sli: { kind: 'error_rate' }, objective: { no_worse_than_old: {} } },
    { name: 'latency', sli: { kind: 'wall_time', percentile: 99 }, objective: { max_ms: 2000 }, rule: 'threshold', min_requests: 40 },
  ],
});

const browser = await puppeteer.launch({
  executablePath: CHROMIUM, headless: true,
  args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--lang=en-GB'],
});
say(`${await browser.version()} at ${CHROMIUM}`);

// A tab of its own context, whose console must stay quiet.
async function open({ width = 1280, scripts = true, theme = 'light' } = {}) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  await page.setViewport({ width, height: 900 });
  await page.setJavaScriptEnabled(scripts);
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: theme }]);
  page.setDefaultTimeout(20_000);
  page.on('console', (message) => {
    if (['error', 'warn'].includes(message.type())) said.push(`${page.url()}: ${message.text()}`);
  });
  page.on('pageerror', (error) => said.push(`${page.url()}: ${error.message}`));
  return page;
}

// Does something that leads to another page.
async function go(page, act) {
  await Promise.all([page.waitForNavigation({ waitUntil: 'load' }), act()]);
}

const press = (page, text, within = 'body') =>
  go(page, async () => (await page.waitForSelector(`${within} ::-p-text(${text})`)).click());

async function submit(page, selector) {
  await go(page, () => page.click(selector));
}

async function signIn(page) {
  await page.goto(`${HMD_URL}/`);
  await page.type('#token', HMD_TOKEN);
  await submit(page, 'form[action="/sign-in"] button');
}

// A command behind its confirm step. A live region may be swapped in between, so it is tried again.
async function command(page, verb) {
  for (let tries = 0; ; tries += 1) {
    try {
      await page.click(`form[action$="/${verb}"]`, { count: 0 }).catch(() => {});
      await page.evaluate((wanted) => {
        document.querySelector(`form[action$="/${wanted}"]`).closest('details').querySelector('summary').click();
      }, verb);
      await submit(page, `form[action$="/${verb}"] button`);
      return;
    } catch (error) {
      if (tries === 3) throw error;
    }
  }
}

const until = (page, text) => page.waitForFunction((wanted) => document.title.includes(wanted), { timeout: 60_000 }, text);

async function test(name, run) {
  const begun = Date.now();
  try {
    await run();
    passed += 1;
    say(`${name} ... ok in ${((Date.now() - begun) / 1000).toFixed(1)} s`);
  } catch (error) {
    say(`${name} ... FAILED: ${error.stack}`);
    process.exitCode = 1;
  }
}

async function shot(page, name) {
  await page.screenshot({ path: join(SHOTS, `${name}.png`), fullPage: true });
}

await test('a newcomer gets from nothing to a successful release', async () => {
  await worker('shop', 0.001);
  const page = await open();
  await page.goto(`${HMD_URL}/`);
  assert.match(page.url(), /\/sign-in\?next=/);
  await page.type('#token', 'not the token');
  await submit(page, 'form[action="/sign-in"] button');
  assert.match(await page.$eval('#token-error', (it) => it.textContent), /not the installation/);
  said.length = 0; // Chromium itself reports the 403.
  await page.type('#token', HMD_TOKEN);
  await submit(page, 'form[action="/sign-in"] button');
  await page.waitForSelector('::-p-text(No Worker yet)');
  await press(page, 'Make a plan', 'main');
  await page.type('#name', 'shop');
  await submit(page, 'main form button');
  await submit(page, 'form#plan .commands button');
  assert.equal(await page.$eval('#account_id', (it) => it.getAttribute('aria-invalid')), 'true');
  said.length = 0; // The 422.
  const fill = async (selector, text) => {
    await page.$eval(selector, (it) => { it.value = ''; });
    await page.type(selector, text);
  };
  await fill('#account_id', ACCOUNT);
  await fill('#check_interval', '1s');
  for (const i of [0, 1, 2]) await fill(`#stages-${i}-soak`, '3s');
  await fill('#slos-0-limit', '0.05');
  await submit(page, 'form#plan .commands button');
  await page.waitForSelector('::-p-text(Saved.)');
  await press(page, 'New release by this plan');
  await submit(page, 'button[value=check]');
  await page.waitForSelector('::-p-text(Ready to be released)');
  await submit(page, 'button[value=start]');
  assert.match(page.url(), /\/releases\/rel_.*done=created/);
  await until(page, 'rolling out · shop');
  await page.waitForSelector('#live svg.chart');
  await shot(page, 'release');
  await until(page, 'succeeded · shop');
  await page.waitForSelector('::-p-text(All stages passed)');
});

await test('a bad version is reverted, and the page says why', async () => {
  await worker('checkout', 0.4);
  await api('PUT', '/v1/plans/checkout', plan('checkout', false));
  const page = await open();
  await signIn(page);
  await page.goto(`${HMD_URL}/new?plan=checkout`);
  await submit(page, 'button[value=start]');
  await until(page, 'reverted · checkout');
  const why = await page.$eval('.report', (it) => it.textContent);
  assert.match(why, /Slo violation/);
  await page.waitForSelector('.dot.harm');
  await shot(page, 'reverted');
});

await test('what a verdict rests on can be seen, read and followed', async () => {
  const { items: [{ id }] } = await api('GET', '/v1/releases?worker=checkout');
  for (const width of [1600, 360]) {
    const page = await open({ width });
    await signIn(page);
    await page.goto(`${HMD_URL}/releases/${id}`);
    // SLOs by evidence have three charts (two as long as there is nothing to compare), others one; none is without words, or too wide.
    const charts = await page.$$eval('svg.chart', (all) => all.map((it) => [it.getAttribute('aria-label'), it.getBoundingClientRect().width]));
    assert.ok(charts.length >= 6 && charts.length <= 7, `${charts.length} charts`);
    for (const [label, wide] of charts) assert.ok(label && wide > 200 && wide < width, `${label}: ${wide} of ${width}`);
    // Text keeps its size, and marks of different verdicts have different shapes.
    const sizes = await page.$$eval('svg.chart text', (all) => all.map((it) => it.getBoundingClientRect().height));
    assert.ok(sizes.every((it) => it > 10 && it < 20), sizes.join());
    const shapes = await page.$$eval('defs > [id^="dot-"]', (all) => all.map((it) => `${it.tagName} ${it.getAttribute('d') ?? it.getAttribute('r')}`));
    assert.equal(new Set(shapes).size, 6);
    const mark = await page.$eval('use.dot.harm', (it) => { const { width: w, height: h } = it.getBoundingClientRect(); return [w, h]; });
    assert.ok(mark[0] > 8 && mark[0] < 16 && mark[1] > 8 && mark[1] < 16, mark.join());
    const text = await page.$eval('main', (it) => it.innerText);
    assert.match(text, /Evidence of harm: [^.]+ of \d+ needed/);
    await page.$eval('.slo details summary', (it) => it.click());
    const rows = await page.$$eval('.slo details[open] table tr', (all) => all.length);
    assert.ok(rows > 1, `${rows} rows`);
    const links = await page.$$eval('.report a', (all) => all.map((it) => it.href));
    assert.ok(links.some((it) => it.includes('/observability/logs?')) && links.some((it) => it.endsWith('/deployments')), links.join());
  }
});

await test('fields that mean nothing with what is chosen are not shown', async () => {
  const page = await open();
  await signIn(page);
  await page.goto(`${HMD_URL}/plans/checkout`);
  const shown = () => page.$$eval('#slos-0-weight, #slos-0-at_full, #slos-0-percentile', (all) => all.filter((it) => it.offsetParent).map((it) => it.id));
  assert.deepEqual(await shown(), ['slos-0-weight']);
  await page.select('#slos-0-objective', 'no_worse_than_old');
  assert.deepEqual(await shown(), ['slos-0-weight', 'slos-0-at_full']);
  await page.select('#slos-0-rule', 'threshold');
  assert.deepEqual(await shown(), []);
});

await test('saved queries are chosen from a list, and a large plan is folded', async () => {
  const saved = await api('POST', `/v1/workers/${ACCOUNT}/checkout/queries`, { plan: 'checkout', slo: 'errors', part: 'bad', name: 'Failed checkouts' });
  for (const scripts of [true, false]) {
    const page = await open({ scripts });
    if (scripts) await signIn(page);
    else {
      await page.goto(`${HMD_URL}/`);
      await page.type('#token', HMD_TOKEN);
      await submit(page, 'form[action="/sign-in"] button');
    }
    await page.goto(`${HMD_URL}/plans/checkout`);
    await submit(page, '#load-queries');
    const offered = await page.$$eval('#queries option', (all) => all.map((it) => [it.value, it.textContent]));
    assert.deepEqual(offered, [[saved.id, 'Failed checkouts']]);
    await page.select('#slos-0-kind', 'query');
    await page.type('#slos-0-saved_bad', saved.id);
    await page.$eval('#slos-0-limit', (it) => { it.value = '0.05'; });
    if (!scripts) {
      await submit(page, 'form#plan .commands button');
      assert.equal(await page.$eval('#slos-0-saved_bad', (it) => it.value), saved.id);
    }
  }
  await api('PUT', '/v1/plans/checkout', plan('checkout', false));
  const large = plan('shop', false);
  large.stages = [...Array(19).keys()].map((i) => ({ percent: 5 * (i + 1), soak: '3s', description: 'look at the funnel' })).concat({ percent: 100, soak: '3s' });
  large.slos = [...Array(20).keys()].map((i) => ({ ...large.slos[0], name: `errors ${i}` }));
  await api('PUT', '/v1/plans/large', large);
  const page = await open();
  await signIn(page);
  await page.goto(`${HMD_URL}/plans/large`);
  assert.equal(await page.$('#slos-3-name'), null);
  await submit(page, 'button[value="open.slos.3"]');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'slos-3-name');
  await page.$eval('#slos-3-name', (it) => { it.value = 'three'; });
  await submit(page, 'button[value="as-json"]');
  assert.equal(JSON.parse(await page.$eval('#json', (it) => it.value)).slos[3].name, 'three');
  await submit(page, 'button[value="form"]');
  await submit(page, 'form#plan .commands button');
  await page.waitForSelector('::-p-text(Saved.)');
  assert.equal((await api('GET', '/v1/plans/large')).slos[3].name, 'three');
});

await test('an open page asks once a second while it is looked at, and says when nobody answers', async () => {
  const page = await open();
  await signIn(page);
  const asked = [];
  let cut = false;
  await page.setRequestInterception(true);
  page.on('request', (request) => {
    if (cut) return request.abort();
    if (request.headers()['x-hmd-fragment']) asked.push(Date.now());
    return request.continue();
  });
  const answers = [];
  page.on('response', (response) => { if (response.request().headers()['x-hmd-fragment']) answers.push(response.status()); });
  await page.goto(`${HMD_URL}/`);
  const more = async (count) => { const from = asked.length; while (asked.length < from + count) await page.waitForResponse((it) => it.request().headers()['x-hmd-fragment']); };
  await more(4);
  for (const [i, at] of asked.entries()) assert.ok(i === 0 || at - asked[i - 1] >= 950, asked.join());
  // Nothing is going on: even the first answer has no body.
  assert.ok(answers.every((it) => it === 304), answers.join());
  await page.evaluate(() => Object.defineProperty(document, 'hidden', { configurable: true, get: () => true }));
  const before = asked.length;
  await page.evaluate(() => new Promise((done) => { setTimeout(done, 2500); }));
  assert.ok(asked.length <= before + 1, `${asked.length - before} while hidden`);
  await page.evaluate(() => Object.defineProperty(document, 'hidden', { configurable: true, get: () => false }));
  cut = true;
  await page.waitForFunction(() => document.getElementById('stale')?.textContent.includes('does not answer'));
  await shot(page, 'stale');
  cut = false;
  await page.waitForFunction(() => document.getElementById('stale').textContent === '');
  said.length = 0; // Chromium's own words on what was cut off.
});

await test('a person approves, another denies', async () => {
  for (const [script, verb, end] of [['search', 'approve', 'succeeded'], ['mail', 'deny', 'reverted']]) {
    await worker(script, 0.001);
    await api('PUT', `/v1/plans/${script}`, plan(script, true));
    const { id } = await api('POST', '/v1/releases', { plan: script, new_version: 'latest' });
    const page = await open();
    await signIn(page);
    await page.goto(`${HMD_URL}/releases/${id}`);
    await until(page, `awaiting approval · ${script}`);
    if (verb === 'approve') await shot(page, 'approval');
    await command(page, verb);
    await until(page, `${end} · ${script}`);
    const { items } = await api('GET', `/v1/releases/${id}/events`);
    assert.ok(items.some((it) => it.actor === 'dashboard'), JSON.stringify(items));
  }
});

await test('stages are moved by keys alone', async () => {
  const page = await open();
  await signIn(page);
  await page.goto(`${HMD_URL}/plans/shop`);
  await page.focus('#down-stages-0');
  await go(page, () => page.keyboard.press('Enter'));
  const percents = () => page.$$eval('[id$="-percent"]', (all) => all.map((it) => it.value));
  assert.deepEqual(await percents(), ['50', '10', '100']);
  assert.equal(await page.evaluate(() => document.activeElement.id), 'up-stages-1');
  await go(page, () => page.keyboard.press('Enter'));
  assert.deepEqual(await percents(), ['10', '50', '100']);
  await shot(page, 'plan');
});

await test('stages are moved by the mouse', async () => {
  const page = await open();
  await signIn(page);
  await page.goto(`${HMD_URL}/plans/shop`);
  const percents = () => page.$$eval('[data-list=stages] [id$="-percent"]', (all) => all.map((it) => it.value));
  const before = await percents();
  const items = () => page.$$('[data-list=stages] > .item[draggable=true]');
  // Held at its free upper edge: a field is for marking text.
  const edge = async (item, down) => {
    await item.scrollIntoView();
    const box = await item.boundingBox();
    return [box.x + box.width / 2, down ? box.y + box.height - 4 : box.y + 4];
  };
  const [first, second] = await items();
  await page.evaluate(() => scrollTo(0, document.querySelector('[data-list=stages]').offsetTop));
  await page.mouse.move(...await edge(first, false));
  await page.mouse.down();
  const [x, y] = await edge(second, true);
  for (const step of [12, 8, 4, 0]) await page.mouse.move(x, y - step);
  await page.mouse.up();
  const moved = [before[1], before[0], before[2]];
  assert.deepEqual(await percents(), moved);
  // What was moved is what is sent: in this order it is refused, at its field.
  await submit(page, 'form#plan .commands button');
  assert.deepEqual(await percents(), moved);
  await page.waitForSelector('[id$="-percent"][aria-invalid]');
  said.length = 0; // The 422.
});

await test('a button means the stage that it stands at, wherever the mouse has moved that', async () => {
  const page = await open();
  await signIn(page);
  await page.goto(`${HMD_URL}/plans/shop`);
  const percents = () => page.$$eval('[data-list=stages] [id$="-percent"]', (all) => all.map((it) => it.value));
  const [first, second, last] = await percents();
  // The second is moved before the first, as the mouse does it.
  await page.evaluate(() => {
    const list = document.querySelector('[data-list=stages]');
    const [first, second] = list.querySelectorAll('.item[draggable=true]');
    const drag = (type, target, clientY = 0) => target.dispatchEvent(new DragEvent(type, { bubbles: true, cancelable: true, clientY }));
    drag('dragstart', second);
    drag('dragover', first, first.getBoundingClientRect().top + 1);
    drag('dragend', second);
  });
  assert.deepEqual(await percents(), [second, first, last]);
  const ends = await page.$$eval('[data-list=stages] .item[draggable] .moves button', (all) => all.map((it) => it.disabled));
  assert.deepEqual(ends, [true, false, false, false, true, false]);
  await submit(page, '#remove-stages-0');
  assert.deepEqual(await percents(), [second, last]);
});

await test('a link on another site leads in without signing anybody out', async () => {
  const server = createServer((_, response) => {
    response.setHeader('content-type', 'text/html');
    response.end(`<!doctype html><title>elsewhere</title><link rel="icon" href="data:,"><a id="in" href="${HMD_URL}/plans/shop">in</a>`);
  });
  await new Promise((done) => { server.listen(0, '127.0.0.1', done); });
  const page = await open();
  await signIn(page);
  await page.goto(`${HMD_URL}/plans/shop`);
  const other = await page.browserContext().newPage();
  // `localhost` is another site than `127.0.0.1`.
  await other.goto(`http://localhost:${server.address().port}/`);
  await other.click('#in');
  await other.waitForSelector('form#plan');
  assert.equal(new URL(other.url()).pathname, '/plans/shop');
  // The form of the first tab is still good.
  await page.bringToFront();
  await submit(page, 'form#plan .commands button');
  await page.waitForSelector('::-p-text(Saved.)');
  // Two tabs that wait for a sign-in: either form works.
  const signedOut = await open();
  await signedOut.goto(`${HMD_URL}/plans`);
  const second = await signedOut.browserContext().newPage();
  await second.goto(`${HMD_URL}/releases`);
  await signedOut.bringToFront();
  await signedOut.type('#token', HMD_TOKEN);
  await submit(signedOut, 'form[action="/sign-in"] button');
  assert.equal(new URL(signedOut.url()).pathname, '/plans');
  server.close();
});

await test('an update leaves what is open, scrolled or focused as it is', async () => {
  await worker('steady', 0.001);
  const slow = plan('steady', false);
  slow.stages[0].soak = '60s';
  await api('PUT', '/v1/plans/steady', slow);
  const { id } = await api('POST', '/v1/releases', { plan: 'steady', new_version: 'latest' });
  const page = await open({ width: 500 });
  await signIn(page);
  await page.goto(`${HMD_URL}/releases/${id}`);
  await page.waitForSelector('#windows-1 table', { timeout: 30_000 });
  const updated = async () => {
    const tag = await page.$eval('#live', (it) => it.dataset.tag);
    await page.waitForFunction((before) => document.querySelector('#live').dataset.tag !== before, {}, tag);
  };
  const opened = () => page.$$eval('details[id^="windows-"]', (all) => all.filter((it) => it.open).map((it) => it.id));
  await page.focus('#windows-1 > summary');
  await page.keyboard.press('Enter');
  await updated();
  assert.deepEqual(await opened(), ['windows-1']);
  assert.equal(await page.evaluate(() => document.activeElement.parentElement.id), 'windows-1');
  // Scrolled by keys, it stays where it is, with the focus.
  await page.focus('#table-1');
  const scrolled = await page.$eval('#table-1', (it) => { it.firstElementChild.style.width = '2000px'; it.scrollLeft = 30; return it.scrollLeft; });
  assert.equal(scrolled, 30);
  await page.focus('#windows-1 > summary');
  await page.keyboard.press('Enter');
  await updated();
  assert.deepEqual(await opened(), []);
  await page.focus('footer', { preventScroll: true }).catch(() => {});
  await page.evaluate(() => document.querySelector('#how > summary').focus());
  await updated();
  assert.equal(await page.evaluate(() => document.activeElement.parentElement.id), 'how');
  // Without an answer, the page says that it is no longer what it seems.
  await page.setOfflineMode(true);
  await page.waitForFunction(() => document.title.startsWith('⚠') && document.querySelector('#stale').textContent.includes('HMD does not answer'), { timeout: 15_000 });
  const left = () => page.$eval('[data-remaining]', (it) => it.textContent);
  const stood = await left();
  await new Promise((done) => { setTimeout(done, 2_500); });
  assert.equal(await left(), stood, 'no clock runs on');
  await page.setOfflineMode(false);
  await page.waitForFunction(() => !document.title.startsWith('⚠') && !document.querySelector('#stale').textContent);
  said.splice(0, said.length, ...said.filter((line) => !line.includes('ERR_INTERNET_DISCONNECTED')));
  await api('POST', `/v1/releases/${id}/stop`);
});

await test('a Worker is connected with a token of its own, and disconnected', async () => {
  const page = await open();
  await signIn(page);
  await press(page, 'Connect a Worker', 'main');
  await page.type('#account_id', ACCOUNT);
  await page.type('#script_name', 'shop');
  await page.type('#token', 'not-a-token-of-this-account');
  await submit(page, 'form[action="/connect"] button');
  assert.match(await page.$eval('#token-error', (it) => it.textContent), /permission|does not know/);
  said.length = 0; // The 422.
  await page.type('#token', CLOUDFLARE_TOKEN);
  await shot(page, 'connect');
  await submit(page, 'form[action="/connect"] button');
  await page.waitForSelector('::-p-text(Connected)');
  await command(page, 'disconnect');
  await page.waitForSelector('::-p-text(Disconnected)');
});

await test('a plan is changed as JSON', async () => {
  const page = await open();
  await signIn(page);
  await page.goto(`${HMD_URL}/plans/shop`);
  await page.$eval('#json', (it) => {
    it.closest('details').open = true;
    const changed = JSON.parse(it.value);
    changed.stages[0].description = 'changed as JSON';
    it.value = JSON.stringify(changed);
  });
  await submit(page, 'button[value=json]');
  assert.equal(await page.$eval('#stages-0-description', (it) => it.value), 'changed as JSON');
});

await test('history is filtered, compared and run again', async () => {
  const page = await open();
  await signIn(page);
  await page.goto(`${HMD_URL}/releases`);
  await shot(page, 'history');
  const marks = await page.$$('input[name=id]');
  await marks[0].click();
  await marks[1].click();
  await press(page, 'Compare the two');
  await page.waitForSelector('table');
  await page.goto(`${HMD_URL}/releases`);
  await page.select('#state', 'reverted');
  await submit(page, '.filter button');
  const states = await page.$$eval('main .list .state', (all) => all.map((it) => it.textContent));
  assert.ok(states.length >= 2 && states.every((it) => it.includes('reverted')), states.join());
  await press(page, 'Run again', 'main');
  assert.match(page.url(), /\/new\?plan=.*&version=/);
});

await test('a subscriber is added, tested, told again, and gets a new secret', async () => {
  const page = await open();
  await signIn(page);
  await page.goto(`${HMD_URL}/webhooks`);
  await page.type('#url', `${SIM_URL}/sim/nobody`);
  await page.type('#events', '*');
  await page.type('#description', 'A bot');
  await submit(page, 'form[action="/webhooks"] button');
  assert.match(await page.$eval('code.block', (it) => it.textContent), /^whsec_/);
  await press(page, 'I have kept it');
  await command(page, 'test');
  await press(page, 'webhook.test');
  await page.waitForSelector('::-p-text(Attempts)');
  await command(page, 'replay');
  await press(page, 'sub_', 'main dl');
  await shot(page, 'webhook');
  await command(page, 'rotate-secret');
  assert.match(await page.$eval('code.block', (it) => it.textContent), /^whsec_/);
});

await test('everything works without JavaScript, too', async () => {
  await worker('plain', 0.001);
  const page = await open({ scripts: false });
  await page.goto(`${HMD_URL}/`);
  await page.type('#token', HMD_TOKEN);
  await submit(page, 'form[action="/sign-in"] button');
  await page.goto(`${HMD_URL}/plans/plain`);
  await page.type('#account_id', ACCOUNT);
  await page.click('#check_interval', { count: 3 });
  await page.type('#check_interval', '1s');
  await submit(page, '#remove-stages-0');
  await submit(page, 'form#plan .commands button');
  await page.waitForSelector('::-p-text(Saved.)');
  await page.goto(`${HMD_URL}/new?plan=plain`);
  await submit(page, 'button[value=start]');
  assert.match(page.url(), /\/releases\/rel_/);
  for (const verb of ['pause', 'resume', 'stop']) {
    const summary = await page.waitForSelector(`details:has(form[action$="/${verb}"]) > summary`);
    await summary.click();
    await submit(page, `form[action$="/${verb}"] button`);
  }
  assert.match(await page.title(), /reverting|reverted/);
});

await test('a one-time link opens the dashboard, once', async () => {
  const page = await open();
  await page.goto(SIGN_IN_LINK);
  await page.waitForFunction(() => document.title.includes('Workers'));
  const again = await open();
  const response = await again.goto(SIGN_IN_LINK);
  assert.equal(response.status(), 403);
  said.length = 0; // That 403.
});

await test('axe finds nothing on any page, in both themes, wide and narrow', async () => {
  const { items: releases } = await api('GET', '/v1/releases');
  const { items: subscribers } = await api('GET', '/v1/subscribers');
  const subscriber = `/webhooks/${subscribers[0].id}`;
  const { items: deliveries } = await api('GET', `/v1/subscribers/${subscribers[0].id}/deliveries`);
  // One that is running, for its commands.
  await worker('narrow', 0.001);
  await api('PUT', '/v1/plans/narrow', plan('narrow', true));
  const running = await api('POST', '/v1/releases', { plan: 'narrow', new_version: 'latest' });
  // The page of a signed link, as a subscriber gets it.
  let told;
  const link = new Promise((resolve) => { told = resolve; });
  const receiver = createServer(async (request, response) => {
    let body = '';
    for await (const part of request) body += part;
    if (request.url === '/judge') {
      response.end(JSON.stringify({ verdict: 'pass', reason: 'no <b>complaint</b> today' }));
      return;
    }
    response.end();
    const { data } = JSON.parse(body);
    if (data.approve_url) told(data.approve_url);
  });
  await new Promise((done) => { receiver.listen(0, '127.0.0.1', done); });
  const receives = `http://127.0.0.1:${receiver.address().port}`;
  await api('POST', '/v1/subscribers', { url: `${receives}/`, events: ['approval.requested'], approvals: true, worker: 'link' });
  await worker('link', 0.001);
  await api('PUT', '/v1/plans/link', {
    ...plan('link', true),
    slos: [...plan('link', true).slos, { name: 'second opinion', sli: { kind: 'judge', url: `${receives}/judge` }, objective: 'pass' }],
  });
  const linked = await api('POST', '/v1/releases', { plan: 'link', new_version: 'latest' });
  const approval = new URL(await link);
  const pages = {
    workers: '/', connect: '/connect', new: '/new', 'new-release': '/new?plan=shop', plans: '/plans', plan: '/plans/shop', 'plan-fresh': '/plans/fresh', history: '/releases',
    none: '/releases?worker=none', compare: `/compare?id=${releases[0].id}&id=${releases[1].id}`, webhooks: '/webhooks', subscriber,
    delivery: `${subscriber}/deliveries/${deliveries[0].id}`, running: `/releases/${running.id}`, judged: `/releases/${linked.id}`, forecast: '/plans/shop/forecast', 'plan-large': '/plans/large',
    'new-checked': `/new?plan=shop&version=${releases[0].new_version}&check=1`, approval: `${approval.pathname}${approval.search}`, missing: '/releases/rel_none',
    ...Object.fromEntries(releases.slice(0, 2).map((it, i) => [`release-${i}`, `/releases/${it.id}`])),
  };
  const found = [];
  for (const [theme, width] of [['light', 1600], ['dark', 360]]) {
    const signedOut = await open({ theme, width });
    await signedOut.goto(`${HMD_URL}/sign-in`);
    const page = await open({ theme, width });
    await signIn(page);
    const check = async (tab, name) => {
      // Open everything: what is hidden is not looked at. The policy forbids injected scripts, but not the debugger's.
      await tab.evaluate(() => { for (const it of document.querySelectorAll('details')) it.open = true; });
      await tab.evaluate(AXE);
      const { violations } = await tab.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
      for (const it of violations) found.push(`${name} ${theme} ${it.id}: ${it.nodes.map((node) => node.html).slice(0, 3).join(' | ')}`);
      const overflow = await tab.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      if (overflow > 0) found.push(`${name} is ${overflow} px wider than ${width}`);
      await shot(tab, `${name}-${theme}-${width}`);
    };
    await check(signedOut, 'sign-in');
    for (const [name, path] of Object.entries(pages)) {
      await page.goto(`${HMD_URL}${path}`);
      await check(page, name);
    }
    await page.goto(`${HMD_URL}/plans/large`);
    await submit(page, '#load-queries');
    await submit(page, 'button[value="open.slos.3"]');
    await check(page, 'plan-large-open');
    await page.goto(`${HMD_URL}/plans/checkout`);
    await submit(page, '#load-queries');
    await check(page, 'plan-queries');
  }
  receiver.close();
  said.splice(0, said.length, ...said.filter((line) => !line.includes('rel_none')));
  assert.deepEqual(found, []);
});

await test('Cloudflare Access signs a person in, and nobody else, by the keys of its team', async () => {
  const pair = () => generateKeyPairSync('rsa', { modulusLength: 2048 });
  const [ours, foreign, next] = [pair(), pair(), pair()];
  let published = [['a', ours]];
  let reads = 0;
  const server = createServer((_, response) => {
    reads += 1;
    const keys = published.map(([kid, key]) => ({ kid, ...key.publicKey.export({ format: 'jwk' }), alg: 'RS256', use: 'sig' }));
    response.end(JSON.stringify({ keys }));
  });
  await new Promise((done) => { server.listen(Number(KEYS_PORT), '127.0.0.1', done); });
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const assertion = (key, { kid = 'a', alg = 'RS256', ...changed } = {}) => {
    const now = Math.floor(Date.now() / 1000);
    const claims = { iss: 'https://hmd-test.cloudflareaccess.com', aud: [AUDIENCE], email: 'ada@example.com', iat: now, nbf: now, exp: now + 600, ...changed };
    const signed = `${part({ alg, kid })}.${part(claims)}`;
    if (alg === 'none') return `${signed}.`;
    const secret = () => createHmac('sha256', ours.publicKey.export({ type: 'spki', format: 'pem' })).update(signed).digest();
    const signature = alg === 'HS256' ? secret() : sign('RSA-SHA256', Buffer.from(signed), key.privateKey);
    return `${signed}.${signature.toString('base64url')}`;
  };
  const ask = async (token) => {
    const response = await fetch(`${HMD_URL}/`, { headers: { 'cf-access-jwt-assertion': token }, redirect: 'manual' });
    return [response.status, await response.text()];
  };
  const [status, text] = await ask(assertion(ours));
  assert.equal(status, 200, text);
  assert.match(text, /ada@example\.com/);
  const now = Math.floor(Date.now() / 1000);
  for (const [what, token] of Object.entries({
    'alg none': assertion(ours, { alg: 'none' }), HS256: assertion(ours, { alg: 'HS256' }), 'a foreign key': assertion(foreign),
    'another audience': assertion(ours, { aud: ['0'.repeat(32)] }), 'another issuer': assertion(ours, { iss: 'https://evil.cloudflareaccess.com' }),
    expired: assertion(ours, { exp: now }), 'not yet valid': assertion(ours, { nbf: now + 600 }), garbage: 'garbage',
  })) assert.equal((await ask(token))[0], 403, what);
  // A new key is looked for, but not for each stranger.
  published = [['a', ours], ['b', next]];
  assert.equal((await ask(assertion(next, { kid: 'b' })))[0], 403);
  assert.equal(reads, 1);
  // In the browser: forms work, and the person is the actor.
  await worker('gate', 0.001);
  await api('PUT', '/v1/plans/gate', plan('gate', true));
  const page = await open();
  await page.setExtraHTTPHeaders({ 'cf-access-jwt-assertion': assertion(ours) });
  await page.goto(`${HMD_URL}/new?plan=gate`);
  await submit(page, 'button[value=start]');
  assert.match(page.url(), /\/releases\/rel_.*done=created/);
  const id = page.url().match(/rel_[0-9a-f]+/)[0];
  await command(page, 'stop');
  const { items } = await api('GET', `/v1/releases/${id}/events`);
  assert.ok(items.some((it) => it.actor === 'access:ada@example.com'), JSON.stringify(items));
  server.close();
});

await test('nothing was said on any console', async () => assert.deepEqual(said, []));

await browser.close();
say(`${passed} passed`);
