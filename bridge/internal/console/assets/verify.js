// Verifies entries of the audit log, with nothing but bytes and a key: the formats are
// those of docs/audit-format.md (RFC 6962, C2SP tlog-proof and signed-note, Ed25519).
import { sha256, sha512 } from "./vendor/sha2.js";
import { hashes, verifyAsync } from "./vendor/ed25519.js";

hashes.sha512 = sha512;
hashes.sha512Async = async (m) => sha512(m);

const some = (n, one, many) => n === 1 ? "1 " + one : n + " " + many;

export class Failed extends Error {} // what is checked is not right
export class Unable extends Error {} // it cannot be checked here

const utf8 = (text) => new TextEncoder().encode(text);
export const hex = (bytes) => [...bytes].map((b) => b.toString(16).padStart(2, "0")).join("");
const same = (a, b) => a.length === b.length && a.every((v, i) => v === b[i]);
const joined = (...parts) => {
  const all = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) { all.set(p, at); at += p.length; }
  return all;
};
function unbase64(text) {
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text) || text.length % 4) throw new Failed("not base64: " + text.slice(0, 40));
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

async function digest(bytes) {
  if (globalThis.crypto?.subtle) return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return sha256(bytes);
}
export const leafOf = (line) => digest(line); // with its line feed
export const leafHash = async (leaf) => digest(joined([0], leaf));
export const nodeHash = async (l, r) => digest(joined([1], l, r));

function whole(text, what) {
  if (!/^(0|[1-9][0-9]{0,15})$/.test(text) || !Number.isSafeInteger(Number(text))) throw new Failed(what + " is no number");
  return Number(text);
}

// parseNote reads a signed note that is a checkpoint.
export function parseNote(note) {
  const end = note.indexOf("\n\n");
  if (end < 0) throw new Failed("the checkpoint has no signatures");
  const text = note.slice(0, end + 1), lines = text.split("\n");
  if (lines.length < 4) throw new Failed("the checkpoint is not complete");
  const signatures = [];
  for (const line of note.slice(end + 2).split("\n")) {
    if (line === "") continue;
    const match = /^\u2014 (\S+) (\S+)$/.exec(line);
    if (!match) throw new Failed("a line of the signatures is malformed");
    const bytes = unbase64(match[2]);
    if (bytes.length < 5) throw new Failed("a signature is too short");
    signatures.push({ name: match[1], id: bytes.slice(0, 4), signature: bytes.slice(4) });
  }
  const root = unbase64(lines[2]);
  if (root.length !== 32) throw new Failed("the root has not 32 bytes");
  return { text, origin: lines[0], size: whole(lines[1], "the size of the checkpoint"), root, signatures };
}

// parseProof reads a tlog-proof.
export function parseProof(text) {
  const end = text.indexOf("\n\n");
  const lines = text.slice(0, Math.max(end, 0)).split("\n");
  if (end < 0 || lines[0] !== "c2sp.org/tlog-proof@v1") throw new Failed("this is no proof");
  if (lines[1]?.startsWith("extra ")) lines.splice(1, 1); // allowed, and not used by this log
  if (!lines[1]?.startsWith("index ")) throw new Failed("the proof has no index");
  const path = lines.slice(2).map(unbase64);
  if (path.some((h) => h.length !== 32)) throw new Failed("a hash of the proof has not 32 bytes");
  return { index: whole(lines[1].slice(6), "the index of the proof"), path, note: text.slice(end + 2) };
}

// parseKey reads a verifier key, name+id+key, and holds its id to it.
export async function parseKey(text) {
  const match = /^([^+\s]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)$/.exec(text.trim());
  if (!match) throw new Failed("this is no verifier key: it has the form name+id+key");
  const bytes = unbase64(match[3]);
  if (bytes.length !== 33 || bytes[0] !== 1) throw new Failed("the key is not an Ed25519 key");
  const id = (await digest(joined(utf8(match[1]), [10], bytes))).slice(0, 4);
  if (hex(id) !== match[2]) throw new Failed("the id of the key is not that of the key: it was mistyped, or made up");
  return { name: match[1], id, key: bytes.slice(1) };
}

async function signed(key, text, signature) {
  if (signature.length !== 64) return false;
  if (globalThis.crypto?.subtle) {
    try {
      const imported = await crypto.subtle.importKey("raw", key, { name: "Ed25519" }, false, ["verify"]);
      return await crypto.subtle.verify({ name: "Ed25519" }, imported, signature, text);
    } catch (e) {
      if (e.name !== "NotSupportedError") return false; // else this browser does not know Ed25519
    }
  }
  try { return await verifyAsync(signature, text, key); } catch { return false; }
}

// checkNote wants a signature of a key of the list, and no wrong one of any of them.
export async function checkNote(note, keys) {
  let good = null;
  for (const s of note.signatures) {
    for (const k of keys) {
      if (k.name !== s.name || !same(k.id, s.id)) continue;
      if (!await signed(k.key, utf8(note.text), s.signature)) throw new Failed("the signature of " + k.name + " is wrong");
      good = k;
    }
  }
  if (!good) throw new Failed("no signature is of this key: the checkpoint is of " + note.signatures.map((s) => s.name + " " + hex(s.id)).join(", "));
  if (good.name !== note.origin) throw new Failed("the checkpoint is of another log, " + note.origin);
  return good;
}

// fold walks from a leaf to the root (RFC 6962, section 2.1.1).
export async function fold(hash, index, size, path) {
  if (index >= size) throw new Failed("the entry is not covered by the checkpoint");
  let at = index, last = size - 1;
  for (const p of path) {
    if (last === 0) throw new Failed("the proof is too long");
    if (at % 2 === 1 || at === last) {
      hash = await nodeHash(p, hash);
      while (at % 2 === 0 && at !== 0) { at = at / 2; last = Math.floor(last / 2); }
    } else hash = await nodeHash(hash, p);
    at = Math.floor(at / 2); last = Math.floor(last / 2);
  }
  if (last !== 0) throw new Failed("the proof is too short");
  return hash;
}

// roots computes the roots of the first old and the first size leaves from the same
// hashes, which get(tile path) brings: if both are right, nothing of the first old
// leaves was changed. It is the verification of a consistency proof.
export async function roots(old, size, get) {
  const tiles = new Map();
  async function at(level, index) { // a hash of a tile's own level
    const count = Math.floor(size / 256 ** level), n = Math.floor(index / 256);
    const width = Math.min(256, count - n * 256);
    const name = n.toString().padStart(Math.ceil(n.toString().length / 3) * 3, "0").match(/.{3}/g).map((d, i, l) => i < l.length - 1 ? "x" + d : d).join("/");
    const path = `${level}/${name}` + (width < 256 ? `.p/${width}` : "");
    if (!tiles.has(path)) tiles.set(path, await get(path));
    const tile = tiles.get(path), from = (index % 256) * 32;
    if (tile.length !== width * 32) throw new Failed("the tile " + path + " has not the right length");
    return tile.slice(from, from + 32);
  }
  async function full(level, index) { // over 2^level leaves
    if (level % 8 === 0) return at(level / 8, index);
    return nodeHash(await full(level - 1, 2 * index), await full(level - 1, 2 * index + 1));
  }
  const split = (n) => { let k = 1; while (k * 2 < n) k *= 2; return k; };
  async function range(from, to) {
    const n = to - from, level = Math.log2(n);
    if (Number.isInteger(level)) return full(level, from / n);
    const k = split(n);
    return nodeHash(await range(from, from + k), await range(from + k, to));
  }
  async function both(from, to) {
    if (old === to) { const h = await range(from, to); return [h, h]; }
    const middle = from + split(to - from);
    if (old <= middle) {
      const [o, l] = await both(from, middle);
      return [o, await nodeHash(l, await range(middle, to))];
    }
    const l = await range(from, middle);
    const [o, r] = await both(middle, to);
    return [await nodeHash(l, o), await nodeHash(l, r)];
  }
  return both(0, size);
}

// verify does all of it. It calls told(name, note, hashes) after each step that was
// right, and throws Failed or Unable, with the name of the step in step.
export async function verify({ seq, line, proof, keys, older, tile }, told) {
  let step = "The line";
  try {
    if (line.length === 0 || line[line.length - 1] !== 10) throw new Failed("it does not end with a line feed");
    let entry;
    try { entry = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(line)); } catch { throw new Failed("it is not JSON"); }
    if (entry.seq !== seq) throw new Failed(`it is line ${entry.seq}, not ${seq}`);
    const leaf = await leafOf(line);
    told(step, `${line.length} bytes; its SHA-256 is the leaf of the tree`, hex(leaf));
    step = "The leaf";
    const hash = await leafHash(leaf);
    told(step, "SHA-256 of 0x00 and the leaf is what the tree holds of it", hex(hash));
    step = "The proof";
    const p = parseProof(proof), note = parseNote(p.note);
    if (p.index !== seq - 1) throw new Failed(`it is of entry ${p.index + 1}, not ${seq}`);
    const root = await fold(hash, p.index, note.size, p.path);
    told(step, `${some(p.path.length, "hash leads", "hashes lead")} from the leaf to a root over ${some(note.size, "entry", "entries")}`, hex(root));
    step = "The root";
    if (!same(root, note.root)) throw new Failed("it is not the one that was signed: this line, or one beside it, is not what was signed\nsigned " + hex(note.root) + "\nhere   " + hex(root));
    told(step, "it is the one in the checkpoint", hex(note.root));
    step = "The signature";
    const key = await checkNote(note, keys);
    told(step, `Ed25519 over the checkpoint, by ${key.name}`, "key id " + hex(key.id));
    if (older) {
      step = "The older checkpoint";
      const was = parseNote(older);
      await checkNote(was, keys);
      if (was.size > note.size) throw new Failed(`the log had ${some(was.size, "entry", "entries")} then and has ${note.size} now: entries are gone`);
      const [o, n] = was.size === 0 || was.size === note.size ? [was.root, was.size ? was.root : note.root] : await roots(was.size, note.size, tile);
      if (!same(o, was.root) || !same(n, note.root)) throw new Failed("the log is not the continuation of what was signed then");
      told(step, `nothing of its ${some(was.size, "entry", "entries")} was changed`, hex(was.root));
    }
    return { note: p.note, size: note.size };
  } catch (e) {
    e.step = step;
    throw e;
  }
}
