"""Which run may be the reference of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechssl.config import to_dict
from speechssl.errors import RunFolderError
from speechssl.training.recipe import FinetuneRecipe, encoder_settings, load_recipe
from speechssl.training.reference import save_reference
from speechssl.training.run_folder import RunFolder


def test_a_run_from_scratch_is_none_of_a_recipe_without_a_preset(tmp_path: Path) -> None:
    recipe = tmp_path / "ctc.yaml"
    recipe.write_text("training: {updates: 1}\n")
    settings = load_recipe(FinetuneRecipe, recipe, ["model.preset=tiny"])
    description = {
        "kind": "finetune",
        "data": "data",
        "init": None,
        "seed": 0,
        "encoder": to_dict(encoder_settings(settings.model)),
        "recipe": to_dict(settings),
    }
    RunFolder(tmp_path / "exp").claim(description)
    with pytest.raises(RunFolderError, match=r"different: model\.preset"):
        save_reference(tmp_path / "exp", recipe)
