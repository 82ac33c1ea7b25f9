"""API keys: read from the environment when they are sent, and nowhere else to be seen."""

import json
import os
from urllib.parse import quote

from diffax import checks

_MARK = "[key]"
_LONG = 12  # characters; a shorter one ("EMPTY") may be a word of the text


def read_key(variable: str) -> str:
    """The key in an environment variable; "" where none is named."""
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    checks.require(bool(key), f"${variable}", key, "a key")
    fits = key.isascii() and key.isprintable() and " " not in key
    checks.require(fits, f"${variable}", _MARK, "printable ASCII characters")
    return key


def scrub(text: str, key: str) -> str:
    """A text without the key, as it is or escaped: servers send back what they were sent."""
    if not key:
        return text
    escaped = json.dumps(key)[1:-1]
    for form in (key, escaped, escaped.replace("/", "\\/"), quote(key), quote(key, safe="")):
        text = text.replace(form, _MARK)
    return text


def scrub_reply(text: str, key: str) -> str:
    """The same for what a model wrote, which a short key may be a part of by chance."""
    return scrub(text, key) if len(key) >= _LONG else text
