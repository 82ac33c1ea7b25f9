"""How long to wait before the next attempt."""

import random
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_LONGEST = 30.0  # seconds of a back-off
_SKEW = 5.0  # seconds by which the clocks may differ before the server's counts
_LATE = 0.5  # seconds after the time that the server named, at most


def backoff(seed: str, attempt: int, base: float, wait: float | None) -> float:
    """Seconds: anything up to ``base 2^attempt``, drawn by the seed, so that those that failed together do
    not come back together; where the server said when, ``wait`` and little more."""
    most = min(_LONGEST, base * 2.0**attempt)
    seconds = random.Random(f"{seed}/{attempt}").uniform(0, most)
    return seconds if wait is None else wait + min(seconds, _LATE)


def retry_after(headers: Mapping[str, str], most: float) -> float | None:
    """Seconds asked for by ``Retry-After``, a number or a date, up to ``most``; None without."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        return min(float(text), most)
    date = _seconds(text)
    return None if date is None else min(max(date - _now(headers), 0.0), most)


def _now(headers: Mapping[str, str]) -> float:
    """Our clock, which is finer, unless it is far from the server's."""
    ours, theirs = time.time(), _seconds(headers.get("Date", ""))
    return ours if theirs is None or abs(theirs - ours) < _SKEW else theirs


def _seconds(text: str) -> float | None:
    try:
        date: datetime = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
