"""Training recipes: every setting of a run, its default, and the rule it must keep.

A recipe is a YAML file that holds only the differences from its ``parent``; what no file says
has the default below. The batch is stated in seconds of audio per update, schedules in fractions
of the run, so that one recipe means the same on any number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from speechssl.config import build, merge, parse_override, read_yaml, require, unknown_key
from speechssl.errors import ConfigError
from speechssl.models.encoder import EncoderConfig
from speechssl.models.presets import encoder_config


@dataclass(frozen=True)
class DataConfig:
    """How cuts become batches."""

    targets: str | None = None
    """Name of the frame targets beside the cuts (objectives that need them)."""

    batch_seconds: float = 120.0
    """Seconds of audio per update, over all processes and accumulated batches; as a multiple of
    ``forward_seconds``, to which it is rounded."""

    forward_seconds: float = 60.0
    """Seconds of audio (with padding) that one process holds in one forward pass; memory."""

    max_seconds: float = 20.0
    """Longer cuts are cropped at random in pretraining and left out, with a warning, in
    fine-tuning."""

    min_seconds: float = 0.4
    """Shorter cuts are left out."""

    length_noise: float = 0.03
    """How much the lengths of cuts that share a batch may differ, as a share: more mixes the cuts
    better and pads more (0.03: about 2 % padding)."""

    threads: int = 2
    """Threads that decode audio ahead of training."""

    cache_gb: float = 2.0
    """Decoded audio kept in memory, in gigabytes (4.6 hours each)."""

    def __post_init__(self) -> None:
        for name in ("batch_seconds", "forward_seconds"):
            require(0 < getattr(self, name) < math.inf, name, "positive", getattr(self, name))
        require(
            self.max_seconds <= self.forward_seconds,
            "max_seconds",
            f"at most forward_seconds ({self.forward_seconds})",
            self.max_seconds,
        )
        require(self.min_seconds >= 0.05, "min_seconds", "at least 0.05", self.min_seconds)
        rule = f"at least min_seconds ({self.min_seconds})"
        require(self.max_seconds >= self.min_seconds, "max_seconds", rule, self.max_seconds)
        require(0 <= self.length_noise < 1, "length_noise", "in [0, 1)", self.length_noise)
        require(self.threads >= 1, "threads", "at least 1", self.threads)
        require(0 <= self.cache_gb < math.inf, "cache_gb", "0 or more", self.cache_gb)

    def num_forwards(self) -> int:
        """Forward passes per update over all processes."""
        return max(1, round(self.batch_seconds / self.forward_seconds))

    def forwards_each(self, processes: int) -> int:
        """Forward passes per update of each of ``processes``. Raises ``ConfigError`` where they
        cannot share them evenly."""
        forwards = self.num_forwards()
        if forwards % processes:
            raise ConfigError(
                f"data: one update is {forwards} forward passes (batch_seconds "
                f"{self.batch_seconds} / forward_seconds {self.forward_seconds}), which "
                f"{processes} processes cannot share evenly; make batch_seconds a multiple of "
                f"{processes * self.forward_seconds}."
            )
        return forwards // processes


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

    lr: float = 5e-4
    """Peak learning rate."""

    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.01
    """Of all weights, norms and biases too, as in the authors' code of wav2vec 2.0 and HuBERT."""

    def __post_init__(self) -> None:
        require(0 < self.lr < math.inf, "lr", "positive", self.lr)
        require(all(0 <= beta < 1 for beta in self.betas), "betas", "in [0, 1)", self.betas)
        require(0 <= self.eps < math.inf, "eps", "0 or more", self.eps)
        decay = self.weight_decay
        require(0 <= decay < math.inf, "weight_decay", "0 or more", decay)


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over the run."""

    kind: Literal["tri_stage", "polynomial"] = "polynomial"
    """``tri_stage``: rise, hold, exponential fall. ``polynomial``: rise, linear fall."""

    warmup: float = 0.1
    """Share of the updates over which the rate rises."""

    hold: float = 0.4
    """Share of the updates at the peak (``tri_stage`` only)."""

    final_scale: float = 0.01
    """Rate at the end, as a share of the peak."""

    def __post_init__(self) -> None:
        require(0 <= self.warmup < 1, "warmup", "from 0 to below 1", self.warmup)
        if self.kind == "tri_stage":
            fits = 0 <= self.hold <= 1 - self.warmup
            require(fits, "hold", "between 0 and 1 - warmup", self.hold)
            rule = "positive, because the rate falls exponentially"
            require(self.final_scale > 0, "final_scale", rule, self.final_scale)
        scale = self.final_scale
        require(0 <= scale < math.inf, "final_scale", "0 or more", scale)


@dataclass(frozen=True)
class TrainingConfig:
    """The run itself."""

    updates: int = 10_000
    precision: Literal["bf16", "fp32"] = "bf16"
    """``bf16`` computes under autocast; weights and optimizer stay in float32."""

    compile: bool = False
    """Compile the transformer layers (torch.compile). Meant for GPUs: on a CPU it gains nothing."""

    data_parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several processes share the model. ``ddp``: each has all of it. ``fsdp``: each keeps a
    share of every layer's weights, gradients and optimizer state, for models that do not fit."""

    max_grad_norm: float = 5.0
    """Norm to which larger gradients are scaled down; ``.inf`` leaves all as they are."""

    log_every: int = 50
    """Updates between lines of metrics."""

    validate_every: int = 500
    """Updates between validations, each of which also writes a checkpoint."""

    keep_last: int = 1
    """The latest checkpoints that are kept; a run goes on from the last."""

    keep_best: int = 1
    """The checkpoints with the best validation score that are kept besides."""

    def __post_init__(self) -> None:
        for name in ("updates", "log_every", "validate_every", "keep_last", "keep_best"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.max_grad_norm > 0, "max_grad_norm", "positive", self.max_grad_norm)
        require(
            self.validate_every % self.log_every == 0,
            "validate_every",
            f"a multiple of log_every ({self.log_every})",
            self.validate_every,
        )


@dataclass(frozen=True)
class PretrainRecipe:
    """A pretraining run: one encoder, one objective."""

    model: dict[str, Any] = field(default_factory=lambda: {"preset": "base"})
    """``preset`` and the encoder settings that differ from it."""

    objective: dict[str, Any] = field(default_factory=dict)
    """``kind`` (a file in speechssl/objectives/) and the settings that differ from its defaults."""

    speeds: tuple[float, ...] = ()
    """Speed factors, one drawn per recording; empty leaves the audio as it is."""

    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        _check_speeds(self.speeds)


@dataclass(frozen=True)
class FinetuneConfig:
    """What fine-tuning adds to the encoder, after wav2vec 2.0 (arXiv 2006.11477, section 4.3)."""

    freeze_encoder: float = 0.1
    """Share of the updates during which only the CTC head learns; none from scratch."""

    freeze_frontend: bool = True
    """Keep the convolutions of a pretrained ``waveform`` frontend as they are; from scratch they
    learn."""

    dropout: float = 0.1
    """Dropout before the CTC head."""

    time_mask: float = 0.25
    """Share of the frames in masked time spans, if no two overlapped; at least two spans."""

    time_mask_span: int = 10
    """Frames of a time span."""

    channel_mask: float = 0.1
    """Share of the encoder's input channels in masked channel spans, likewise; at least two."""

    channel_mask_span: int = 32
    """Channels of a channel span."""

    speeds: tuple[float, ...] = ()
    """Speed factors, one drawn per recording; empty leaves the audio as it is. A recording too
    short for its transcript at the speed drawn stays as it is."""

    margins: float = 0.0
    """Up to how many seconds of quiet each recording gets before and behind its sound, drawn anew
    each time, so that the network learns neither where sound begins nor in which frames it stands.
    0 leaves the audio as it is."""

    intermediate_ctc: float = 0.0
    """Weight, from 0 to 1, of the same CTC loss of the encoder without its upper half, which then
    has to spell too (intermediate CTC: Lee and Watanabe 2021, arXiv 2102.03216)."""

    consistency: float = 0.0
    """Weight of how far two views of each recording, with masks and dropout of their own, disagree
    in each frame (consistency-regularised CTC: Yao et al. 2024, arXiv 2410.05101). Above 0, each
    update computes every recording twice. 0.2 in the paper."""

    blank_penalty: float = 0.0
    """What the blank of the trained recogniser loses in log-probability against all other tokens.
    With ``consistency`` frames of which the network is not sure tend to the blank, and letters go
    missing."""

    tokens: Literal["characters", "bpe", "phones"] = "characters"
    """What the recogniser writes: the characters of the training transcripts, these and frequent
    sequences of them (byte-pair encoding), or the phones of ``lexicon``."""

    vocabulary: int = 200
    """Number of tokens with ``bpe``."""

    lexicon: str | None = None
    """``phones``: a pronouncing lexicon, a word and its phones per line (``hello HH AH L OW``).
    Of a word with several lines the first is learnt. Decoding needs it again to write words."""

    adapter_rank: int = 0
    """Rank of the low-rank adapters (LoRA) that are trained in place of the encoder, which stays
    as it is; 0 trains the encoder itself."""

    adapter_scale: float = 2.0
    """What the adapters' change is multiplied by (alpha / rank in LoRA)."""

    def __post_init__(self) -> None:
        phones = self.tokens == "phones"
        wanted = "a file with tokens=phones, and only then"
        require(phones == (self.lexicon is not None), "lexicon", wanted, self.lexicon)
        require(0 <= self.dropout < 1, "dropout", "in [0, 1)", self.dropout)
        require(self.adapter_rank >= 0, "adapter_rank", "0 or more", self.adapter_rank)
        require(self.adapter_scale > 0, "adapter_scale", "positive", self.adapter_scale)
        require(0 <= self.freeze_encoder < 1, "freeze_encoder", "in [0, 1)", self.freeze_encoder)
        require(0 <= self.time_mask < 1, "time_mask", "in [0, 1)", self.time_mask)
        require(0 <= self.channel_mask < 1, "channel_mask", "in [0, 1)", self.channel_mask)
        for name in ("time_mask_span", "channel_mask_span"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        _check_speeds(self.speeds)
        require(0 <= self.margins <= 5, "margins", "from 0 to 5", self.margins)
        weight = self.intermediate_ctc
        require(0 <= weight < 1, "intermediate_ctc", "at least 0 and below 1", weight)
        require(self.consistency >= 0, "consistency", "0 or more", self.consistency)
        require(self.blank_penalty >= 0, "blank_penalty", "0 or more", self.blank_penalty)


@dataclass(frozen=True)
class FinetuneRecipe:
    """A fine-tuning run: an encoder, a CTC head, transcripts."""

    model: dict[str, Any] = field(default_factory=dict)
    """Encoder settings that differ from the pretrained ones (dropout, layer drop); the whole
    encoder, as in ``PretrainRecipe``, with ``--init none``."""

    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(kind="tri_stage"))
    training: TrainingConfig = field(default_factory=TrainingConfig)


def _check_speeds(speeds: Sequence[float]) -> None:
    for speed in speeds:
        require(0.5 <= speed <= 2, "speeds", "between 0.5 and 2", speed)


RecipeT = TypeVar("RecipeT", PretrainRecipe, FinetuneRecipe)


def load_recipe(
    kind: type[RecipeT],
    path: Path | str,
    overrides: Sequence[str] = (),
    *,
    targets: str | None = None,
) -> RecipeT:
    """Reads a recipe, its parents and ``setting=value`` overrides; ``targets`` is a name that
    takes the place of ``data.targets``, as it stands (an override "100" would be a number).

    Raises ``ConfigError`` naming the file and the setting where something is wrong.
    """
    values = read_with_parents(Path(path))
    _check_kind(kind, values, path)
    for text in overrides:
        override = parse_override(text)
        _check_section(kind, next(iter(override)), text)
        values = merge(values, override)
    if targets is not None:
        values = merge(values, {"data": {"targets": targets}})
    return build(kind, values, str(path))


def _check_section(kind: type[Any], name: str, override: str) -> None:
    """Raises ``ConfigError`` where no recipe has ``name`` at its top; says which section has it."""
    sections = get_type_hints(kind)
    if name in sections:
        return
    settings = {**sections, "model": EncoderConfig}
    places = [
        section
        for section in sections
        if name in getattr(settings[section], "__dataclass_fields__", ())
    ]
    if places:
        complete = " or ".join(f"{section}.{override}" for section in places)
        raise ConfigError(f"override {override!r}: lacks its section; write {complete}.")
    raise ConfigError(unknown_key(f"override {override!r}", name, list(sections)))


def _check_kind(kind: type[Any], values: dict[str, Any], path: Path | str) -> None:
    """Raises ``ConfigError`` where a recipe is meant for the other command."""
    if kind is FinetuneRecipe and "objective" in values:
        raise ConfigError(f"{path}: is a recipe to pretrain; give one to fine-tune (ctc_*.yaml).")
    if kind is PretrainRecipe and "finetune" in values:
        raise ConfigError(f"{path}: is a recipe to fine-tune; give one with an objective.")


def encoder_settings(model: Mapping[str, Any]) -> EncoderConfig:
    """The encoder that a recipe's ``model`` section describes. Raises ``ConfigError``."""
    settings = dict(model)
    preset = settings.pop("preset", None)
    if preset is None:
        raise ConfigError(
            "model: has no `preset`; name one, as in `preset: tiny`, or start from a model with "
            "--init."
        )
    return encoder_config(str(preset), settings)


def read_with_parents(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The recipe's settings laid over its parent's; ``parent`` is a path beside the file."""
    values = read_yaml(path)
    parent = values.pop("parent", None)
    if parent is None:
        return values
    if path.resolve() in seen:
        raise ConfigError(f"{path}: is its own parent; remove one `parent` from the circle.")
    parents = read_with_parents(path.parent / str(parent), (*seen, path.resolve()))
    return merge(parents, values)
