// Keeps a page up to date. The server renders everything: when it says that something
// has changed, the page is fetched again and the parts marked data-live are brought in
// line with it. Nothing here makes markup of a text.
const root = document.documentElement;
const base = root.dataset.base;
root.classList.add("js");
const $ = (selector, from = document) => from.querySelector(selector);
const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];

// ---- times ----
function length(s) { // as the server writes it
  if (s < 1) return Math.round(s * 1000) + " ms";
  if (s < 100) return Math.round(s) + " s";
  if (s < 6000) return Math.round(s / 60) + " min";
  if (s < 259200) return Math.round(s / 3600) + " h";
  return Math.round(s / 86400) + " days";
}
let ahead = Date.now() - Date.parse(root.dataset.now); // how far the clock here is before the server's
function tellTimes() {
  for (const t of $$("time[data-ago]")) {
    const s = (Date.now() - ahead - Date.parse(t.dateTime)) / 1000;
    const text = Math.abs(s) < 1 ? (s < 0 ? "now" : "just now") : s < 0 ? "in " + length(-s) : length(s) + " ago";
    if (t.textContent !== text) t.textContent = text;
  }
}
setInterval(tellTimes, 1000);

// ---- bringing the page in line ----
const keyOf = (node) => node.nodeType === 1 ? node.dataset.row || node.id || "" : "";
const isField = (node) => /^(INPUT|TEXTAREA|SELECT)$/.test(node.nodeName);

function bring(old, fresh) {
  if (isField(old)) return; // somebody may be typing
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open" && name !== "class") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (name !== "class" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const mine = ["here", "new"].filter((c) => old.classList.contains(c));
  const wanted = [fresh.getAttribute("class") || "", ...mine].join(" ").trim();
  if ((old.getAttribute("class") || "") !== wanted) old.setAttribute("class", wanted);
  let at = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const key = keyOf(child);
    let match = at;
    if (key) match = [...old.childNodes].find((n) => keyOf(n) === key) || null;
    else if (at && (keyOf(at) || at.nodeName !== child.nodeName)) match = null;
    if (match && match.nodeName === child.nodeName) {
      if (match !== at) old.insertBefore(match, at); else at = at.nextSibling;
      if (match.nodeType === 1) bring(match, child);
      else if (match.nodeValue !== child.nodeValue) match.nodeValue = child.nodeValue;
    } else {
      const added = document.importNode(child, true);
      if (added.nodeName === "TR" && key) added.classList.add("new");
      old.insertBefore(added, at);
    }
  }
  while (at) { const next = at.nextSibling; at.remove(); at = next; }
}

// page fetches this page again, as a document that runs no scripts.
function page() {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("GET", $("[data-url]")?.dataset.url || location.pathname + location.search); // a page that a form led to has its own
    request.setRequestHeader("Accept", "text/html");
    request.responseType = "document";
    request.timeout = 20000;
    request.onload = () => request.status < 500 && request.response ? done(request.response) : failed();
    request.onerror = request.ontimeout = failed;
    request.send();
  });
}

let frozen = false, asked = false, running = false, waiting = 0, last = 0, all = false;
const fresh = $("#fresh");
const reading = () => window.scrollY > 250 || $(".here") !== null;

async function refresh() {
  if (running || frozen || document.hidden) { asked = true; return; }
  running = true; asked = false; last = Date.now();
  try {
    const next = await page();
    ahead = Date.now() - Date.parse(next.documentElement.dataset.now);
    if (frozen) return;
    for (const part of $$("[data-live]")) {
      const with_ = next.getElementById(part.id);
      if (!with_) continue;
      if (part.hasAttribute("data-reading") && !all && reading()) hold(part, with_);
      else if (part.hasAttribute("data-reading") && fresh) fresh.hidden = true;
      bring(part, with_);
    }
    all = false;
    tellTimes();
  } catch { /* the stream says when the bridge is back */ } finally {
    running = false;
    if (asked) soon();
  }
}

// hold leaves new rows out while one is reading, and says how many there are.
function hold(part, with_) {
  const known = new Set($$("tr[data-row]", part).map((r) => r.dataset.row));
  const added = $$("tr[data-row]", with_).filter((r) => !known.has(r.dataset.row));
  if (!known.size || !fresh) return;
  for (const row of added) row.remove();
  fresh.hidden = added.length === 0;
  fresh.textContent = added.length + (added.length === 1 ? " new event" : " new events");
}
fresh?.addEventListener("click", () => { all = true; window.scrollTo(0, 0); $(".here")?.classList.remove("here"); refresh(); });

function soon(after = 0) {
  clearTimeout(waiting);
  waiting = setTimeout(refresh, Math.max(after, 700 - (Date.now() - last)));
}
document.addEventListener("visibilitychange", () => { if (!document.hidden && asked) soon(); });

// ---- the stream ----
let announced = 0, counted = 0;
function announce(n) {
  counted += n;
  if (counted === 0 || Date.now() - announced < 5000) return;
  $("#announce").textContent = counted === 1 ? "1 new event" : counted + " new events";
  announced = Date.now(); counted = 0;
}
if ($("[data-live]")) {
  const connection = $("#connection");
  let stream, seen = root.dataset.boot + "-" + root.dataset.last, lost = 0, again = 0;
  // A browser opens six connections to a server at a time, of all its tabs: one that
  // nobody sees must not hold one.
  const follow = () => {
    stream?.close();
    clearTimeout(again);
    if (document.hidden) return;
    stream = new EventSource(base + "/events?after=" + seen);
    stream.onopen = () => { clearTimeout(lost); lost = 0; if (!connection.hidden) { connection.hidden = true; label(); soon(); } };
    stream.onerror = () => {
      lost ||= setTimeout(() => { connection.hidden = false; label(); }, 3000);
      if (stream.readyState === EventSource.CLOSED) again = setTimeout(follow, 5000); // it was refused, and does not try by itself
    };
    stream.addEventListener("steps", (e) => {
      seen = e.lastEventId;
      const steps = JSON.parse(e.data);
      const arrived = steps.filter((s) => s.kind === "received");
      if ($("[data-empty]") && arrived.length && !frozen) {
        const s = arrived[0];
        location.assign(`${base}/console/event/${encodeURIComponent(s.topic)}/${s.partition}/${s.offset}`);
        return;
      }
      announce(new Set(arrived.map((s) => s.partition + "/" + s.offset)).size);
      soon();
      setTimeout(() => soon(), 1500); // what follows from it: the commit
    });
    stream.addEventListener("gap", (e) => { seen = e.lastEventId || seen; soon(); });
    stream.addEventListener("tick", () => soon());
  };
  follow();
  document.addEventListener("visibilitychange", follow);
  const button = $("#live");
  button.hidden = false;
  function label() {
    button.setAttribute("aria-pressed", frozen);
    button.classList.toggle("lost", !connection.hidden);
    $(".label", button).textContent = frozen ? "Frozen" : connection.hidden ? "Live" : "Not live";
  }
  const freeze = () => {
    frozen = !frozen;
    label();
    if (!frozen) soon();
  };
  button.addEventListener("click", freeze);
  document.addEventListener("freeze-live", freeze);
}

// ---- keyboard ----
const help = $("#help"), helpButton = $("#help-button");
helpButton.hidden = false;
helpButton.addEventListener("click", () => help.showModal());
let went = 0;
function move(by) {
  const rows = $$("tr[data-row]");
  if (!rows.length) return;
  const now = rows.findIndex((r) => r.classList.contains("here"));
  const to = rows[Math.min(rows.length - 1, Math.max(0, now < 0 ? 0 : now + by))];
  rows[now]?.classList.remove("here");
  to.classList.add("here");
  $(".open", to)?.focus();
  to.scrollIntoView({ block: "nearest" });
}
document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || help.open) return;
  if (isField(e.target)) { if (e.key === "Escape") e.target.blur(); return; }
  if (went && Date.now() - went < 1500) {
    went = 0;
    const to = $(`nav a[data-key="${CSS.escape(e.key)}"]`);
    if (to) { e.preventDefault(); location.assign(to.href); }
    return;
  }
  switch (e.key) {
    case "g": went = Date.now(); break;
    case "/": { const f = $("[data-filter]"); if (f) { e.preventDefault(); f.focus(); } break; }
    case "j": move(1); break;
    case "k": move(-1); break;
    case "x": $(".here input[type=checkbox]")?.click(); break;
    case "p": document.dispatchEvent(new Event("freeze-live")); break;
    case "?": help.showModal(); break;
    case "Escape": $(".here")?.classList.remove("here"); document.activeElement?.blur(); soon(); break;
  }
});

// ---- small things ----
document.addEventListener("click", async (e) => {
  const button = e.target.closest("[data-copy]");
  if (!button) return;
  const pre = $("pre", button.parentElement);
  try {
    await navigator.clipboard.writeText(pre.textContent);
    button.textContent = "Copied";
  } catch { // not a secure context: select it instead
    getSelection().selectAllChildren(pre);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
});
for (const field of $$("[data-keep]")) { // who asks, once for all forms
  field.value ||= localStorage.getItem("taskwire-" + field.name) || "";
  field.addEventListener("change", () => localStorage.setItem("taskwire-" + field.name, field.value));
}
tellTimes();
