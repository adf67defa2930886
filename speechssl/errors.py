"""Errors that a user can mend.

Every message says what is wrong, where, and what to do about it. The command line prints the
message as one line and exits with status 2; anything else that escapes is a bug of ours.
"""

from __future__ import annotations


class SpeechSSLError(Exception):
    """Base of all errors that a user can mend."""


class AudioError(SpeechSSLError):
    """A recording is missing, unreadable, empty, truncated or not a number."""


class ManifestError(SpeechSSLError):
    """A ``cuts.jsonl.gz`` is missing, empty, malformed, or lacks what the command needs."""


class TargetsError(SpeechSSLError):
    """Frame targets are missing or do not fit the cuts, the codebook or the frame rate."""


class TokensError(SpeechSSLError):
    """A token list is malformed, or a transcript cannot be spelled with it."""


class ModelFolderError(SpeechSSLError):
    """A model folder is missing, incomplete, or its weights do not fit its configuration."""


class ConfigError(SpeechSSLError):
    """A recipe or configuration has an unknown key or a value out of range."""


class RunFolderError(SpeechSSLError):
    """An output folder holds another run or something else, or a run has no checkpoint."""


class CollapseError(SpeechSSLError):
    """A run has failed in a way that further updates do not mend (``--on-collapse stop``)."""


class MissingExtraError(SpeechSSLError):
    """An optional dependency is needed and not installed; the message names the extra."""


class CheckpointError(SpeechSSLError):
    """Another project's checkpoint is missing, damaged, of a kind that has no counterpart here, or
    does not give the same outputs after conversion."""


class LanguageModelError(SpeechSSLError):
    """A language model or lexicon is missing, malformed, or does not fit the model's tokens."""
