"""speechssl: self-supervised pretraining for speech, and recognisers from few transcripts."""

__version__ = "0.1.0"
