import os
import re

import pytest
import torch
from torch import nn

from speechssl.errors import RunFolderError
from speechssl.objectives.base import RunClock
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
    assert first["folder"] == os.getcwd()
    assert second["command"] == "speechssl finetune 'my exp' --seed 2"
    assert re.fullmatch(r"[0-9a-f]{12}(\+changes)?", first["commit"] or "0" * 12)
    folder.check({"kind": "finetune"})  # still the same run


def test_a_run_goes_on_from_any_folder(tmp_path, monkeypatch):
    """Whatever the paths were relative to when it was started."""
    folder = RunFolder(tmp_path / "exp")
    lexicon = {"finetune": {"lexicon": "words.txt"}}
    monkeypatch.chdir(tmp_path)
    folder.claim({"data": "data/", "init": "pretrain/model", "recipe": lexicon})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    lexicon = {"finetune": {"lexicon": "../words.txt"}}
    same = {"data": str(tmp_path / "data"), "init": "../pretrain/model", "recipe": lexicon}
    folder.check(same)
    with pytest.raises(RunFolderError, match=r"another run \(different: data\)"):
        folder.check({**same, "data": "data"})
    assert folder.description()["init"] == str(tmp_path / "pretrain" / "model")


def test_a_run_that_noted_relative_paths_goes_on(tmp_path, monkeypatch):
    """As runs did before; where they were started, their paths are the same as ever."""
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "recipe.yaml").write_text("data: data\ninit: null\n")
    monkeypatch.chdir(tmp_path)
    RunFolder("exp").check({"data": "data", "init": None})
    RunFolder("exp").check({"data": str(tmp_path / "data"), "init": None})


def test_what_another_process_of_the_run_is_writing_is_no_other_file(tmp_path):
    (tmp_path / ".tmp-x-recipe.yaml").write_text("kind: fine")
    RunFolder(tmp_path).claim({"kind": "finetune"})
    assert RunFolder(tmp_path).description() == {"kind": "finetune"}


def test_one_process_trains_at_a_time(tmp_path):
    folder, again = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    folder.claim({"kind": "finetune"})
    message = "another process is training"
    with folder.alone(), pytest.raises(RunFolderError, match=message), again.alone():
        pytest.fail("two are training")
    with again.alone():
        pass  # free again


class Counter(RunClock, nn.Module):
    """A parameter, which processes share, and state, of which each has a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 2))
        self.register_buffer("seen", torch.zeros(2))


def test_shares_of_the_weights_are_put_together(tmp_path):
    """Parameters row by row, in the order of the processes; buffers and clocks are whole in each
    share."""
    whole = Counter()
    whole.fraction = 0.5
    whole.weight.data.copy_(torch.arange(8.0).view(4, 2))
    whole.seen.fill_(3)
    folder = tmp_path / "checkpoints" / "step_4" / "model"
    for rank, rows in zip((11, 100), whole.weight.detach().split(2)):
        path = folder / "pp_00" / "tp_00" / f"sdp_{rank:02d}.pt"  # as the engine names them
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({**whole.state_dict(), "weight": rows.clone()}, path)
    found = Counter()
    found.load_state_dict(RunFolder(tmp_path).load_weights(4, Counter()))
    assert torch.equal(found.weight, whole.weight)
    assert torch.equal(found.seen, whole.seen)
    assert found.fraction == 0.5
