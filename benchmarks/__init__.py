"""Measurements of quality and speed; see README.md. They report, never assert."""

import os

# As the command does, before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
