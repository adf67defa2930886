from __future__ import annotations

from pathlib import Path

import lhotse

from speechssl.data.manifest import cuts_path


def test_features_for_lhotse(speechssl, recogniser: Path, corpus: Path, tmp_path: Path) -> None:
    arguments = ("features", recogniser, cuts_path(corpus, "dev"), tmp_path / "out")
    result = speechssl(*arguments, "--layers", "1,0", "--dtype", "float16")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"4 cuts written, layers 1, 0 -> {tmp_path}/out/shar\n"
    for cut in lhotse.CutSet.from_shar(in_dir=tmp_path / "out" / "shar"):
        assert cut.load_layer_0().shape == cut.load_layer_1().shape
    again = speechssl(*arguments, "--layers", "1,0", "--dtype", "float16")
    assert again.stdout.startswith("0 cuts written")


def test_mistakes(fails, recogniser: Path, corpus: Path, tmp_path: Path) -> None:
    arguments = ("features", recogniser, cuts_path(corpus, "dev"), tmp_path / "out", "--layers")
    assert "--layers must be numbers with commas, not 'all'" in fails(*arguments, "all")
    assert "layer must be between 0 and 1, but is 9" in fails(*arguments, "9")
    assert not (tmp_path / "out").exists()
