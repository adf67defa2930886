import re

from speechssl.training.run_folder import RunFolder


def test_starts_are_noted(tmp_path, monkeypatch):
    """A run that was resumed says by which commands, the first one first."""
    folder = RunFolder(tmp_path / "run")
    folder.claim({"kind": "finetune"})
    assert folder.starts() == []
    for seed in ("1", "2"):
        monkeypatch.setattr(
            "sys.argv", ["/somewhere/main.py", "finetune", "my exp", "--seed", seed]
        )
        folder.note_start()
    first, second = folder.starts()
    assert first["command"] == "speechssl finetune 'my exp' --seed 1"
    assert second["command"] == "speechssl finetune 'my exp' --seed 2"
    assert re.fullmatch(r"[0-9a-f]{12}(\+changes)?", first["commit"] or "0" * 12)
    folder.check({"kind": "finetune"})  # still the same run
