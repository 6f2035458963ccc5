"""Benchmarks: each figure is a ratio to a peer that runs on the same machine at the same time.

Absolute rates depend on the machine more than on the code, so targets are set for ratios only.
"""
