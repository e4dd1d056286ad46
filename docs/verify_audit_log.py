#!/usr/bin/env python3
"""Verifies an audit log of taskwire. It shares no code with the auditor: it was
written from docs/audit-format.md, and needs Python 3.9 and nothing else.

    python3 verify_audit_log.py --key VKEY [--since OLD_CHECKPOINT] [--event-keys FILE [--signed-from SEQ]] [audit.log]

VKEY is what `auditor key` printed, kept somewhere else than the log. FILE is one of
EVENT_VERIFY_KEYS_FILE: the signatures of the events' sources are verified, too (docs/
event-signatures.md), which takes some milliseconds a line. Exit status: 0 when all
lines are the ones that were signed, 1 when something is wrong, with the first bad
line, and 2 for a mistake in the arguments.
"""
import argparse, base64, glob, hashlib, json, os, re, struct, sys

WIDTH = 256  # hashes in a full tile


class Damage(Exception):
    pass


def sha256(*parts):
    h = hashlib.sha256()
    for p in parts:
        h.update(p)
    return h.digest()


# Ed25519, RFC 8032, section 5.1. Points are (X, Y, Z, T) with x = X/Z, y = Y/Z, xy = T/Z.
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)  # a square root of -1


def recover_x(y, sign):
    if y >= P:
        return None
    xx = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(xx, (P + 3) // 8, P)
    if (x * x - xx) % P:
        x = x * ROOT % P
    if (x * x - xx) % P or (x == 0 and sign):
        return None
    return P - x if x & 1 != sign else x


def point(data):
    n = int.from_bytes(data, "little")
    y, sign = n & (1 << 255) - 1, n >> 255
    x = recover_x(y, sign)
    return None if x is None else (x, y, 1, x * y % P)


def add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def multiply(n, p):
    q = (0, 1, 1, 0)
    while n:
        if n & 1:
            q = add(q, p)
        p, n = add(p, p), n >> 1
    return q


BASE = point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def verify(key, message, signature):
    a, r, s = point(key), point(signature[:32]), int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or a is None or r is None or s >= L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % L
    p, q = multiply(s, BASE), add(r, multiply(k, a))
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0


# The signatures of the events' sources.
def read_event_keys(path):
    """Returns {source: {key id: key}} of a file with one "source ed25519:KEY" a line."""
    keys = {}
    for line in open(path, encoding="utf-8"):
        if line.strip() and not line.strip().startswith("#"):
            source, key = line.split()
            if not key.startswith("ed25519:") or len(key := base64.b64decode(key[8:], validate=True)) != 32:
                raise ValueError("not an Ed25519 key")
            keys.setdefault(source, {})[sha256(key)[:8].hex()] = key
    return keys


def message_of(line):
    """The bytes that the source of the event in a line signs, and the signature."""
    decode, raw, i = json.JSONDecoder().raw_decode, {}, 1
    entry = json.loads(line)
    while line[i - 1] != "}":  # the text of each member, as it stands
        name, i = decode(line, i)
        start = i + 1  # after the colon
        _, i = decode(line, start)
        raw[name] = line[start:i]
        i += 1
    attributes = {k: v if isinstance(v, str) else json.dumps(v) for k, v in entry["attributes"].items()}
    signature = attributes.pop("producersignature", None)
    for name, value in (("id", entry["event_id"]), ("type", entry["event_type"]), ("time", entry["occurred_at"]),
                        ("source", entry["metadata"]["source"]), ("correlationid", entry["metadata"]["correlation_id"])):
        if value is not None:
            attributes[name] = value
    data = base64.b64decode(entry["data_base64"]) if "data_base64" in entry else raw.get("data", "").encode()
    message = b"taskwire event signature v1\n" + struct.pack(">I", len(attributes))
    for text in [t.encode() for name in sorted(attributes) for t in (name, attributes[name])] + [data]:
        message += struct.pack(">I", len(text)) + text
    return message, signature


def check_event(line, keys, may_be_unsigned):
    """Returns what is wrong with the signature in a line, and whether it has one to verify."""
    message, signature = message_of(line)
    source = json.loads(line)["metadata"]["source"]
    if source not in keys:
        return None, False
    if signature is None:
        return None if may_be_unsigned else f"the event of {source} is not signed", False
    match = re.fullmatch("ed25519:(.{16}):([A-Za-z0-9+/]{86}==)", signature)
    if not match:
        return f"the signature of {source} is malformed", False
    if match[1] not in keys[source]:
        return f"the signature was made with the key {match[1]}, which is none of {source}", False
    if not verify(keys[source][match[1]], message, base64.b64decode(match[2])):
        return f"the signature of {source} is not that of this event", False
    return None, True


# Signed notes and checkpoints.
def parse_key(vkey):
    name, hash16, key64 = vkey.strip().split("+", 2)
    key = base64.b64decode(key64, validate=True)
    if key[:1] != b"\x01" or len(key) != 33 or sha256(name.encode(), b"\n", key)[:4].hex() != hash16:
        raise ValueError("not an Ed25519 verifier key")
    return name, bytes.fromhex(hash16), key[1:]


def read_checkpoint(path, vkey):
    """Returns origin, size and root of a checkpoint that the key signed."""
    name, key_id, key = vkey
    try:
        note = open(path, "rb").read()
    except FileNotFoundError:
        raise Damage(f"there is no checkpoint {path}")
    text, gap, signatures = note.rpartition(b"\n\n")
    text += b"\n"
    signers = []
    for line in signatures.decode("utf-8", "replace").splitlines():
        match = re.fullmatch("— ([^ +]+) ([A-Za-z0-9+/=]+)", line)
        signature = base64.b64decode(match[2]) if match else b""
        if match and match[1] == name and signature[:4] == key_id:
            if not verify(key, text, signature[4:]):
                raise Damage(f"{path}: the signature is not one of this text")
            break
        signers.append(match[1] + "+" + signature[:4].hex() if match else line)
    else:
        raise Damage(f"{path} is signed by {', '.join(signers)}, not by {name}+{key_id.hex()}: the key was replaced, or it is the checkpoint of another log")
    origin, size, root = text.decode().split("\n")[:3]
    if origin != name or not re.fullmatch("0|[1-9][0-9]*", size):
        raise Damage(f"{path}: malformed checkpoint")
    return origin, int(size), base64.b64decode(root, validate=True)


# The tree. hashes[0] are the Merkle leaf hashes; hashes[k] has one for each full
# tile of hashes[k-1].
def node(left, right):
    return sha256(b"\x01", left, right)


def above(tile):
    """The hash of the subtree over a full tile."""
    while len(tile) > 1:
        tile = [node(tile[i], tile[i + 1]) for i in range(0, len(tile), 2)]
    return tile[0]


def root_of(levels, size):
    """RFC 6962 from the right edge: the complete subtrees that make up the tree."""
    parts = []
    for level, hashes in enumerate(levels):
        count = size >> 8 * level
        rest = hashes[count // WIDTH * WIDTH:count]
        low = []
        while rest:
            width = 1 << len(rest).bit_length() - 1
            low.append(above(rest[:width]))
            rest = rest[width:]
        parts = low + parts
    if not parts:
        return sha256()
    root = parts.pop()
    while parts:
        root = node(parts.pop(), root)
    return root


def grow(leaves):
    levels = [leaves]
    while len(levels[-1]) >= WIDTH:
        below = levels[-1]
        levels.append([above(below[i:i + WIDTH]) for i in range(0, len(below) - WIDTH + 1, WIDTH)])
    return levels


def tile_path(level, n):
    name = f"{n % 1000:03}"
    while n >= 1000:
        n //= 1000
        name = f"x{n % 1000:03}/{name}"
    return f"tile/{level}/{name}"


def read_tile(folder, level, n, width, step=32):
    """The hashes of a tile, None when it is lost. A partial one may be cut from a full one."""
    full = os.path.join(folder, tile_path(level, n))
    for path in ([full] if width == WIDTH else [f"{full}.p/{width}", full]):
        if os.path.exists(path):
            data = open(path, "rb").read()[:width * step]
            return [data[i:i + step] for i in range(0, len(data), step)] if len(data) == width * step else None
    return None


def signed_tiles(folder, size, root):
    """Yields level, number and hashes of each stored tile that leads to the signed root."""
    top = []
    while size >> 8 * len(top):
        count = size >> 8 * len(top)
        top.append({count // WIDTH: read_tile(folder, len(top), count // WIDTH, count % WIDTH)} if count % WIDTH else {})
    edge = []
    for level, tiles in enumerate(top):
        hashes = [None] * ((size >> 8 * level) // WIDTH * WIDTH)
        for tile in tiles.values():
            if tile is None:
                return
            hashes = hashes + tile
        edge.append(hashes)
    if root_of(edge, size) != root:
        return
    trusted = {}
    for level in reversed(range(len(top))):
        for n in range((size >> 8 * level) // WIDTH):
            tile = read_tile(folder, level, n, WIDTH)
            if tile and above(tile) == trusted.get((level + 1, n)):
                top[level][n] = tile
        for n, tile in top[level].items():
            for i, h in enumerate(tile):
                trusted[level, n * WIDTH + i] = h
    for level in range(len(top)):
        for n in sorted(top[level]):
            yield level, n, top[level][n]


def describe(got, signed):
    """What was done to the lines, both lists beginning with the first that differs. One
    line alone shows no shift."""
    for k in range(1, len(signed)):
        n = min(len(got), len(signed) - k)
        if n >= min(2, len(got)) and n and got[:n] == signed[k:k + n]:
            return f"{k} line{'s are' if k > 1 else ' is'} missing before this line"
    for k in range(1, len(got)):
        n = min(len(signed), len(got) - k)
        if n >= min(2, len(signed)) and signed[:n] == got[k:k + n]:
            return f"{k} line{'s were' if k > 1 else ' was'} inserted, beginning with this one"
    pairs = [(g, s) for g, s in zip(got, signed) if g != s]
    if len(pairs) > 1 and all(g in set(signed) for g, _ in pairs):
        return f"the lines are in another order: {len(pairs)} are out of place"
    return "the line is not the one that was signed: it was altered or replaced"


def first_bad(folder, leaves, size, root):
    """Finds the first bad line of a log that does not have the signed root."""
    levels = grow(leaves[:size])
    known, ranges = {}, []
    for level, n, tile in signed_tiles(folder, size, root):
        for i, h in enumerate(tile):
            at = n * WIDTH + i
            if level == 0:
                known[at] = h
            elif level < len(levels) and at < len(levels[level]) and h != levels[level][at]:
                ranges.append((at << 8 * level, at + 1 << 8 * level))
    bad = next((i for i in range(min(size, len(leaves))) if i in known and leaves[i] != known[i]), None)
    whole = [r for r in ranges if not any(i in known for i in range(*r))]
    if whole and (bad is None or min(whole)[0] < bad):
        low, high = min(whole)
        return low + 1, f"lines {low + 1} to {high} are not the ones that were signed, and their tiles were altered with them"
    if bad is not None:
        signed = []
        while len(signed) < 2 * WIDTH and bad + len(signed) in known:
            signed.append(known[bad + len(signed)])
        return bad + 1, describe(leaves[bad:bad + 2 * WIDTH], signed)
    if len(leaves) < size:
        return len(leaves) + 1, f"the log ends after line {len(leaves)}, {size} lines were signed: {size - len(leaves)} are cut off"
    return 0, f"lines 1 to {size} are not the ones that were signed, and no tile is left that tells which of them"


def check_tiles(folder, leaves, size, digests):
    """Each stored tile must be the one that the lines give."""
    for level, hashes in enumerate(grow(leaves[:size])):
        count = size >> 8 * level
        for n in range((count + WIDTH - 1) // WIDTH):
            width = min(WIDTH, count - n * WIDTH)
            if read_tile(folder, level, n, width) != hashes[n * WIDTH:n * WIDTH + width]:
                yield f"{tile_path(level, n)} is lost or holds other hashes than the lines of the log have"
            if level == 0:
                bundle = [b"\x00\x20" + d for d in digests[n * WIDTH:n * WIDTH + width]]
                if read_tile(folder, "entries", n, width, 34) != bundle:
                    yield f"{tile_path('entries', n)} is lost or holds other entries than the lines of the log give"


def read_lines(path):
    """Yields file, offset and bytes of each complete line, over all segments."""
    names = sorted(glob.glob(glob.escape(path) + "." + "[0-9]" * 12))
    if not names or not os.path.samefile(names[-1], path):  # both names while it is being sealed
        names.append(path)
    for name in names:
        offset = 0
        with open(name, "rb") as f:
            for line in f:
                if line.endswith(b"\n"):
                    yield name, offset, line
                    offset += len(line)


def check_log(path, vkey, since, event_keys, signed_from):
    folder = os.path.dirname(os.path.abspath(path))
    origin, size, root = read_checkpoint(os.path.join(folder, "checkpoint"), vkey)
    problems, places, digests, unproved, signed = [], [], [], [], 0
    for n, (name, offset, line) in enumerate(read_lines(path), 1):
        places.append((name, offset))
        digests.append(sha256(line))
        if not problems:
            try:
                seq = json.loads(line)["seq"]
                if seq != n:
                    problems.append(f"{name}: line {n} (byte {offset}): the line has the number {seq}")
                if event_keys and not unproved:
                    what, right = check_event(line.decode().rstrip("\n"), event_keys, n < signed_from)
                    signed += right
                    if what:
                        unproved.append(f"{name}: line {n} (byte {offset}): {what}")
            except (ValueError, KeyError, TypeError) as err:
                problems.append(f"{name}: line {n} (byte {offset}): not an entry: {err}")
        if n % 1000000 == 0:
            print(f"{n} lines read", file=sys.stderr)
    leaves = [sha256(b"\x00", d) for d in digests]
    if len(leaves) < size or root_of(grow(leaves[:size]), size) != root:
        line, what = first_bad(folder, leaves, size, root)
        where = f"{places[line - 1][0]}: line {line} (byte {places[line - 1][1]})" if 0 < line <= len(places) else f"{path}: line {line}" if line else path
        problems.insert(0, f"{where}: {what}")
    else:
        if os.path.isdir(os.path.join(folder, "tile")):  # a backup has none, and a start makes them
            problems += check_tiles(folder, leaves, size, digests)
        if since:
            _, old, old_root = read_checkpoint(since, vkey)
            if old > size:
                problems.append(f"{path}: the checkpoint covers {size} lines, the older one {old}: the log was rolled back")
            elif root_of(grow(leaves[:old]), old) != old_root:
                problems.append(f"{path}: lines 1 to {old} are not the ones that the older checkpoint covers: the log was rewritten, and signed anew")
    if event_keys and not unproved and not signed and digests:
        unproved.append("no line is signed: the name before each key must be the source of the events")
    problems += unproved
    if problems:
        raise Damage("\n".join(problems))
    print(f"ok: {path}: {len(leaves)} lines, and lines 1 to {size} are the ones that {origin} signed")
    if event_keys:
        print(f"ok: {signed} lines carry the signature of their events' source")


def main():
    parser = argparse.ArgumentParser(description="Verifies an audit log of taskwire.")
    parser.add_argument("--key", required=True, help="the verifier key, as `auditor key` prints it")
    parser.add_argument("--since", help="an older checkpoint of the log, kept elsewhere")
    parser.add_argument("--event-keys", help="the keys of the events' sources, one \"source ed25519:KEY\" a line")
    parser.add_argument("--signed-from", type=int, default=1, help="the first line that must carry its source's signature")
    parser.add_argument("log", nargs="?", default="audit.log")
    args = parser.parse_args()
    try:
        key = parse_key(args.key)
    except ValueError as err:
        parser.error(f"--key: {err}")
    try:
        event_keys = read_event_keys(args.event_keys) if args.event_keys else None
    except (ValueError, OSError) as err:
        parser.error(f"--event-keys: {err}")
    try:
        check_log(args.log, key, args.since, event_keys, args.signed_from)
    except (Damage, OSError) as err:
        print(err, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
