from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from speechssl import extraction
from speechssl.data.audio import read_cut
from speechssl.data.index import Cuts
from speechssl.data.manifest import cuts_path, load_cuts, save_cuts
from speechssl.probing.labels import Labelled
from speechssl.probing.vectors import ProbedLayers, compute_vectors


def test_means_and_frames_of_every_layer(corpus: Path, recogniser: Path, tmp_path: Path) -> None:
    cuts = Cuts.open(cuts_path(corpus, "train"))
    layers = ProbedLayers(recogniser)
    assert layers.names == ["log-mel", "0", "1"]
    ids = list(cuts.ids())
    items = [
        Labelled(7, ids[7], None, ("x", "y"), np.array([4, 20])),
        Labelled(2, ids[2], None, ("z",)),
        Labelled(9, ids[9], None, ("y", "x", "z"), np.array([0, 1, 2])),
    ]
    vectors = compute_vectors(cuts, items, layers, tmp_path, "train")
    assert vectors.labels.tolist() == ["x", "y", "z", "y", "x", "z"]
    assert vectors.utterances.tolist() == [0, 0, 1, 2, 2, 2]
    states = [layers([read_cut(cuts[item.place])])[0] for item in items]
    for layer, matrix in enumerate(vectors.layers()):
        expected = [states[0][layer][[4, 20]], states[1][layer].mean(0)[None], states[2][layer][:3]]
        torch.testing.assert_close(
            torch.from_numpy(matrix), torch.cat(expected), atol=1e-4, rtol=1e-3
        )


def test_an_unreadable_cut_leaves_no_gap(
    corpus_copy: Path, recogniser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "BATCH_SECONDS", 0.1)  # each cut is a batch of its own
    path = cuts_path(corpus_copy, "train")
    (cut,) = list(load_cuts(path))[:1]
    cuts = [cut.with_id(f"cut-{number}") for number in range(120)]
    bad = cut.with_id("bad")
    bad.recording = bad.recording.with_path_prefix("/nowhere")
    bad.recording.sources[0].source = "/nowhere.wav"
    save_cuts([*cuts[:60], bad, *cuts[60:]], path)
    opened = Cuts.open(path)
    items = [Labelled(place, id, None, (id,)) for place, id in enumerate(opened.ids())]
    vectors = compute_vectors(opened, items, ProbedLayers(recogniser), tmp_path, "train")
    assert vectors.labels.tolist() == [cut.id for cut in cuts]
    assert vectors.utterances.tolist() == list(range(120))
    for matrix in vectors.layers():
        assert matrix.shape[0] == 120
        assert np.ptp(matrix, axis=0).max() < 1e-3
