from __future__ import annotations

from pathlib import Path

from speechssl.data.checks import Measurement
from speechssl.data.listening import FEWEST, Heard, concerns
from speechssl.data.utterance import Utterance


def heard(
    id: str,
    *,
    text: str | None = None,
    seconds: float = 2.0,
    loudness: float = -25.0,
    silence: float = 0.1,
    clipped: float = 0.0,
) -> Heard:
    utterance = Utterance(id, Path(f"{id}.wav"), text, language="ru")
    measured = Measurement(0.0, seconds, 8000, 1, 8000, loudness, silence, clipped, id)
    return Heard(utterance, "train", measured)


def found(items: list[Heard]) -> dict[str, list[str]]:
    return {
        concern.name: [item.utterance.id for item, _ in concern.items]
        for concern in concerns(items)
    }


def test_the_worst_come_first() -> None:
    items = [
        heard("fine", text="привет"),
        heard("some", clipped=0.002),
        heard("much", clipped=0.03),
        heard("quiet", loudness=-50.0),
        heard("whisper", loudness=-58.0),
        heard("empty", silence=0.9),
        heard("long", text="да", seconds=31.0),
        heard("long untold", seconds=31.0),
        heard("mixed", text="привет dear"),
    ]
    assert found(items) == {
        "clipped": ["much", "some"],
        "quiet": ["whisper", "quiet"],
        "mostly silence": ["empty"],
        "long with one transcript": ["long"],
        "foreign letters": ["mixed"],
    }
    (concern,) = concerns(items[:2])
    assert concern.items == [(items[1], "0.20% clipped")]
    assert concerns(items[:1]) == []


def test_odd_ones_among_many() -> None:
    usual = [
        heard(f"u{n}", text="д" * (18 + n % 5), seconds=2.0 + 0.1 * (n % 4)) for n in range(FEWEST)
    ]
    odd = [
        heard("fast", text="д" * 80),
        heard("slow", text="д"),
        heard("short", text="д", seconds=0.1),
    ]
    assert found([*usual, *odd]) == {
        "odd speed": ["slow", "fast"],
        "odd length": ["short"],
    }
    assert found(odd) == {}  # too few to say what is odd
