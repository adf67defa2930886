"""``speechssl info``: what a model folder, a run or a manifest is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

QUANTILES = {"shortest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "longest": 1.0}
"""Shown quantiles of the durations."""


@click.command(short_help="Describe a model, a run or a corpus.")
@click.argument("path", type=click.Path(path_type=Path))
def command(path: Path) -> None:
    """Say what PATH is: a model folder, the folder of a run, a DATA_DIR, a cuts.jsonl.gz
    or a folder in Lhotse Shar.

    Of a model: kind, size, encoder, tokens and what trained it. Of a run: recipe, progress, last
    metrics and best checkpoint. Of cuts: utterances, hours, speakers, languages, durations.

    \b
    Example:
      speechssl info exp/finetune/model
      speechssl info exp/finetune
      speechssl info data
    """
    from speechssl.data.manifest import SPLITS, cuts_path
    from speechssl.data.shar import is_shar
    from speechssl.errors import ManifestError
    from speechssl.models.folder import CONFIG, WEIGHTS
    from speechssl.training.run_folder import RECIPE_FILE

    splits = [split for split in SPLITS if cuts_path(path, split).exists()]
    if path.name.endswith((".jsonl", ".jsonl.gz")) or is_shar(path):
        sections = {str(path): describe_cuts(path)}
    elif (path / RECIPE_FILE).is_file():
        sections = {f"run {path}": describe_run(path)}
    elif (path / CONFIG).is_file() or (path / WEIGHTS).is_file():
        sections = {f"model {path}": describe_model(path)}
    elif splits:
        sections = {split: describe_cuts(cuts_path(path, split)) for split in splits}
    else:
        raise ManifestError(
            f"{path}: is neither a model folder, nor a run, nor a DATA_DIR, nor a cuts.jsonl.gz; "
            "check the path."
        )
    click.echo("\n\n".join(_section(title, facts) for title, facts in sections.items()))


def describe_model(path: Path) -> dict[str, Any]:
    """The facts about a model folder. Raises ``ModelFolderError`` if it is not sound."""
    from speechssl.config import to_dict
    from speechssl.models.ctc import CTCModel
    from speechssl.models.folder import load_model_folder

    loaded = load_model_folder(path)
    model = loaded.model
    encoder = model.encoder if isinstance(model, CTCModel) else model
    info = {name: value for name, value in loaded.info.items() if name != "encoder"}
    facts: dict[str, Any] = {
        "kind": loaded.kind,
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
    }
    if loaded.tokens is not None:
        tokens = loaded.tokens
        units = "" if tokens.units == "characters" else f" ({tokens.units})"
        facts["tokens"] = f"{len(tokens)}{units}: {' '.join(tokens.symbols)}"
    return {**facts, "encoder": to_dict(encoder.config), "trained by": info or "unknown"}


def describe_run(path: Path) -> dict[str, Any]:
    """The facts about a run's folder. Raises ``RunFolderError`` if it is none."""
    from speechssl.training.run_folder import RunFolder

    run = RunFolder(path)
    description = run.description()
    scores, steps = run.scores(), run.steps()
    facts = {name: value for name, value in description.items() if name != "encoder"}
    for start in run.starts():
        version = start["commit"] or start["version"]
        facts[f"started {start['started']}"] = f"{start['command']} ({version})"
    facts["checkpoints"] = ", ".join(map(str, steps)) or "none yet"
    if scores:
        best = run.choose("best")
        tuned = description["kind"] == "finetune"  # a score is minus what the run chooses by
        told = f"WER {-100 * scores[best]:.1f} %" if tuned else f"loss {-scores[best]:.4g}"
        facts["best checkpoint"] = f"{best} ({told} on dev)"
    facts["model"] = str(run.model) if run.model.is_dir() else "not exported yet"
    facts["last metrics"] = last_metrics(path) or "none yet"
    return facts


def last_metrics(path: Path) -> dict[str, Any]:
    """The last complete line of each of the run's metrics files, by the file's name."""
    import json

    latest: dict[str, Any] = {}
    folder = path / "metrics"
    for file in sorted(folder.rglob("*.jsonl")):
        for line in reversed(file.read_text(encoding="utf-8").splitlines()):
            try:
                values = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a run that was killed
            name = str(file.relative_to(folder).with_suffix(""))
            latest[name] = values
            break
    return latest


def describe_cuts(path: Path) -> dict[str, Any]:
    """The facts about a manifest. Raises ``ManifestError`` if it is malformed."""
    import numpy as np

    from speechssl.data.manifest import cut_text, hours, load_cuts

    cuts = list(load_cuts(path))
    durations = np.array([cut.duration for cut in cuts])
    texts = [text for text in map(cut_text, cuts) if text]
    supervisions = [supervision for cut in cuts for supervision in cut.supervisions]
    speakers = Counter(s.speaker for s in supervisions if s.speaker)
    languages = Counter(s.language for s in supervisions if s.language)
    rates = Counter(cut.sampling_rate for cut in cuts)
    return {
        "utterances": len(cuts),
        "hours": f"{hours(cuts):.3f}",
        "with transcript": f"{len(texts)} ({sum(len(text.split()) for text in texts)} words)",
        "speakers": len(speakers) or "unknown",
        "languages": ", ".join(f"{name} {n}" for name, n in languages.most_common()) or "unknown",
        "sampling rates": ", ".join(f"{rate} Hz {n}" for rate, n in rates.most_common()),
        "seconds": ", ".join(
            f"{name} {np.quantile(durations, share):.2f}" for name, share in QUANTILES.items()
        ),
    }


def _section(title: str, facts: dict[str, Any]) -> str:
    return "\n".join([title, *_lines(facts, "  ")])


def _lines(facts: dict[str, Any], indent: str) -> list[str]:
    """``name  value`` lines; mappings are indented below their name."""
    width = max((len(str(name)) for name in facts), default=0)
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name!s:<{width}}  {_plain(value)}")
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)
