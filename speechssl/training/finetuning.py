"""Fine-tuning: a pretrained encoder (or a new one), a CTC head, and transcripts.

1. recipe + overrides   -> ``FinetuneRecipe``
2. cuts, transcripts    -> tokens; cuts whose transcript cannot fit are left out, with a warning
3. encoder + head       -> ``FinetuneModel``
4. ``engine.train``     -> checkpoints, the best by WER on dev
5. ``export_finetuned`` -> model folder with tokens.txt
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jiwer
import numpy as np
import torch
from fairseq2.metrics.recorders import MetricRecorder
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.config import build
from speechssl.data.batch import SpeechBatch
from speechssl.data.index import Cuts
from speechssl.data.loading import CutLoader
from speechssl.data.manifest import cuts_path
from speechssl.data.text import BLANK, Tokens, ctc_frames
from speechssl.decoding.greedy import greedy_decode
from speechssl.devices import to_device
from speechssl.errors import ConfigError, ManifestError, RunFolderError
from speechssl.frames import num_frames
from speechssl.models.adapters import add_adapters, merge_adapters
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.folder import TOKENS, save_model_folder
from speechssl.objectives.base import Loss, Unigram, frame_positions, real_frames
from speechssl.objectives.masking import MaskConfig, span_mask
from speechssl.training.augment import change_speed, vary_margins
from speechssl.training.engine import Job, check_training, is_main_process, train
from speechssl.training.metrics import MetricPairs, OnCollapse
from speechssl.training.pretraining import describe, first_config, first_encoder, usable_cuts
from speechssl.training.recipe import FinetuneConfig, FinetuneRecipe, load_recipe
from speechssl.training.reference import copy_reference, draw_run
from speechssl.training.run_folder import RunFolder
from speechssl.training.tokens import make_tokens

logger = logging.getLogger("speechssl")


class FinetuneModel(nn.Module):
    """A CTC model with the masking and freezing that fine-tuning adds."""

    def __init__(self, model: CTCModel, config: FinetuneConfig, tokens: Tokens) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.tokens = tokens
        self.encoder_frozen = False
        self.unigram = Unigram(len(tokens))

    def set_progress(self, fraction: float) -> None:
        """Releases the encoder when the head has had its share of the updates."""
        self.encoder_frozen = fraction < self.config.freeze_encoder

    def forward(self, batch: SpeechBatch) -> Loss:
        """CTC loss, summed over the batch, with ``intermediate_ctc`` of the encoder's lower half
        and the ``consistency`` of two views of each recording; counts the tokens.

        ``loss_trivial`` is the cross-entropy of the tokens' frequencies, which is about what CTC
        costs at its best when all frames have the same probabilities: summed over all alignments,
        where each token stands costs next to nothing.
        """
        if self.training and self.config.speeds:
            batch = change_speed(batch, self.config.speeds)
        if self.training and self.config.margins > 0:
            batch = vary_margins(batch, self.config.margins)
        assert batch.tokens is not None
        assert batch.token_lengths is not None
        views = 2 if self.training and self.config.consistency > 0 else 1
        context, early, frames = self._contexts(batch, views)
        tokens, token_lengths = batch.tokens.repeat(views, 1), batch.token_lengths.repeat(views)
        log_probs = self.model.log_probs(context)  # [views * B, T, V]
        loss = ctc_loss(log_probs, frames, tokens, token_lengths) / views
        if early is not None:
            early_probs = self.model.log_probs(early)
            early_loss = ctc_loss(early_probs, frames, tokens, token_lengths) / views
            loss = torch.lerp(loss, early_loss, self.config.intermediate_ctc)
        count = int(batch.token_lengths.sum())
        metrics: dict[str, tuple[Tensor | float, float]] = {
            "blank_share": blank_share(log_probs.detach(), frames),
            "loss_trivial": (self.trivial_loss(batch.tokens, batch.token_lengths), count),
        }
        if views == 2:
            disagreement = consistency_loss(log_probs, frames)
            loss = loss + self.config.consistency * disagreement
            metrics["disagreement"] = disagreement.detach(), int(frames.sum()) // 2
        return Loss(sum=loss, count=count, metrics=metrics)

    def trivial_loss(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens [B, L], lengths [B] on the CPU -> what naming them by their frequency costs."""
        places = frame_positions(real_frames(lengths, tokens.shape[1]))
        named = tokens.flatten().index_select(0, to_device(places, tokens.device))
        costs: Tensor = self.unigram(named)
        return costs.sum()

    @torch.no_grad()
    def evaluate(self, batch: SpeechBatch) -> MetricPairs:
        """Word and character error rates of greedy decoding, and the share of blank frames.

        With phones a word is right if its pronunciation is. The blank has its penalty, as in the
        finished recogniser.
        """
        log_probs, frames = self.model(batch.waveforms, batch.lengths)
        log_probs[..., BLANK] -= self.config.blank_penalty
        hypotheses = greedy_decode(log_probs, frames, self.tokens)
        references = [self.tokens.as_decoded(text) for text in batch.texts]
        words = jiwer.process_words(references, hypotheses)
        characters = jiwer.process_characters(references, hypotheses)
        return {
            "wer": _errors(words),
            "cer": _errors(characters),
            "blank_share": blank_share(log_probs, frames),
        }

    def _contexts(self, batch: SpeechBatch, views: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """Context [views * B, T, D] under training's masks, that of the lower half of the encoder
        where its loss counts, and their frames on the CPU. Each view of a recording has masks and
        dropout of its own; all of the first stand before all of the second."""
        encoder, config = self.model.encoder, self.config
        frames = num_frames(batch.lengths)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
            freeze = config.freeze_frontend and encoder.config.frontend.kind == "waveform"
            with torch.set_grad_enabled(torch.is_grad_enabled() and not freeze):
                features = encoder.extract(batch.waveforms, batch.lengths)  # [B, T, C]
            inputs = encoder.project(encoder.normalize(features))  # [B, T, D]
            inputs, frames = inputs.repeat(views, 1, 1), frames.repeat(views)
            if config.time_mask > 0:
                spans = MaskConfig(probability=config.time_mask, span=config.time_mask_span)
                mask = span_mask(frames, spans, width=inputs.shape[1])
                inputs = encoder.apply_mask(inputs, to_device(mask, inputs.device))
            if config.channel_mask > 0:
                inputs = mask_channels(inputs, config.channel_mask, config.channel_mask_span)
            if config.intermediate_ctc == 0:
                return encoder.contextualize(inputs, frames), None, frames
            middle = encoder.config.layers // 2
            return *encoder.contextualize_early(inputs, frames, middle), frames


def ctc_loss(log_probs: Tensor, frames: Tensor, tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """CTC loss (Graves et al. 2006), summed over the batch.

    log_probs [B, T, V], frames [B] and token_lengths [B] on the CPU, tokens [B, L] -> scalar. A
    transcript that does not fit costs nothing.
    """
    return F.ctc_loss(
        log_probs.transpose(0, 1),  # [T, B, V]
        tokens,
        frames,
        token_lengths,
        blank=BLANK,
        reduction="sum",
        zero_infinity=True,
    )


def consistency_loss(log_probs: Tensor, frames: Tensor) -> Tensor:
    """How far two views of each recording disagree, summed over frames: the mean of both
    Kullback-Leibler divergences, each with its first distribution as a fixed target
    (consistency-regularised CTC: Yao et al. 2024, arXiv 2410.05101).

    log_probs [2 B, T, V], all first views before the second, frames [2 B] on the CPU -> scalar.
    """
    swapped = torch.cat(log_probs.detach().chunk(2)[::-1])
    divergence = F.kl_div(log_probs, swapped, reduction="none", log_target=True).sum(-1)  # [2 B, T]
    real = to_device(real_frames(frames, log_probs.shape[1]), log_probs.device)
    return (divergence * real).sum() / 2


def mask_channels(inputs: Tensor, probability: float, span: int) -> Tensor:
    """Sets spans of channels of inputs [B, T, D] to zero in the whole recording: as many as
    ``span_mask`` draws, at least two, as in SpecAugment's policy LD (arXiv 1904.08779, table 1)."""
    batch, _, channels = inputs.shape
    mask = span_mask(torch.full((batch,), channels), MaskConfig(probability, span))
    return inputs * to_device(~mask[:, None, :], inputs.device)


def blank_share(log_probs: Tensor, frames: Tensor) -> tuple[Tensor, int]:
    """(frames of log_probs [B, T, V] whose best token is blank, frames): 1 means silence only.

    frames [B] on the CPU.
    """
    real = to_device(real_frames(frames, log_probs.shape[1]), log_probs.device)  # [B, T]
    return ((log_probs.argmax(-1) == BLANK) & real).sum(), int(frames.sum())


def _errors(output: Any) -> tuple[float, float]:
    """(errors, reference length) of a jiwer output."""
    errors = output.substitutions + output.deletions + output.insertions
    return float(errors), float(output.hits + output.substitutions + output.deletions)


def finetune(
    recipe_path: Path,
    data_dir: Path,
    exp: Path,
    *,
    init: Path | None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    on_collapse: OnCollapse = "warn",
    observer: MetricRecorder | None = None,
) -> Path:
    """Fine-tunes (or goes on fine-tuning) in ``exp``; returns the model folder.

    ``init`` is a model folder, or None to train the same network from scratch. ``on_collapse`` and
    ``observer`` are those of the ``Job``. Raises a ``SpeechSSLError`` for a bad recipe, manifest,
    model folder or output folder, and ``CollapseError`` where ``on_collapse`` is "stop" and the
    doctor finds that the run has failed.
    """
    recipe = load_recipe(FinetuneRecipe, recipe_path, overrides)
    settings = recipe.finetune
    if init is None:  # nothing is pretrained that could be kept
        settings = replace(settings, freeze_encoder=0.0, freeze_frontend=False)
    config = first_config(recipe.model, init)
    check_training(recipe.training, recipe.data, config)
    check_adapters(recipe, init)
    folder = RunFolder(exp)
    transcribed = _transcribed_cuts(data_dir, "train", recipe)
    manifest_hash = transcribed.manifest_hash
    description = describe("finetune", recipe, config, data_dir, manifest_hash, seed, init)
    folder.check(description)
    tokens = make_tokens(settings, transcribed.texts())
    train_cuts = _fitting_cuts(transcribed, tokens, recipe, str(cuts_path(data_dir, "train")))
    if tokens.units == "characters":
        tokens = make_tokens(settings, train_cuts.texts())  # those of cuts left out are not learnt
    dev_cuts = _transcribed_cuts(data_dir, "dev", recipe) if _has_dev(data_dir) else None
    for text in dev_cuts.texts() if dev_cuts is not None else ():
        tokens.as_decoded(text)  # where words need a pronunciation, they have one
    check_tokens(exp, tokens)
    folder.claim(description)
    copy_reference(recipe_path, exp)
    tokens.save(exp / TOKENS)

    def build_model() -> FinetuneModel:
        model = CTCModel(first_encoder(recipe.model, init), len(tokens), dropout=settings.dropout)
        if settings.adapter_rank:
            add_adapters(model.encoder, settings.adapter_rank, settings.adapter_scale)
        return FinetuneModel(model, settings, tokens)

    train(
        Job(
            exp=exp,
            build_model=build_model,
            train_cuts=train_cuts,
            train_loader=CutLoader(tokens=tokens, cache_gb=recipe.data.cache_gb),
            dev_cuts=dev_cuts,
            dev_loader=CutLoader(cache_gb=recipe.data.cache_gb / 4),
            data=recipe.data,
            optimizer=recipe.optimizer,
            schedule=recipe.schedule,
            training=recipe.training,
            seed=seed,
            score="wer",
            static_graph=False,
            on_collapse=on_collapse,
            observer=observer,
        )
    )
    if is_main_process():
        draw_run(exp)
        export_finetuned(folder, "best", folder.model)
    return folder.model


def export_finetuned(
    folder: RunFolder, checkpoint: Literal["best", "last"] | int, model_dir: Path
) -> Path:
    """Writes the model folder of one checkpoint: encoder, CTC head and tokens. What adapters have
    learned is merged into the plain weights, and the blank's penalty into its bias."""
    description = folder.description()
    step = folder.choose(checkpoint)
    tokens = Tokens.load(folder.path / TOKENS)
    encoder = Encoder(build(EncoderConfig, description["encoder"], str(folder.path)))
    settings = build(FinetuneConfig, description["recipe"]["finetune"], str(folder.path))
    model = CTCModel(encoder, len(tokens), dropout=0.0)
    if settings.adapter_rank:
        add_adapters(encoder, settings.adapter_rank, settings.adapter_scale)
    weights = folder.load_weights(step, FinetuneModel(model, settings, tokens))
    model.load_state_dict({k.removeprefix("model."): v for k, v in weights.items()})
    merge_adapters(encoder)
    with torch.no_grad():
        model.head.bias[BLANK] -= settings.blank_penalty
    save_model_folder(model_dir, model, tokens=tokens, info={"updates": step, **description})
    return model_dir


def check_tokens(exp: Path, tokens: Tokens) -> None:
    """Raises ``RunFolderError`` where the run in ``exp`` was started with other tokens, which is
    what the rows of its CTC head mean."""
    path = exp / TOKENS
    if path.is_file() and Tokens.load(path).symbols != tokens.symbols:
        raise RunFolderError(
            f"{path}: the transcripts have changed since the run was started: they give other "
            f"tokens; give a new folder, or the transcripts as they were."
        )


def check_adapters(recipe: FinetuneRecipe, init: Path | None) -> None:
    """Raises ``ConfigError`` where adapters are wanted and cannot be trained."""
    if not recipe.finetune.adapter_rank:
        return
    if init is None:
        raise ConfigError("finetune.adapter_rank: adapters need a pretrained encoder; give --init.")
    if recipe.training.data_parallel == "fsdp":
        raise ConfigError(
            "training.data_parallel: adapters are small and are trained with ddp; set it to ddp."
        )


def _has_dev(data_dir: Path) -> bool:
    return cuts_path(data_dir, "dev").exists()


def _transcribed_cuts(data_dir: Path, split: str, recipe: FinetuneRecipe) -> Cuts:
    """The cuts of a split with transcripts; warns about the others."""
    path = cuts_path(data_dir, split)
    usable = usable_cuts(Cuts.open(path), recipe.data, str(path))
    cuts = usable.transcribed()
    if len(cuts) < len(usable):
        logger.warning("%s: left out %d cuts without transcript", path, len(usable) - len(cuts))
    return cuts


def _fitting_cuts(cuts: Cuts, tokens: Tokens, recipe: FinetuneRecipe, path: str) -> Cuts:
    """The cuts whose transcripts fit their frames; warns about the others."""
    problems: dict[int, str] = {}
    rows = zip(cuts.durations.tolist(), cuts.frames.tolist(), cuts.texts())
    for place, (seconds, frames, text) in enumerate(rows):
        if seconds > recipe.data.max_seconds:
            problems[place] = f"{seconds:.1f} s is longer than data.max_seconds"
        elif (needed := ctc_frames(tokens.encode(text))) > frames:
            problems[place] = f"its transcript needs {needed} frames, the audio has {frames}"
    if not problems:
        return cuts
    for cut_id, problem in zip(cuts.select(list(problems)).ids(), problems.values()):
        logger.warning("%s: leaving out cut %s: %s", path, cut_id, problem)
    if len(problems) == len(cuts):
        raise ManifestError(f"{path}: no cut is left to train on; see the warnings above.")
    fitting = np.ones(len(cuts), dtype=bool)
    fitting[list(problems)] = False
    return cuts.select(fitting)
