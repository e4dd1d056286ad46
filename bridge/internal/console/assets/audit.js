// The part of an entry's page that verifies it. It never begins with a good word.
import { Failed, Unable, parseKey, verify } from "./verify.js";

const base = document.documentElement.dataset.base;
const keep = { key: "taskwire-audit-key", checkpoint: "taskwire-audit-checkpoint" };

async function bring(path) {
  let answer;
  try { answer = await fetch(base + "/console/audit/" + path, { headers: { Accept: "application/octet-stream" } }); } catch { throw new Unable("the bridge does not answer"); }
  if (answer.status === 404 && path === "key") throw new Unable("the auditor names no key; paste one that auditor key prints");
  if (!answer.ok) throw new Unable(`the bridge answered ${answer.status} for ${path}`);
  return new Uint8Array(await answer.arrayBuffer());
}
const text = (bytes) => new TextDecoder().decode(bytes);

class AuditVerify extends HTMLElement {
  connectedCallback() {
    this.hidden = false;
    this.seq = Number(this.getAttribute("seq"));
    for (const name of ["key", "checkpoint"]) {
      const field = this.field(name);
      field.value = localStorage.getItem(keep[name]) || "";
      field.addEventListener("change", () => localStorage.setItem(keep[name], field.value.trim() && field.value));
    }
    this.querySelector("[data-run]").addEventListener("click", () => this.run());
    this.querySelector("[data-forget]").addEventListener("click", () => {
      for (const name of ["key", "checkpoint"]) { this.field(name).value = ""; localStorage.removeItem(keep[name]); }
    });
    this.querySelector("[data-pin]").addEventListener("click", () => {
      this.field("checkpoint").value = this.note;
      localStorage.setItem(keep.checkpoint, this.note);
    });
  }
  field(name) { return this.querySelector(`[name=${name}]`); }

  say(state, step, note, hashes = "") {
    const item = document.getElementById("check").content.cloneNode(true).querySelector("li");
    item.className = state;
    item.querySelector(".mark").textContent = { ok: "✓", bad: "✕", warn: "!" }[state];
    item.querySelector("b").textContent = step;
    item.querySelector(".note").textContent = note;
    item.querySelector("code").textContent = hashes;
    this.querySelector(".checks").append(item);
  }
  conclude(state, words) {
    const verdict = document.getElementById("verdict");
    verdict.className = "state s-" + state;
    verdict.textContent = words;
  }

  async run() {
    this.querySelector(".checks").replaceChildren();
    this.conclude("wait", "… verifying");
    const own = this.field("key").value.trim(), older = this.field("checkpoint").value;
    let step = "What is needed";
    try {
      const [line, proof] = await Promise.all([bring("raw/" + this.seq), bring("proof/" + this.seq)]);
      step = "The key";
      const given = own || text(await bring("key"));
      const keys = await Promise.all(given.trim().split(/\s+/).map(parseKey));
      this.say(own ? "ok" : "warn", step, own ? "the one that you pasted" : "the one that this server names: whoever controls the server chose it", given.trim());
      const tile = (path) => bring("tile/" + path);
      const done = await verify({ seq: this.seq, line, proof: text(proof), keys, older: older.trim() ? older : "", tile }, (name, note, hashes) => this.say("ok", name, note, hashes));
      this.note = done.note;
      this.querySelector("[data-pin]").hidden = false;
      this.conclude(own ? "ok" : "warn", own ? "✓ verified" : "✓ verified, with this server's own key");
    } catch (e) {
      if (e instanceof Failed) {
        this.say("bad", e.step || step, e.message);
        this.conclude("bad", "✕ failed: " + (e.step || step).toLowerCase());
        return;
      }
      this.say("warn", e.step || step, e.message);
      this.conclude("warn", "! cannot be verified here");
    }
  }
}
customElements.define("audit-verify", AuditVerify);
