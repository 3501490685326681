"""Measurements of quality and speed; see README.md. They report, never assert."""
