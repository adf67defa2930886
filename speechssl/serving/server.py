"""Running the page on this computer."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette

from speechssl.errors import ConfigError

_SHUTDOWN_SECONDS = 60
"""A step that is being computed when the server stops has so long to end."""


def serve(app: Starlette, host: str, port: int, on_start: Callable[[str], None]) -> None:
    """Serves the page (of ``make_app``) until the process is interrupted.

    ``port`` 0 is any that is free. ``on_start`` gets the page's address once it can be opened.
    Raises ``ConfigError`` if the address cannot be used.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nobody is in front of us whose word about visitors counts
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    with _listening(host, port) as listener:
        shown_host = f"[{host}]" if ":" in host else host
        on_start(f"http://{shown_host}:{listener.getsockname()[1]}/")
        _Server(config, app.state.stop).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Breaks off what runs when it stops, instead of waiting for it."""

    def __init__(self, config: uvicorn.Config, break_off: Callable[[], None]) -> None:
        super().__init__(config)
        self._break_off = break_off

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._break_off()
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it misses their ends
        await super().shutdown(sockets)


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"cannot serve at {host}, port {port} ({error.strerror}); "
            "give another --port (0 takes any that is free) or --host."
        ) from None
