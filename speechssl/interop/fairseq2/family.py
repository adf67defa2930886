"""Our models as a family of fairseq2: its recipes and hubs load them by the names of their cards.

fairseq2 finds ``register`` by the entry point ``fairseq2.extension`` of this package. A card says
``model_family: speechssl_model``, the settings of the encoder (``model_arch`` names one of our
presets, ``model_config`` what differs), and ``checkpoint: model.safetensors`` of a model folder;
``speechssl export MODEL OUT --to fairseq2`` writes one for models that no family of fairseq2 has.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fairseq2.composition import register_model_family
from fairseq2.models import ModelFamily
from fairseq2.models.hub import ModelHubAccessor
from fairseq2.runtime.config_registry import ConfigRegistrar
from fairseq2.runtime.dependency import DependencyContainer
from torch import nn

from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import Encoder, EncoderConfig
from speechssl.models.presets import PRESETS

FAMILY = "speechssl_model"


@dataclass(kw_only=True)
class SpeechModelConfig:
    """What a card says of a model."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    vocabulary_size: int = 0
    """Outputs of the CTC head; 0 for an encoder alone."""


def create_model(config: SpeechModelConfig) -> nn.Module:
    """The ``CTCModel`` or ``Encoder`` of a configuration."""
    encoder = Encoder(config.encoder)
    return CTCModel(encoder, config.vocabulary_size) if config.vocabulary_size else encoder


def convert_state(state_dict: dict[str, object], config: SpeechModelConfig) -> dict[str, object]:
    """The tensors of a model folder by the names that they have in the model; those that only
    pretraining needs are left out."""
    prefix = "" if config.vocabulary_size else "encoder."
    kept = {name: value for name, value in state_dict.items() if not name.startswith("objective.")}
    return {name.removeprefix(prefix): value for name, value in kept.items()}


def register(container: DependencyContainer) -> None:
    """Adds the family and our presets to fairseq2; once is enough."""
    if FAMILY in container.iter_keys(ModelFamily):  # type: ignore[type-abstract]
        return
    register_model_family(
        container,
        FAMILY,
        nn.Module,
        SpeechModelConfig,
        factory=create_model,
        supports_meta=False,
        state_dict_converter=convert_state,
    )
    arch = ConfigRegistrar(container, SpeechModelConfig)
    for name, preset in PRESETS.items():
        arch(name)(lambda preset=preset: SpeechModelConfig(encoder=preset))


get_speech_model_hub = ModelHubAccessor(FAMILY, nn.Module, SpeechModelConfig)
"""Call it for the hub: ``get_speech_model_hub().load_model("my-card")``."""
