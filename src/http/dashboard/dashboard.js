// What the pages do besides: times in the viewer's zone, changes shown as they come, stages moved by the mouse. Everything
// works without it.
'use strict';

const short = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });

function localize(root) {
  for (const time of root.querySelectorAll('time[datetime]')) {
    time.textContent = short.format(new Date(time.dateTime));
  }
}

function duration(ms) {
  let rest = Math.max(0, Math.round(ms / 1000));
  const parts = [];
  for (const [length, unit] of [[86400, 'd'], [3600, 'h'], [60, 'm'], [1, 's']]) {
    if (rest >= length) {
      parts.push(`${Math.floor(rest / length)} ${unit}`);
      rest %= length;
    }
  }
  return parts.slice(0, 2).join(' ') || '0 s';
}

// The server's clock against this one, from its answers.
let skew = 0;

function tick(root) {
  const now = Date.now() + skew;
  for (const progress of root.querySelectorAll('progress[data-ends]')) {
    progress.value = Math.min(progress.max, Math.max(0, progress.max - (Number(progress.dataset.ends) - now)));
  }
  for (const span of root.querySelectorAll('[data-remaining]')) {
    span.textContent = duration(Number(span.dataset.remaining) - now);
  }
}

// A person who is about to decide must not have the form swapped away.
function busy(live) {
  const focus = document.activeElement;
  return Boolean(live.querySelector('details.confirm[open]'))
    || (live.contains(focus) && /^(INPUT|TEXTAREA|SELECT)$/.test(focus.tagName));
}

// What a person has opened, scrolled or reached by keys stays so in the part that takes its place: parts are known by their ids.
function carry(live, fresh, swap) {
  const at = document.activeElement;
  const id = (element) => `#${CSS.escape(element.id)}`;
  let focused = null;
  if (live.contains(at)) {
    if (at.id) focused = id(at);
    else if (at.matches('summary')) focused = `${id(at.parentElement)} > summary`;
    else if (at.hasAttribute('href')) focused = `a[href="${CSS.escape(at.getAttribute('href'))}"]`;
  }
  const pairs = [...live.querySelectorAll('details[id], .scroll[id]')]
    .map((was) => [was, was.scrollLeft, was.scrollTop, fresh.querySelector(id(was))])
    .filter((pair) => pair[3]);
  swap();
  for (const [was, left, top, is] of pairs) {
    if (was.tagName === 'DETAILS') is.open = was.open;
    is.scrollTo(left, top);
  }
  if (focused) fresh.querySelector(focused)?.focus({ preventScroll: true });
}

const POLL_MS = 1000;
const STALE_MS = 5000;
let polled = 0;
let current = 0;
let why = '';

async function poll() {
  const live = document.getElementById('live');
  polled = performance.now();
  if (document.hidden) return;
  if (busy(live)) {
    why = 'a form is open';
    return;
  }
  why = 'HMD does not answer';
  const response = await fetch(location.pathname + location.search, {
    headers: { 'x-hmd-fragment': '1', 'if-none-match': live.dataset.tag },
    cache: 'no-store',
    credentials: 'same-origin',
    // Cloudflare Access leads who is signed out to another site, where no script may follow.
    redirect: 'manual',
    signal: AbortSignal.timeout(10_000),
  });
  const date = Date.parse(response.headers.get('date') || '');
  if (date && Math.abs(date - Date.now()) > 5000) skew = date - Date.now();
  if (response.status === 401) location.reload();
  if (response.status === 200) {
    const page = new DOMParser().parseFromString(await response.text(), 'text/html');
    const fresh = page.getElementById('live');
    if (!fresh || busy(live)) return;
    localize(fresh);
    tick(fresh);
    carry(live, fresh, () => live.replaceWith(fresh));
  } else if (response.status !== 304) {
    why = response.type === 'opaqueredirect' ? 'you may be signed out' : `HMD answers ${response.status}`;
    return;
  }
  current = performance.now();
  state();
}

// Says so where a page is no longer what HMD would show, and lets no clock run on then.
function state() {
  const late = !document.hidden && performance.now() - current > STALE_MS;
  const line = document.getElementById('stale');
  if (late && !line.textContent) {
    const since = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' });
    const at = Date.now() - (performance.now() - current);
    line.textContent = `Not updated since ${since.format(at)}: ${why}.`;
  } else if (!late) line.textContent = '';
  const title = document.getElementById('live').dataset.title;
  document.title = `${late ? '⚠ ' : ''}${title} · HMD`;
  if (!late) tick(document);
}

function watch() {
  if (!document.getElementById('live')) return;
  let timer = 0;
  const next = () => { timer = setTimeout(again, Math.max(0, polled + POLL_MS - performance.now())); };
  const again = async () => {
    timer = 0;
    // A failed look is made up for by the next one.
    await poll().catch(() => {});
    next();
  };
  polled = current = performance.now();
  next();
  setInterval(state, 1000);
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) return;
    // It was not looked at while nobody saw it, which is nobody's fault.
    current = performance.now();
    // One look at a time, however often a tab is turned to.
    if (timer) {
      clearTimeout(timer);
      next();
    }
  });
}

function dragging() {
  for (const list of document.querySelectorAll('[data-list]')) {
    let dragged = null;
    list.addEventListener('dragstart', (event) => {
      if (!(event.target instanceof HTMLElement) || !event.target.matches('.item[draggable=true]')) return;
      dragged = event.target;
      dragged.classList.add('dragged');
    });
    list.addEventListener('dragover', (event) => {
      const over = event.target instanceof Element ? event.target.closest('.item[draggable=true]') : null;
      if (!dragged || !over || over === dragged || over.parentElement !== list) return;
      event.preventDefault();
      const box = over.getBoundingClientRect();
      if (event.clientY > box.top + box.height / 2) over.after(dragged);
      else over.before(dragged);
    });
    list.addEventListener('dragend', () => {
      dragged?.classList.remove('dragged');
      dragged = null;
      // Each button names its own item, wherever that is now; only the ends change.
      const items = [...list.querySelectorAll('.item[draggable]')];
      items.forEach((item, i) => {
        item.querySelector('button[value^="up."]').disabled = i === 0;
        item.querySelector('button[value^="down."]').disabled = i === items.length - 1;
      });
    });
    // A text field is for marking text, not for dragging its stage away.
    for (const input of list.querySelectorAll('input, textarea')) {
      const item = input.closest('.item[draggable]');
      if (!item) continue;
      input.addEventListener('focus', () => { item.draggable = false; });
      input.addEventListener('blur', () => { item.draggable = true; });
    }
  }
}

// Fields that mean nothing with what is chosen are not shown.
function kinds() {
  for (const item of document.querySelectorAll('.item:has(select[id$="-kind"])')) {
    const chosen = (name) => item.querySelector(`select[id$="-${name}"]`).value;
    const wants = (list, name) => !list || list.split(' ').includes(chosen(name));
    const show = () => {
      for (const part of item.querySelectorAll('[data-for], [data-rule]')) {
        const { for: kind, rule, objective } = part.dataset;
        const ruled = chosen('kind') === 'judge' || wants(rule, 'rule');
        part.hidden = !(wants(kind, 'kind') && ruled && wants(objective, 'objective'));
      }
    };
    item.addEventListener('change', show);
    show();
  }
}

// Some forms take Cloudflare some seconds: the button that was pressed says so.
function sending() {
  document.addEventListener('submit', (event) => event.submitter?.setAttribute('aria-busy', 'true'));
  addEventListener('pageshow', () => {
    for (const button of document.querySelectorAll('button[aria-busy]')) button.removeAttribute('aria-busy');
  });
}

localize(document);
tick(document);
watch();
sending();
dragging();
kinds();
for (const link of document.querySelectorAll('a[data-go]')) location.replace(link.href);
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape') return;
  const open = document.activeElement?.closest('details.confirm[open]');
  if (open) {
    open.open = false;
    open.querySelector('summary').focus();
  }
});
