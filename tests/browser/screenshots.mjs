// The README's pictures, taken of the demo: `node tests/browser/screenshots.mjs` starts `hmd demo --keep`, looks at its dashboard
// while the releases go on and when they have ended, and writes docs/screenshots. It needs the npm packages that
// `cargo test --test browser` installs, and a Chromium (CHROMIUM names another one than /usr/bin/chromium).
import { spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import puppeteer from 'puppeteer-core';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const shots = process.env.SHOTS ?? join(root, 'docs', 'screenshots');
mkdirSync(shots, { recursive: true });

const demo = spawn('cargo', ['run', '--', 'demo', '--keep'], { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] });
const ended = new Promise((resolve) => demo.once('exit', resolve));
const link = new Promise((resolve, reject) => {
  let said = '';
  demo.stdout.on('data', (part) => {
    process.stdout.write(part);
    said += part;
    const found = said.match(/https?:\/\/\S+\/sign-in\/\S+/);
    if (found) resolve(found[0]);
  });
  demo.once('exit', (code) => reject(new Error(`the demo ended early (${code})`)));
});

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true,
  args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--lang=en-GB'],
});

try {
  const url = await link;
  const page = await browser.newPage();
  page.setDefaultTimeout(120_000);
  const dress = async (width, theme) => {
    await page.setViewport({ width, height: 900, deviceScaleFactor: 1 });
    await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: theme }]);
  };
  // At most so much of the page: the README shows what it is like, not all of it.
  const shoot = async (name, most) => {
    const height = await page.evaluate(() => document.documentElement.scrollHeight);
    const { width } = page.viewport();
    await page.screenshot({
      path: join(shots, `${name}.webp`), type: 'webp', quality: 80, clip: { x: 0, y: 0, width, height: Math.min(height, most) },
    });
    process.stdout.write(`screenshots: ${name}\n`);
  };
  // The release of a Worker, by the links on the list of Workers.
  const release = async (script) => {
    const origin = new URL(url).origin;
    await page.goto(`${origin}/`);
    await page.waitForSelector('main a[href^="/releases/"]');
    const path = await page.$$eval('main .card', (cards, wanted) => cards
      .filter((card) => card.textContent.includes(wanted))
      .map((card) => card.querySelector('a[href^="/releases/"]')?.getAttribute('href'))[0], script);
    await page.goto(`${origin}${path}`);
  };
  const titled = (text) => page.waitForFunction((wanted) => document.title.includes(wanted), {}, text);

  await dress(1200, 'light');
  await page.goto(url);
  await page.waitForFunction(() => document.title.includes('Workers'));
  await page.waitForFunction(() => [...document.querySelectorAll('main .card')].filter((it) => it.querySelector('a[href^="/releases/"]')).length >= 3);
  await dress(420, 'dark');
  await shoot('workers-dark', 900);
  await dress(1200, 'light');
  await release('search');
  await titled('awaiting approval');
  await shoot('release', 1700);
  await release('checkout');
  await titled('reverted');
  await shoot('reverted', 1700);
  const origin = new URL(url).origin;
  await dress(1200, 'dark');
  await page.goto(`${origin}/plans/search`);
  await shoot('plan', 1700);
  await release('search');
  await titled('succeeded');
  await dress(1200, 'light');
  await page.goto(`${origin}/releases`);
  await shoot('history', 900);
} finally {
  await browser.close();
  demo.kill('SIGINT');
  await ended;
}
