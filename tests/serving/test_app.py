from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from starlette.applications import Starlette
from starlette.testclient import TestClient

import speechssl.serving
from speechssl.decoding.outputs import FORMATS, render
from speechssl.decoding.transcriber import Transcriber
from speechssl.serving.app import Limits, make_app
from tests.serving.visits import Event, Visit, running

PAGE = Path(speechssl.serving.__file__).parent / "page"


def send(client: TestClient, name: str, body: bytes | Iterator[bytes]) -> list[Event]:
    """Posts a recording and returns the events."""
    answer = client.post("/transcriptions", params={"name": name}, content=body)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def refused(client: TestClient, name: str, body: bytes | Iterator[bytes]) -> tuple[int, str]:
    answer = client.post("/transcriptions", params={"name": name}, content=body)
    return answer.status_code, answer.json()["message"]


# --- the page --------------------------------------------------------------------------------


def test_page_is_whole(client: TestClient) -> None:
    for name in ["", *(file.name for file in PAGE.iterdir())]:
        answer = client.get(f"/{name}")
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "<h1>" in client.get("/").text


def test_page_needs_nothing_from_elsewhere() -> None:
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|['\"(]//", text), file
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script>|<style|\sstyle=|\son\w+=", page)


def test_settings(client: TestClient) -> None:
    settings = client.get("/settings").json()
    assert settings["model"] == "my-model"
    assert (settings["max_bytes"], settings["max_seconds"]) == (2_000_000, 120)
    assert ".flac" in settings["endings"]
    assert [form["name"] for form in settings["formats"]] == list(FORMATS)


def test_other_files_are_out_of_reach(client: TestClient) -> None:
    for path in ("/app.py", "/../app.py", "/..%2fapp.py", "/%2e%2e/app.py", "/page/%00"):
        assert client.get(path).status_code == 404, path


# --- transcribing ----------------------------------------------------------------------------


def test_words_come_as_they_are_found(
    client: TestClient, transcriber: Transcriber, recordings: Path
) -> None:
    events = send(client, "long.flac", (recordings / "long.flac").read_bytes())
    kinds = [event["event"] for event in events]
    assert kinds == ["started", *["words"] * (len(kinds) - 2), "done"]
    assert len(kinds) >= 7
    assert (events[0]["seconds"], events[-1]["seconds"]) == (70, 70)
    words = [word for event in events[1:-1] for word in event["words"]]
    letters = transcriber.file_transcript(recordings / "long.flac").text.replace(" ", "")
    assert "".join(word["text"] for word in words) == letters
    assert all(0 <= w["start"] < w["end"] <= 70 and 0 <= w["confidence"] <= 1 for w in words)


def test_every_format(client: TestClient, transcriber: Transcriber, recordings: Path) -> None:
    done = send(client, "Мой файл.wav", (recordings / "short.wav").read_bytes())[-1]
    expected = transcriber.file_transcript(recordings / "short.wav")
    for form in FORMATS:
        answer = client.get(f"/transcriptions/{done['id']}/{form}")
        assert answer.text == render(expected, form, "Мой файл")
        name = "%D0%9C%D0%BE%D0%B9%20%D1%84%D0%B0%D0%B9%D0%BB."
        assert f"attachment; filename*=UTF-8''{name}" in answer.headers["content-disposition"]


def test_unknown_transcripts_and_formats(client: TestClient, recordings: Path) -> None:
    done = send(client, "a.wav", (recordings / "short.wav").read_bytes())[-1]
    answer = client.get(f"/transcriptions/{done['id']}/docx")
    assert answer.status_code == 404
    assert "known: txt json srt" in answer.json()["message"]
    answer = client.get("/transcriptions/guessed/srt")
    assert answer.status_code == 404
    assert "no longer kept" in answer.json()["message"]


def test_old_transcripts_make_room(client: TestClient, recordings: Path) -> None:
    body = (recordings / "short.wav").read_bytes()
    keys = [send(client, "a.wav", body)[-1]["id"] for _ in range(21)]
    codes = [client.get(f"/transcriptions/{key}/txt").status_code for key in keys]
    assert codes == [404] + [200] * 20


# --- limits ----------------------------------------------------------------------------------


def test_too_large(client: TestClient) -> None:
    body = bytes(2_000_001)
    for sent in (body, iter([body[:1_000_000], body[1_000_000:]])):  # with a length and without
        status, message = refused(client, "talk.wav", sent)
        assert status == 413
        assert message.startswith("talk.wav: is larger than the 2 MB")


@pytest.mark.parametrize(
    ("name", "body", "status", "problem"),
    [
        ("notes.txt", b"RIFF", 415, "is no audio by its name"),
        ("", b"RIFF", 415, "recording: is no audio by its name"),
        ("wav", b"RIFF", 415, "is no audio by its name"),
        ("talk.wav", b"", 400, "is empty"),
        ("list.m4a", b"#EXTM3U\nfile:///etc/passwd", 415, "is no .m4a file by its contents"),
        ("page.webm", b"<html>", 415, "is no .webm file by its contents"),
        ("tag.aac", b"ID3\4" + bytes(6) + b"#EXTM3U\n", 415, "is no .aac file by its contents"),
    ],
)
def test_refused_at_the_door(
    client: TestClient, name: str, body: bytes, status: int, problem: str
) -> None:
    found, message = refused(client, name, body)
    assert found == status
    assert problem in message


def test_not_readable(client: TestClient, recordings: Path) -> None:
    good = (recordings / "short.wav").read_bytes()
    for body, problem in ((b"no samples" * 9, "cannot be decoded"), (good[:999], "truncated")):
        last = send(client, "../my talk.wav", body)[-1]
        assert last["event"] == "error"
        assert last["message"].startswith("my talk.wav: ")
        assert problem in last["message"]
        assert "speechssl-serve" not in last["message"]  # our folder is none of their business


def test_too_long(client: TestClient, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", np.zeros(121 * 16_000), 16_000)
    _, last = send(client, "long.flac", (tmp_path / "long.flac").read_bytes())
    assert last["message"].startswith("long.flac: is longer than the 2 minutes")


# --- visitors --------------------------------------------------------------------------------


def test_one_recording_at_a_time(app: Starlette, recordings: Path) -> None:
    log: list[tuple[str, str]] = []
    body = (recordings / "long.flac").read_bytes()

    async def visit(name: str) -> Visit:
        visit = Visit(app, f"{name}.flac", body)
        return await visit.run(lambda event: log.append((name, event["event"])))

    async def main() -> list[Visit]:
        async with running(app):
            return await asyncio.gather(visit("a"), visit("b"))

    _, second = asyncio.run(main())
    assert second.events[0] == {"event": "waiting", "ahead": 1}
    assert log.index(("b", "started")) > log.index(("a", "done"))
    assert log[-1] == ("b", "done")


def test_who_leaves_ends_the_work(app: Starlette, recordings: Path) -> None:
    body = (recordings / "long.flac").read_bytes()

    async def main() -> tuple[Visit, Visit, Visit]:
        async with running(app):
            leaving = Visit(app, "a.flac", body)
            waiting, next_one = Visit(app, "b.flac", body), Visit(app, "c.flac", body)

            def on_event(event: Event) -> None:
                if event["event"] == "words":
                    leaving.leave()
                    waiting.leave()

            return await asyncio.gather(leaving.run(on_event), waiting.run(), next_one.run())

    leaving, waiting, next_one = asyncio.run(main())
    assert leaving.kinds() == ["started", "words"]
    assert len(leaving.events) < len(next_one.events) - 2
    assert waiting.kinds() == ["waiting"]
    assert next_one.kinds() == ["waiting", "started", "words", "done"]


def test_stopping_ends_the_work(app: Starlette, recordings: Path) -> None:
    body = (recordings / "long.flac").read_bytes()

    async def main() -> list[Visit]:
        async with running(app):
            visits = [Visit(app, "a.flac", body), Visit(app, "b.flac", body)]
            sending = Visit(app, "c.flac", None)

            def on_event(event: Event) -> None:
                if event["event"] == "words":
                    app.state.stop()

            return await asyncio.gather(visits[0].run(on_event), visits[1].run(), sending.run())

    computing, waiting, sending = asyncio.run(main())
    assert computing.kinds() == ["started", "words"]
    assert len(computing.events) <= 3
    assert waiting.kinds() == ["waiting"]
    assert sending.status == 0


def test_who_leaves_while_sending(app: Starlette) -> None:
    async def main() -> Visit:
        async with running(app):
            visit = Visit(app, "a.wav", None)
            visit.leave()
            return await visit.run()

    assert asyncio.run(main()).status == 0


def test_too_many_visitors(app: Starlette, recordings: Path) -> None:
    async def main() -> tuple[Visit, Visit]:
        async with running(app):
            sending = [Visit(app, "a.wav", None) for _ in range(10)]
            tasks = [asyncio.create_task(visit.run()) for visit in sending]
            await asyncio.sleep(0.05)
            refused = await Visit(app, "b.wav", (recordings / "short.wav").read_bytes()).run()
            for visit in sending:
                visit.leave()
            await asyncio.gather(*tasks)
            return refused, await Visit(app, "b.wav", (recordings / "short.wav").read_bytes()).run()

    refused, accepted = asyncio.run(main())
    assert refused.status == 503
    assert accepted.status == 200


# --- other sites -----------------------------------------------------------------------------


def test_pages_of_others_cannot_send(client: TestClient, recordings: Path) -> None:
    body = (recordings / "short.wav").read_bytes()
    for origin, status in (
        ("http://localhost:8000", 200),
        ("https://evil.example", 403),
        ("http://localhost:9000", 403),
        ("null", 403),
        ("http://[", 403),
    ):
        answer = client.post("/transcriptions?name=a.wav", content=body, headers={"origin": origin})
        assert answer.status_code == status, origin
        assert "access-control-allow-origin" not in answer.headers


# --- the disk --------------------------------------------------------------------------------


def test_nothing_is_left_on_the_disk(
    transcriber: Transcriber,
    limits: Limits,
    recordings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with TestClient(make_app(transcriber, "m", limits), base_url="http://localhost") as client:
        [folder] = tmp_path.iterdir()
        send(client, "../../a.wav", (recordings / "short.wav").read_bytes())
        send(client, "/etc/b.wav", b"no samples")
        refused(client, "c.m4a", b"no samples")
        refused(client, "d.wav", iter([bytes(1_000_000)] * 3))
        assert list(folder.iterdir()) == []
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []
