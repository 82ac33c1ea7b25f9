"""Where requests may go: this machine, and hosts that the user named."""

from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from yarl import URL

from diffax import checks

_PATH = "/chat/completions"


def endpoint(url: str, allow_hosts: Collection[str]) -> URL:
    """The address of chat completions below ``url``, whose host is a loopback or among ``allow_hosts``.

    Messages name the host only: what else an address may hold is not for logs.
    """
    checks.require(not isinstance(allow_hosts, str), "allow_hosts", allow_hosts, "a list of names")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(
            "url: got one with a bad host or port, allowed: http(s)://HOST[:PORT]/PATH"
        ) from None
    checks.require(parts.scheme in ("http", "https"), "url: scheme", parts.scheme, "http or https")
    checks.require(bool(host), "url: host", host, "a host")
    allowed = _is_loopback(host) or host in {name.lower() for name in allow_hosts}
    checks.require(allowed, "url: host", host, "a loopback address, or one named in allow_hosts")
    bare = "@" not in parts.netloc and not parts.query and not parts.fragment
    checks.require(bare, "url: host", host, "no user, query or fragment beside it")
    path = parts.path.rstrip("/")
    found = URL(f"{parts.scheme}://{parts.netloc}{path.removesuffix(_PATH)}{_PATH}")
    checks.require(found.host == host, "url: host", host, "a host that is read one way only")
    return found


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
