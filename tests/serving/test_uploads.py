from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from starlette.requests import Request

from speechssl.serving.uploads import received, shown_name


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("talk.mp3", "talk.mp3"),
        ("../../etc/cron.d/job.wav", "job.wav"),
        ("C:\\Users\\me\\talk.wav", "talk.wav"),
        ("two\r\nSet-Cookie: x=1.wav", "twoSet-Cookie: x=1.wav"),
        ("nul\0\u202evaw.wav", "nulvaw.wav"),
        ("Разговор о погоде.flac", "Разговор о погоде.flac"),
        ("x" * 500 + ".wav", "x" * 196 + ".wav"),
        ("folder/", "recording"),
        ("", "recording"),
    ],
)
def test_shown_name(given: str, shown: str) -> None:
    assert shown_name(given) == shown


def test_the_disk_sees_no_name_of_the_visitor(tmp_path: Path) -> None:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"RIFF", "more_body": False}

    async def main(name: str) -> list[Path]:
        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        async with received(request, name, tmp_path, 100) as path:
            assert path.read_bytes() == b"RIFF"
            return list(tmp_path.rglob("*"))

    for name in ("../secret.wav", "/etc/secret.wav", "secret.wav/../.wav", "Secret.WAV"):
        [kept] = asyncio.run(main(name))
        assert kept.parent == tmp_path
        assert kept.suffix == ".wav"
        assert "secret" not in str(kept).lower()
        assert list(tmp_path.iterdir()) == []
