"""The refinement of BEST-RQ's quantizer against versions that look at one frame at a time."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing
from torch.nn import functional as F

from speechssl.errors import ConfigError
from speechssl.frames import num_frames
from speechssl.models.encoder import Encoder
from speechssl.objectives.base import perplexity, shares
from speechssl.objectives.best_rq import BestRQ, BestRQConfig, RandomProjectionQuantizer
from speechssl.objectives.refinement import Refinement, RefinementConfig
from tests.contracts.toys import toy_batch, toy_encoder
from tests.objectives.small import FBANK, batch_of

CHANNELS, BOOKS, ENTRIES, SIZE = 20, 3, 12, 5
UPDATES = 50


def build(**settings: object) -> tuple[RandomProjectionQuantizer, Refinement]:
    """A quantizer and its refinement; components until a tenth of the run, a refinement at each."""
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(CHANNELS, BOOKS, ENTRIES, SIZE)
    values = {"pca_until": 0.1, "every": 0.1, **settings}
    return quantizer, Refinement(RefinementConfig(**values), quantizer)  # type: ignore[arg-type]


def frames_like_speech(count: int, seed: int) -> Tensor:
    """[M, C]: the variance of a few components is far greater than that of others."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(CHANNELS, CHANNELS, generator=generator.manual_seed(99))).Q
    spread = 0.75 ** torch.arange(CHANNELS)
    return torch.randn(count, CHANNELS, generator=generator.manual_seed(seed)) * spread @ turn


def run(
    quantizer: RandomProjectionQuantizer, refinement: Refinement, first: int, last: int
) -> list[Tensor]:
    """Updates ``first`` to ``last`` of ``UPDATES``, two batches each; returns their frames."""
    seen = []
    for update in range(first, last):
        refinement.advance(quantizer, update / UPDATES)
        for half in (0, 1):
            frames = frames_like_speech(40, seed=2 * update + half)
            refinement.collect(quantizer, frames, quantizer(frames))
            seen.append(frames)
    return seen


def test_projections_become_the_principal_components_of_all_frames_seen() -> None:
    quantizer, refinement = build()
    seen = run(quantizer, refinement, 0, 6)  # the components of updates 0 to 4 are looked at
    frames = torch.cat(seen[:10])
    _, _, components = torch.linalg.svd(frames)
    expected = components[:SIZE].T @ components[:SIZE]  # onto the space that they span
    for projection in quantizer.projections:
        torch.testing.assert_close(projection.T @ projection, torch.eye(SIZE), rtol=0, atol=1e-5)
        torch.testing.assert_close(projection @ projection.T, expected, rtol=0, atol=5e-3)
    kept = quantizer.projections.clone()
    run(quantizer, refinement, 6, 30)
    assert torch.equal(quantizer.projections, kept), "the time for that is over"


def test_projections_turn_smoothly_and_stay_where_nothing_was_seen() -> None:
    quantizer, refinement = build()
    run(quantizer, refinement, 0, 4)
    codes = quantizer(frames_like_speech(200, seed=1000))
    run(quantizer, refinement, 4, 6)
    moved = quantizer(frames_like_speech(200, seed=1000))
    assert float((codes == moved).float().mean()) > 0.8

    quantizer, refinement = build()
    frames = frames_like_speech(200, seed=1000)
    before = quantizer(frames)
    silence = torch.zeros(30, CHANNELS)
    for update in range(3):
        refinement.advance(quantizer, update / UPDATES)
        refinement.collect(quantizer, silence, quantizer(silence))
    assert quantizer.projections.isfinite().all()
    assert float((quantizer(frames) == before).float().mean()) > 0.3, "made right-angled only"


def test_codewords_become_the_mean_direction_of_themselves_and_their_frames() -> None:
    quantizer, refinement = build(pca_until=0.0, distill=False)
    projections, start = quantizer.projections.clone(), quantizer.codebooks.clone()
    seen = torch.cat(run(quantizer, refinement, 0, 5))
    refinement.advance(quantizer, 5 / UPDATES)
    assert torch.equal(quantizer.projections, projections), "random ones were asked for"
    for book in range(BOOKS):
        sums = start[book].clone()
        for frame in seen:
            projected = projections[book].T @ frame
            direction = projected / projected.norm()
            code = min(range(ENTRIES), key=lambda i: float((start[book, i] - direction).norm()))
            sums[code] += direction
        expected = sums / sums.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(quantizer.codebooks[book], expected, rtol=1e-4, atol=1e-5)
        unused = [i for i in range(ENTRIES) if torch.equal(sums[i], start[book, i])]
        torch.testing.assert_close(quantizer.codebooks[book, unused], start[book, unused])
    moved = quantizer.codebooks.clone()
    run(quantizer, refinement, 6, 10)
    assert torch.equal(quantizer.codebooks, moved), "only from time to time"


def test_refined_codebooks_are_nearer_to_the_frames_and_more_of_them_is_used() -> None:
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(CHANNELS, 1, 64, SIZE)
    refinement = Refinement(RefinementConfig(every=0.1, distill=False), quantizer)
    frames = frames_like_speech(2000, seed=1000)

    def state() -> tuple[float, float]:
        """How similar frames are to their codewords, and how many entries they use."""
        codes = quantizer(frames)
        words = quantizer.codebooks[0, codes[:, 0]]
        similar = F.cosine_similarity(frames @ quantizer.projections[0], words).mean()
        return float(similar), float(perplexity(shares(codes.T, 64)))

    run(quantizer, refinement, 0, 4)
    near, used = state()
    run(quantizer, refinement, 4, UPDATES)
    nearer, more = state()
    assert 1 - nearer < 0.75 * (1 - near)
    assert more > 1.2 * used


def test_an_update_announced_again_counts_once() -> None:
    quantizer, refinement = build()
    for update in range(20):
        run(quantizer, refinement, update, update + 1)
        run(quantizer, refinement, update, update + 1)  # the same, made again
    once, other = build()
    run(once, other, 0, 20)
    assert torch.equal(quantizer.projections, once.projections)
    assert torch.equal(quantizer.codebooks, once.codebooks)
    before = quantizer.codebooks.clone()
    for _ in range(3):
        refinement.advance(quantizer, 20 / UPDATES)
    after = quantizer.codebooks.clone()
    refinement.advance(quantizer, 20 / UPDATES)
    assert not torch.equal(before, after), "update 20 refines"
    assert torch.equal(quantizer.codebooks, after)


@pytest.mark.parametrize("stop", [3, 7])
def test_saved_and_loaded_it_goes_on_the_same(stop: int, tmp_path: Path) -> None:
    """While components are estimated, and between two refinements."""
    quantizer, refinement = build()
    run(quantizer, refinement, 0, stop)
    states = {"quantizer": quantizer.state_dict(), "refinement": refinement.state_dict()}
    torch.save(states, tmp_path / "x")
    run(quantizer, refinement, stop, 20)
    other, again = build()
    torch.nn.init.zeros_(other.codebooks)
    states = torch.load(tmp_path / "x", weights_only=True)
    other.load_state_dict(states["quantizer"])
    again.load_state_dict(states["refinement"])
    run(other, again, stop, 20)
    assert torch.equal(other.codebooks, quantizer.codebooks)
    assert torch.equal(other.projections, quantizer.projections)
    assert torch.equal(again.sums, refinement.sums)


def test_a_new_run_that_starts_from_a_finished_one_refines_too() -> None:
    quantizer, refinement = build()
    run(quantizer, refinement, 0, UPDATES)
    run(quantizer, refinement, 0, 8)
    before = quantizer.codebooks.clone()
    run(quantizer, refinement, 8, 12)
    assert not torch.equal(quantizer.codebooks, before)


def on_one_of_two(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    quantizer, refinement = build()
    for update in range(12):
        refinement.advance(quantizer, update / UPDATES)
        frames = frames_like_speech(40, seed=2 * update + rank)
        refinement.collect(quantizer, frames, quantizer(frames))
    torch.save([quantizer.state_dict(), refinement.state_dict()], f"{folder}/{rank}")
    distributed.destroy_process_group()


def test_two_processes_have_one_quantizer(tmp_path: Path) -> None:
    quantizer, refinement = build()
    run(quantizer, refinement, 0, 12)
    multiprocessing.spawn(on_one_of_two, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    for rank in ("0", "1"):
        found, collected = torch.load(tmp_path / rank, weights_only=True)
        torch.testing.assert_close(found["projections"], quantizer.projections)
        torch.testing.assert_close(found["codebooks"], quantizer.codebooks)
        torch.testing.assert_close(collected["sums"], refinement.sums)


def slow_distillation(
    objective: BestRQ, words: Tensor, states: Tensor, mels: Tensor, masked: int
) -> Tensor:
    """The error of one recording, pair by pair. words [V, E], states [T, D], mels [T, C]."""
    words = words / words.norm(dim=-1, keepdim=True)
    inputs = [mel @ objective.quantizer.projections[-1] for mel in mels]
    inputs = [vector / vector.norm() for vector in inputs]
    chosen = [words[int((words @ vector).argmax())] for vector in inputs]
    states = (states - states.mean(dim=0)) / (states.var(dim=0, correction=0) + 1e-5).sqrt()
    states = states / states.norm(dim=-1, keepdim=True)
    pairs = [
        (chosen[i] @ chosen[j] - states[i] @ states[j]).abs()
        for i in range(len(mels))
        for j in range(len(mels))
    ]
    near = [1 - word @ vector for word, vector in zip(chosen, inputs)]
    assert objective.refinement is not None
    anchor = objective.refinement.config.anchor
    return masked * (torch.stack(pairs).mean() + anchor * torch.stack(near).mean())


def test_the_distilled_codebook_learns_from_a_layer_and_teaches_nothing_to_it() -> None:
    torch.manual_seed(0)
    refined = RefinementConfig(layer=1, anchor=0.7)
    config = BestRQConfig(codebooks=2, entries=ENTRIES, codeword_size=SIZE, refinement=refined)
    encoder, objective = Encoder(FBANK), BestRQ(config, FBANK)
    refinement = objective.refinement
    assert refinement is not None
    torch.nn.init.normal_(refinement.words)
    batch = batch_of(9000, 6000)
    mask = objective.draw(batch)["mask"]
    loss = objective.loss(encoder, batch, mask=mask)
    error, count = loss.metrics["loss_distillation"]

    counts = num_frames(batch.lengths).tolist()
    frames = encoder.extract(batch.waveforms, batch.lengths)
    inputs = encoder.apply_mask(encoder.project(encoder.normalize(frames)), mask)
    _, states = encoder.contextualize(inputs, torch.tensor(counts), layers=True)
    errors = [
        slow_distillation(
            objective,
            refinement.words,
            states[1][row, :length].detach(),
            frames[row, :length],
            int(mask[row].sum()),
        )
        for row, length in enumerate(counts)
    ]
    expected = torch.stack(errors).sum()
    assert count == loss.count
    assert float(error) == pytest.approx(float(expected.detach()), rel=1e-4)

    loss.sum.backward()
    (gradient,) = torch.autograd.grad(expected, refinement.words)
    torch.testing.assert_close(refinement.words.grad, gradient, rtol=1e-3, atol=1e-5)
    with_error = {name: p.grad.clone() for name, p in encoder.named_parameters()}  # type: ignore[union-attr]
    encoder.zero_grad()
    refined.anchor = 100.0
    again = objective.loss(encoder, batch, mask=mask)
    assert float(again.sum.detach()) > 2 * float(loss.sum.detach())
    again.sum.backward()
    for name, parameter in encoder.named_parameters():
        torch.testing.assert_close(parameter.grad, with_error[name], msg=name)


def test_the_distilled_codebook_becomes_its_copy_from_time_to_time() -> None:
    torch.manual_seed(0)
    refined = RefinementConfig(pca_until=0.0, every=0.5)
    config = BestRQConfig(codebooks=1, entries=16, refinement=refined)
    layout = toy_encoder()
    encoder, objective = Encoder(layout), BestRQ(config, layout)
    assert objective.refinement is not None
    books, words = objective.quantizer.codebooks, objective.refinement.words
    assert books.shape[0] == 2, "one more than asked for"
    start = books.clone()
    torch.testing.assert_close(words.detach(), start[1])
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-2)
    errors = []
    for update in range(20):
        objective.before_update(encoder, update / 40)
        assert torch.equal(books[1], start[1]), "not yet"
        torch.manual_seed(1)
        loss = objective(encoder, toy_batch())
        errors.append(float(loss.metrics["loss_distillation"][0]) / loss.count)
        optimizer.zero_grad()
        loss.sum.backward()
        used = F.normalize(words.detach(), dim=-1)
        optimizer.step()
    objective.before_update(encoder, 0.5)
    torch.testing.assert_close(books[1], used)
    assert errors[-1] < 0.9 * errors[0], "it learned what the layer finds alike"
    assert not torch.equal(books[0], start[0])


def test_evaluation_collects_nothing() -> None:
    layout = toy_encoder()
    config = BestRQConfig(entries=16, refinement=RefinementConfig(pca_until=0.5))
    encoder, objective = Encoder(layout), BestRQ(config, layout)
    refinement = objective.refinement
    assert refinement is not None
    for fraction in (0.0, 0.6):
        objective.before_update(encoder, fraction)
        before = copy.deepcopy(refinement.state_dict())
        objective.eval()(encoder, toy_batch())
        after = refinement.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        objective.train()(encoder, toy_batch())
        collected = refinement.new_sums if fraction else refinement.new_products
        assert collected.any()


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"pca_until": -0.1}, "pca_until"),
        ({"every": 0.0}, "every"),
        ({"anchor": -1.0}, "anchor"),
    ],
)
def test_a_value_out_of_range_is_named(values: dict[str, float], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be"):
        RefinementConfig(**values)  # type: ignore[arg-type]


def test_what_does_not_suit_the_encoder_is_refused() -> None:
    refined = RefinementConfig()
    with pytest.raises(ConfigError, match=r"^codeword_size must be at most .*\(40\)"):
        BestRQ(BestRQConfig(codeword_size=41, refinement=refined), FBANK)
    with pytest.raises(ConfigError, match=r"^layer must be from 1 to .*\(2\)"):
        BestRQ(BestRQConfig(refinement=RefinementConfig(layer=3)), FBANK)
    BestRQ(BestRQConfig(codeword_size=41, refinement=RefinementConfig(pca_until=0.0)), FBANK)
