"""Visitors of the page who send a recording, and may leave before it is done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette

Event = dict[str, Any]


def nothing(event: Event) -> None:
    """Goes on."""


@asynccontextmanager
async def running(app: Starlette) -> AsyncIterator[None]:
    async with app.router.lifespan_context(app):
        yield


class Visit:
    """One request to an ASGI application. ``leave()`` breaks the connection."""

    def __init__(self, app: Starlette, name: str, body: bytes | None) -> None:
        """Without a ``body`` it never comes."""
        self._app = app
        self._messages: asyncio.Queue[Event] = asyncio.Queue()
        if body is not None:
            self._messages.put_nowait({"type": "http.request", "body": body, "more_body": False})
        self._scope = {
            "type": "http",
            "method": "POST",
            "path": "/transcriptions",
            "query_string": f"name={name}".encode(),
            "headers": [(b"host", b"localhost")],
        }
        self.status = 0
        self.events: list[Event] = []

    def leave(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    async def run(self, on_event: Callable[[Event], None] = nothing) -> Visit:
        async def send(message: Event) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            elif message["body"]:
                event = json.loads(message["body"])
                self.events.append(event)
                on_event(event)

        await self._app(self._scope, self._messages.get, send)
        return self

    def kinds(self) -> list[str]:
        """The kinds of the events, without repetitions."""
        return list(dict.fromkeys(event["event"] for event in self.events))
