"""Model folders of conversions: what comes in is written, what goes out is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from speechssl.config import to_dict
from speechssl.errors import CheckpointError
from speechssl.files import atomic_folder, sha256
from speechssl.interop.certificate import FILE as CERTIFICATE
from speechssl.interop.certificate import Certificate
from speechssl.interop.conversion import Ours
from speechssl.models.folder import LoadedModel, save_model_folder
from speechssl.objectives.base import Objective


def write_imported(
    model_dir: Path,
    ours: Ours,
    certificate: Certificate,
    *,
    project: str,
    source: str,
    architecture: str,
    files: Sequence[Path],
    kept: Mapping[str, str] | None = None,
) -> None:
    """Writes a model that came from ``files`` of ``source``, with its certificate.

    The folder's ``info`` has ``imported``: project, source, architecture, the SHA-256 of the
    files, whether parity is proven. Heads of pretraining are stored as ``objective.*`` tensors,
    and their settings as ``info["recipe"]["objective"]`` (with ``kind``), as pretraining here
    does it. ``kept`` are texts that an export needs again, by their path in the folder.
    """
    info: dict[str, Any] = {
        "imported": {
            "from": project,
            "source": source,
            "architecture": architecture,
            "sha256": {file.name: sha256(file) for file in files},
            "parity": certificate.status,
        }
    }
    objective = ours.objective
    if isinstance(objective, Objective):
        kind = type(objective).__module__.rpartition(".")[2]
        info["recipe"] = {"objective": {"kind": kind, **to_dict(objective.config)}}
    save_model_folder(
        model_dir,
        ours.model,
        tokens=ours.tokens,
        objective=None if objective is None else objective.state_dict(),
        info=info,
        extra_files={CERTIFICATE: certificate.to_json(), **(kept or {})},
    )


def imported_from(loaded: LoadedModel, project: str) -> str | None:
    """The architecture that the model had in ``project``, if it came from there."""
    imported = loaded.info.get("imported")
    if isinstance(imported, dict) and imported.get("from") == project:
        return str(imported.get("architecture"))
    return None


def origin(info: Mapping[str, Any]) -> str:
    """Where the weights come from, in a sentence."""
    imported = info.get("imported")
    if isinstance(imported, dict):
        return f"The weights come from {imported.get('source')} ({imported.get('from')})."
    if "updates" in info:
        return f"Trained for {info['updates']} updates."
    return "How it was trained is not known."


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yields a folder that becomes ``out`` when the block succeeds; otherwise nothing is there.

    Raises ``CheckpointError`` where ``out`` exists and is not an empty folder.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(f"{out}: exists already; give a new folder.")
    with atomic_folder(out) as fresh:
        yield fresh
