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

async function poll() {
  const live = document.getElementById('live');
  if (!live || document.hidden || busy(live)) return undefined;
  const response = await fetch(location.pathname + location.search, {
    headers: { 'x-hmd-fragment': '1', 'if-none-match': live.dataset.tag },
    cache: 'no-store',
    credentials: 'same-origin',
  });
  const date = Date.parse(response.headers.get('date') || '');
  if (date && Math.abs(date - Date.now()) > 5000) skew = date - Date.now();
  if (response.status === 401) location.reload();
  if (response.status === 304) return true;
  if (response.status !== 200) throw new Error(response.status);
  const page = new DOMParser().parseFromString(await response.text(), 'text/html');
  const fresh = page.getElementById('live');
  if (!fresh || busy(live)) return true;
  const open = new Set([...live.querySelectorAll('details[open] > summary')].map((it) => it.textContent));
  const focused = live.contains(document.activeElement) ? document.activeElement.getAttribute('href') : null;
  localize(fresh);
  tick(fresh);
  live.replaceWith(fresh);
  for (const summary of fresh.querySelectorAll('details > summary')) {
    if (open.has(summary.textContent)) summary.parentElement.open = true;
  }
  if (focused) fresh.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  document.title = `${fresh.dataset.title} · HMD`;
  return true;
}

// Looks that failed, one after the other; one alone is made up for by the next.
let failed = 0;
let answered = Date.now();

// Says that what is shown may be old.
function note() {
  let said = document.getElementById('stale');
  if (failed < 3) {
    if (said) said.textContent = '';
    return;
  }
  if (!said) {
    said = document.createElement('p');
    said.id = 'stale';
    said.className = 'stale';
    said.setAttribute('role', 'status');
    document.getElementById('live').before(said);
  }
  const text = `HMD has not answered since ${short.format(new Date(answered))}: this is what was so then. It is asked again each second.`;
  if (said.textContent !== text) said.textContent = text;
}

async function look() {
  try {
    if (await poll()) {
      failed = 0;
      answered = Date.now();
    }
  } catch {
    failed += 1;
  }
  note();
}

function watch() {
  if (!document.getElementById('live')) return;
  const again = async () => {
    await look();
    setTimeout(again, 1000);
  };
  setTimeout(again, 1000);
  setInterval(() => tick(document), 1000);
  document.addEventListener('visibilitychange', () => { if (!document.hidden) look(); });
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
        part.hidden = !(wants(kind, 'kind') && wants(rule, 'rule') && wants(objective, 'objective'));
      }
    };
    item.addEventListener('change', show);
    show();
  }
}

// What takes a while says that it is under way.
document.addEventListener('submit', (event) => event.submitter?.setAttribute('aria-busy', 'true'));
addEventListener('pageshow', () => {
  for (const button of document.querySelectorAll('[aria-busy]')) button.removeAttribute('aria-busy');
});

localize(document);
tick(document);
watch();
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
