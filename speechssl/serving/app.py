"""The local page: a recording goes in, its words come out as they are found.

GET  /                                the page (files of the folder ``page``)
GET  /settings                        what the page shows: the model's name, limits, formats
POST /transcriptions?name=talk.mp3    an audio file as the body; answers with lines of JSON:
     {"event": "waiting", "ahead": 1}           until the recordings of others are done
     {"event": "started", "seconds": 61.2}      null where the file does not tell
     {"event": "words", "words": [{"text", "start", "end", "confidence"}], "until": 19.3}
     {"event": "done", "id", "seconds": 61.2, "computing_seconds": 4.1}
     {"event": "error", "message"}
GET  /transcriptions/{id}/{format}    a finished transcript as a file, such as srt

Who breaks the connection ends the work. Recordings are removed from the disk as soon as they are
transcribed; the latest transcripts are kept in memory.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from secrets import token_urlsafe
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from speechssl.data.audio import AUDIO_SUFFIXES
from speechssl.data.streams import file_seconds
from speechssl.decoding.outputs import FORMATS, SUFFIXES, render
from speechssl.decoding.transcriber import Transcriber
from speechssl.decoding.transcript import Transcript, Word
from speechssl.errors import AudioError
from speechssl.serving.guard import LOOPBACK, Guard
from speechssl.serving.progressive import parts
from speechssl.serving.turns import Place, Turns
from speechssl.serving.uploads import MEGABYTE, received, shown_name

_PAGE = Path(__file__).parent / "page"

_MOST_VISITORS = 10
"""Recordings that are being sent, wait or are transcribed; the next is asked to come back."""

_KEPT_TRANSCRIPTS = 20
"""Finished transcripts in memory."""


@dataclass(frozen=True)
class Limits:
    """What the server takes."""

    max_mb: int = 1000
    """The largest file."""

    max_minutes: float = 180
    """The longest recording."""


def make_app(
    transcriber: Transcriber,
    model_name: str,
    limits: Limits = Limits(),
    hosts: Sequence[str] = LOOPBACK,
) -> Starlette:
    """The page with one recogniser behind it. ``app.state.stop()`` breaks off what runs.

    ``hosts`` are the names in addresses under which it may be reached (``allowed_hosts``).
    """
    transcriptions = Transcriptions(transcriber, limits)

    def settings(request: Request) -> Response:
        return JSONResponse(
            {
                "model": model_name,
                "endings": AUDIO_SUFFIXES,
                "max_bytes": limits.max_mb * MEGABYTE,
                "max_seconds": limits.max_minutes * 60,
                "formats": [{"name": form, "suffix": SUFFIXES[form]} for form in FORMATS],
            }
        )

    def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"message": error.detail}, error.status_code)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="speechssl-serve-") as folder:
            transcriptions.folder = Path(folder)
            yield

    app = Starlette(
        routes=[
            Route("/settings", settings),
            Route("/transcriptions", transcriptions, methods=["POST"]),
            Route("/transcriptions/{id}/{format}", transcriptions.download),
            Mount("/", StaticFiles(directory=_PAGE, html=True)),
        ],
        middleware=[
            Middleware(Guard),
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
        ],
        exception_handlers={HTTPException: failed},
        lifespan=lifespan,
    )
    app.state.stop = transcriptions.stop
    return app


class Transcriptions:
    """Takes recordings (as an ASGI application) and keeps the latest transcripts."""

    folder: Path
    """Where recordings lie while they are transcribed; set before the first request."""

    def __init__(self, transcriber: Transcriber, limits: Limits) -> None:
        self._transcriber = transcriber
        self._limits = limits
        self._turns = Turns()
        self._visitors = 0
        self._stopping = asyncio.Event()
        self._kept: OrderedDict[str, tuple[str, Transcript]] = OrderedDict()  # id: name, transcript

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one recording with lines of JSON, until it is done or the visitor has gone."""
        receive = self._until_stop(receive)
        request = Request(scope, receive)
        name = shown_name(request.query_params.get("name", ""))
        if self._visitors >= _MOST_VISITORS:
            raise HTTPException(503, "Too many recordings are waiting; try again in a while.")
        self._visitors += 1
        try:
            most_bytes = self._limits.max_mb * MEGABYTE
            async with received(request, name, self.folder, most_bytes) as path:
                with self._turns.place() as place:
                    async with aclosing(self._events(place, path, name)) as events:
                        lines = (json.dumps(event) + "\n" async for event in events)
                        answer = StreamingResponse(lines, media_type="application/x-ndjson")
                        await answer(scope, receive, send)
        except ClientDisconnect:
            pass  # while sending the recording: there is nobody to answer
        finally:
            self._visitors -= 1

    def stop(self) -> None:
        """Breaks off what runs and waits, as if all visitors had left."""
        self._stopping.set()

    def _until_stop(self, receive: Receive) -> Receive:
        async def receive_until_stop() -> Message:
            message = asyncio.ensure_future(receive())
            stop = asyncio.ensure_future(self._stopping.wait())
            try:
                await asyncio.wait((message, stop), return_when=asyncio.FIRST_COMPLETED)
                return message.result() if message.done() else {"type": "http.disconnect"}
            finally:
                message.cancel()
                stop.cancel()

        return receive_until_stop

    async def _events(
        self, place: Place, path: Path, name: str
    ) -> AsyncGenerator[dict[str, Any], None]:
        async for ahead in place.wait():
            yield {"event": "waiting", "ahead": ahead}
        began = time.perf_counter()
        words: list[Word] = []
        yield {"event": "started", "seconds": file_seconds(path)}
        try:
            # A step that computes when the visitor leaves is waited for: the next one's turn
            # comes after it.
            found = parts(self._transcriber, path, self._limits.max_minutes * 60)
            async for part in iterate_in_threadpool(found):
                words += part.words
                seconds = part.until
                yield {
                    "event": "words",
                    "words": [_shown(word) for word in part.words],
                    "until": part.until,
                }
        except AudioError as error:
            yield {"event": "error", "message": str(error).replace(str(path), name)}
            return
        text = " ".join(word.text for word in words)
        yield {
            "event": "done",
            "id": self._keep(name, Transcript(text, words, seconds)),
            "seconds": seconds,
            "computing_seconds": round(time.perf_counter() - began, 3),
        }

    def _keep(self, name: str, transcript: Transcript) -> str:
        """Returns a name for ``transcript`` that cannot be guessed."""
        key = token_urlsafe(16)
        self._kept[key] = name, transcript
        if len(self._kept) > _KEPT_TRANSCRIPTS:
            self._kept.popitem(last=False)
        return key

    def download(self, request: Request) -> Response:
        """A transcript as a file."""
        key, form = request.path_params["id"], request.path_params["format"]
        if form not in FORMATS:
            raise HTTPException(404, f"There is no format {form!r}; known: {' '.join(FORMATS)}.")
        if key not in self._kept:
            raise HTTPException(404, "This transcript is no longer kept; transcribe it again.")
        name, transcript = self._kept[key]
        stem = PurePath(name).stem
        file_name = quote(f"{stem}{SUFFIXES[form]}", safe="")
        return Response(
            render(transcript, form, stem),
            media_type="application/json" if form == "json" else "text/plain",
            headers={"Content-Disposition": f"attachment; filename*=UTF-8''{file_name}"},
        )


def _shown(word: Word) -> dict[str, Any]:
    return {
        "text": word.text,
        "start": round(word.start, 3),
        "end": round(word.end, 3),
        "confidence": round(word.confidence, 3),
    }
