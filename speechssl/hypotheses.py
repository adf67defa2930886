"""``hyps.jsonl``: what a system heard in each utterance, written by decoding, read by scoring."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speechssl.errors import SpeechSSLError
from speechssl.files import write_text


class HypothesesError(SpeechSSLError):
    """A ``hyps.jsonl`` is missing, malformed, or cannot be scored or compared."""


@dataclass(frozen=True)
class Hypothesis:
    """One line of ``hyps.jsonl``: what a system heard in one utterance."""

    id: str
    text: str
    reference: str | None = None
    """What was said, None where nobody knows."""

    seconds: float | None = None
    """Duration of the recording in seconds."""

    confidence: float | None = None
    """0 to 1: the geometric mean of the probabilities of the symbols that were written, those of
    the recogniser alone (see ``decoding.words``); 0 where none was."""

    nbest: list[dict[str, Any]] | None = None
    """Readings with their scores, best first, for use elsewhere: {"text", "score"}."""


def write_hypotheses(path: Path | str, hypotheses: Iterable[Hypothesis]) -> None:
    """Writes one JSON object per line, atomically; unknown references and seconds are left out."""
    lines = []
    for hypothesis in hypotheses:
        known = {name: value for name, value in asdict(hypothesis).items() if value is not None}
        lines.append(json.dumps(known, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def read_hypotheses(path: Path | str) -> list[Hypothesis]:
    """Reads a ``hyps.jsonl``, in its order.

    Raises ``HypothesesError`` if the file is missing, empty, or holds a malformed line or an
    id twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise HypothesesError(
            f"{path}: cannot be read ({reason}); give a hyps.jsonl written by speechssl decode."
        ) from None
    hypotheses: dict[str, Hypothesis] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        hypothesis = _parse(line, f"{path}, line {number}")
        if hypothesis.id in hypotheses:
            raise HypothesesError(
                f"{path}, line {number}: the id {hypothesis.id!r} occurs twice; keep one of them."
            )
        hypotheses[hypothesis.id] = hypothesis
    if not hypotheses:
        raise HypothesesError(f"{path}: holds no utterances; decode some with speechssl decode.")
    return list(hypotheses.values())


def _parse(line: str, where: str) -> Hypothesis:
    advice = 'expected one JSON object like {"id": "u1", "text": "what was heard"}'
    try:
        fields: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise HypothesesError(f"{where}: is not JSON ({error.msg}); {advice}.") from None
    kinds: dict[str, Any] = {
        "id": str,
        "text": str,
        "reference": (str, type(None)),
        "seconds": (int, float, type(None)),
        "confidence": (int, float, type(None)),
    }
    if not isinstance(fields, dict):
        raise HypothesesError(f"{where}: {advice}.")
    for name, kind in kinds.items():
        if not isinstance(fields.get(name), kind):
            state = f"has the wrong type of {name!r}" if name in fields else f"has no {name!r}"
            raise HypothesesError(f"{where}: {state}; {advice}.")
    values: dict[str, Any] = {name: fields.get(name) for name in kinds}
    return Hypothesis(**values)
