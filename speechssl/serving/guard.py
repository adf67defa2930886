"""Keeps other web sites out: what a browser may load, and who may send recordings."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from speechssl.errors import ConfigError

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""Names of this computer for itself, as they stand in addresses."""

HEADERS = {
    # Only files of our own, no inline scripts or styles; blob: is the visitor's own recording.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; media-src blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Sent with every response."""


def allowed_hosts(host: str, names: Iterable[str] = ()) -> list[str]:
    """The names in addresses under which a server that listens at ``host`` may be reached.

    Those are ``LOOPBACK``, ``host`` and ``names``. Other names are refused, so that a foreign site
    cannot point one of its own at this computer and read what is served (DNS rebinding). Raises
    ``ConfigError`` for what cannot be a name, and for a ``host`` that stands for all addresses
    without any ``names``.
    """
    hosts = [*LOOPBACK, *map(_as_in_address, names)]
    if host not in ("0.0.0.0", "::"):
        hosts.append(_as_in_address(host))
    elif len(hosts) == len(LOOPBACK):
        raise ConfigError(
            f"--host {host} lets others in; say with --allow-host what they type to get here, "
            "such as --allow-host 192.168.1.5."
        )
    return hosts


def _as_in_address(name: str) -> str:
    try:
        return f"[{name}]" if ip_address(name).version == 6 else name
    except ValueError:
        if not re.fullmatch(r"[\w.-]+", name):
            raise ConfigError(f"{name!r} is no host; give a name or an IP address alone.") from None
        return name


class Guard:
    """Refuses requests that other sites' pages make, and adds ``HEADERS`` to all responses.

    Browsers name the page that sends something in the header ``Origin``; programs need not.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        asked = Headers(scope=scope)
        if "origin" in asked and _host(asked["origin"]) != asked.get("host"):
            refusal = JSONResponse({"message": "This page takes no requests of others."}, 403)
            await refusal(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)


def _host(origin: str) -> str:
    """The name and port in an ``Origin``; nothing where it is no address."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
