"""Other projects' checkpoints, both ways: one file or folder per project.

A conversion reads weights without executing anything (``weights``), renames tensors, and compares
the outputs of both sides before it writes (``certificate``).
"""
