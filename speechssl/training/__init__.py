"""Training on fairseq2's engine.

fairseq2 looks for libsndfile when it is imported and finds the one that soundfile has loaded, so
soundfile comes first and no system package is needed.
"""

import soundfile  # noqa: F401
