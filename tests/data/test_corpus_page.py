"""The report page, read as a browser reads it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
import soundfile

from speechssl.data.corpus import write_corpus
from speechssl.data.utterance import Rejected, Utterance

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that every element is closed, and collects what there is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with a clipped recording of which a part is used, and two that are rejected."""
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    audio = folder / "in" / "Мои записи & <b>.wav"
    audio.parent.mkdir()
    clipped = np.where(np.arange(16_000) % 400 < 4, 1.0, 0.1 * rng.standard_normal(16_000))
    soundfile.write(audio, clipped, 8000)
    quiet = folder / "in" / "quiet.wav"
    soundfile.write(quiet, 0.003 * rng.standard_normal(8000), 8000)
    write_corpus(
        folder / "out",
        {
            "train": [
                Utterance("part<1>", audio, "one <i>two</i>", start=0.5, duration=1.0),
                Utterance("quiet", quiet),
            ],
            "test": [Utterance("gone", folder / "in" / "gone.wav")],
        },
        corpus="a <script>alert(1)</script> corpus",
        rejected=[Rejected("row 7", "is not there")],
    )
    return folder / "out"


@pytest.fixture(scope="module")
def page(out: Path) -> Page:
    return Page((out / "report.html").read_text(encoding="utf-8"))


def test_players_find_their_recordings(out: Path, page: Page) -> None:
    links = [urlparse(str(player["src"])) for player in page.all("audio")]
    assert len(links) == 2
    for link in links:
        assert not link.scheme
        assert (out / unquote(link.path)).is_file()
    assert [link.fragment for link in links] == ["t=0.500,1.500", ""]


def test_nothing_is_loaded_from_elsewhere_or_run(page: Page) -> None:
    assert not page.all("script")
    assert not page.all("i")
    assert not page.all("link")
    addresses = [a for _, attributes in page.elements for a in (attributes.get("src") or "",)]
    assert not any("://" in address for address in addresses)


def test_everything_is_named(page: Page) -> None:
    text = " ".join(" ".join(page.words).split())
    for words in (
        "a <script>alert(1)</script> corpus",
        "part<1> (train) one <i>two</i>",
        "clipped: 1",
        "quiet: 1",
        "Rejected: 2",
        "row 7 is not there",
        "gone no such file; check the path.",
    ):
        assert words in text
    assert len(page.all("svg")) == 2  # loudness and clipping: in the rest both are the same
