"""Continued pretraining: what a model brings along from the pretraining before.

The encoder starts from the weights of a model folder, imported or made here. Where it was
pretrained with the same objective, so do the heads, and what the recipe does not say about the
objective stays as it was. The optimizer starts afresh.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechssl.config import merge
from speechssl.data.targets import TargetsMeta
from speechssl.files import sha256
from speechssl.models.folder import WEIGHTS, load_objective_weights, read_info
from speechssl.objectives.base import EXTRA_STATE, Objective

logger = logging.getLogger("speechssl")

CLUSTERS = "cluster_embeddings"
"""The tensor of an objective with a row for each cluster of one codebook."""


def continued_settings(init: Path, objective: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's ``objective`` section laid over what ``init`` was pretrained with, if that was
    the same objective."""
    before = _objective(read_info(init))
    same = before.get("kind") == objective.get("kind")
    return merge(before, objective) if same else dict(objective)


def take_heads(objective: Objective, kind: str, init: Path, targets: TargetsMeta | None) -> None:
    """Loads the heads of ``init`` into ``objective``, if they are those of the same ``kind``.

    A head of another shape stays new, and the clock of the run (``RunClock``) starts anew. So do
    cluster embeddings where ``targets`` are of another codebook than theirs: their rows mean other
    clusters. (Imported models do not say which codebook they had; theirs are taken if there are as
    many clusters.)
    """
    info = read_info(init)
    found = _objective(info).get("kind")
    if found != kind:
        origin = f"with objective {found!r}" if found else "with heads that are not kept"
        logger.info("%s: was pretrained %s; all heads of %r are new", init, origin, kind)
        return
    own = objective.state_dict()
    given = load_objective_weights(init)
    if targets is not None and info.get("codebook") not in (None, targets.codebook):
        given.pop(CLUSTERS, None)
    heads = {n: w for n, w in own.items() if not n.endswith(EXTRA_STATE)}
    taken = {n: w for n, w in given.items() if n in heads and heads[n].shape == w.shape}
    objective.load_state_dict(taken, strict=False)
    new = sorted(set(heads) - set(taken)) or ["none"]
    logger.info("%s: took over %d tensors of %r; new: %s", init, len(taken), kind, ", ".join(new))


def check_targets(init: Path, targets: TargetsMeta | None) -> None:
    """Warns where targets were not made with the model that training starts from."""
    if targets is not None and targets.features != sha256(init / WEIGHTS):
        logger.warning(
            "the targets were not made with %s: labels of one of its own layers teach it more "
            "(speechssl label DATA --name NAME --model %s --layer N)",
            init,
            init,
        )


def _objective(info: Mapping[str, Any]) -> dict[str, Any]:
    """The ``objective`` section of the recipe with which a model folder says that it was
    pretrained; empty where it does not say."""
    recipe = info.get("recipe")
    objective = recipe.get("objective") if isinstance(recipe, dict) else None
    return objective if isinstance(objective, dict) else {}
