"""From waveforms to frames and context vectors: plain torch, no training code.

Shape letters: B batch, S samples, T frames, C frontend channels, D model size, V tokens.
"""
