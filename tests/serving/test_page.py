"""The page in a real browser. Skipped where there is no Chromium or Chrome."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import uvicorn
from starlette.applications import Starlette

from speechssl.decoding.transcriber import Transcriber
from speechssl.serving.app import Limits, make_app
from tests.conftest import speak

sync_api = pytest.importorskip("playwright.sync_api")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome")

ARTICLE = "article:first-child"
SOUND = f"document.querySelector('{ARTICLE} audio')"


@pytest.fixture(scope="module")
def address(transcriber: Transcriber) -> Iterator[str]:
    """Where the page is served."""
    app: Starlette = make_app(transcriber, "my-model", Limits(max_mb=5, max_minutes=2))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser(recordings: Path) -> Iterator[sync_api.Browser]:
    """A browser that hears the short recording when a page asks for the microphone."""
    arguments = [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={recordings / 'short.wav'}",
    ]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: sync_api.Browser, address: str) -> Iterator[sync_api.Page]:
    """The page, as wide as a phone. Whatever the browser complains about fails the test."""
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme="dark")
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.locator("#model:not(:empty)").wait_for()
    yield page
    page.close()
    assert complaints == []
    assert all(url.startswith((address, f"blob:{address}")) for url in asked)


def transcribe(page: sync_api.Page, path: Path) -> None:
    page.set_input_files("#files", path)
    page.locator(f"{ARTICLE} .downloads:visible").wait_for()


def test_words_can_be_heard(page: sync_api.Page, recordings: Path) -> None:
    transcribe(page, recordings / "short.wav")
    words = page.locator(f"{ARTICLE} .word")
    assert words.count() >= 2
    page.evaluate(f"{SOUND}.addEventListener('pause', () => {SOUND}.dataset.rests = '')")
    last = words.last
    start = float(str(last.get_attribute("title")).split(" s,")[0])
    last.click()
    page.locator(f"{ARTICLE} audio[data-rests]").wait_for(state="attached")
    assert start < page.evaluate(f"{SOUND}.currentTime") <= 2.5

    page.evaluate(f"delete {SOUND}.dataset.rests")
    words.first.focus()
    page.keyboard.press("ArrowRight")
    assert words.nth(1).evaluate("word => word === document.activeElement")
    page.keyboard.press("Enter")
    page.locator(f"{ARTICLE} audio[data-rests]").wait_for(state="attached")
    assert page.evaluate(f"{SOUND}.currentTime") < start


def test_transcripts_can_be_saved(
    page: sync_api.Page, transcriber: Transcriber, recordings: Path, tmp_path: Path
) -> None:
    transcribe(page, recordings / "short.wav")
    expected = transcriber.file_transcript(recordings / "short.wav")
    shown = page.locator(f"{ARTICLE} .word").all_inner_texts()
    assert " ".join(shown) == expected.text
    for form, name in (("json", "short.json"), ("TextGrid", "short.TextGrid")):
        with page.expect_download() as download:
            page.get_by_role("link", name=form).click()
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
    assert json.loads((tmp_path / "short.json").read_text())["text"] == expected.text


def test_microphone(page: sync_api.Page) -> None:
    page.get_by_role("button", name="Record").click()
    page.get_by_text("0:02").wait_for()
    page.get_by_role("button", name="Stop and transcribe").click()
    page.locator(f"{ARTICLE} .downloads:visible").wait_for()
    assert page.inner_text(f"{ARTICLE} h2").startswith("recording ")
    assert page.inner_text(f"{ARTICLE} .status").startswith("0:02 of audio")
    assert page.locator(f"{ARTICLE} .word").count() >= 2  # silence would give none


def test_bad_files_are_named(page: sync_api.Page, tmp_path: Path) -> None:
    contents = {"notes.txt": b"words", "large.wav": bytes(5_000_001), "<b>bad.wav": b"no samples"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    page.set_input_files("#files", [tmp_path / name for name in contents])
    page.locator("article .problem").wait_for()
    problems = page.locator(".problem").all_inner_texts()
    assert len(problems) == 3
    assert "notes.txt: is no audio by its name" in problems[0]
    assert "large.wav: is larger than the 5 MB" in problems[1]
    assert "<b>bad.wav: cannot be decoded" in problems[2]


def test_cancelled_recordings_hold_nobody_up(
    page: sync_api.Page, recordings: Path, tmp_path: Path
) -> None:
    samples, rate = speak("ada bede")
    soundfile.write(tmp_path / "two minutes.flac", np.resize(samples, 119 * rate), rate)
    # The page itself cancels at the first word: from out here, the click may come when all is done.
    page.evaluate("""() => new MutationObserver((_, observer) => {
        const article = document.querySelector("article:last-child");
        if (!article?.querySelector(".word")) return;
        observer.disconnect();
        article.querySelector(".cancel").click();
    }).observe(document.body, { childList: true, subtree: true })""")
    page.set_input_files("#files", [tmp_path / "two minutes.flac", recordings / "short.wav"])
    page.locator(f"{ARTICLE} .downloads:visible").wait_for()
    assert page.inner_text("article:last-child .status") == "Cancelled"
    assert page.locator("article:last-child .downloads:visible").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1200])
def test_fits_the_window(page: sync_api.Page, recordings: Path, scheme: str, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 700})
    transcribe(page, recordings / "short.wav")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    brightness = [sum(map(int, colour[4:-1].split(","))) for colour in (background, ink)]
    assert (brightness[0] > brightness[1]) == (scheme == "light")
    picture = page.screenshot()
    assert len(picture) > 5_000  # an empty page is smaller
