"""What schemathesis has to know of the Task API beyond its document."""

import uuid

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    headers = case.headers or {}

    # A key of its own for each request: drawn keys repeat, and the same key with
    # another request is a 422 that no schema can foresee.
    key = headers.get("Idempotency-Key")
    if isinstance(key, str) and 1 <= len(key) <= 255 and all(" " <= c <= "~" for c in key):
        headers["Idempotency-Key"] = str(uuid.uuid4())

    # The coverage phase of version 4.32.5 loses the quotes of an ETag: it draws
    # "0" with them and sends 0, which it takes for valid.
    for name in ("If-Match", "If-None-Match"):
        if headers.get(name) in (0, "0"):
            headers[name] = '"0"'
