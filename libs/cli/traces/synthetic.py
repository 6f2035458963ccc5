"""A synthetic trace with the published statistics of real ones. The same seed makes the same file."""

import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from libs.cli.traces.trace import COLUMNS

CALLS: Final = 20_000
SEED: Final = 20_231_116

# Token lengths: the conversation service in P. Patel et al., "Splitwise: Efficient Generative LLM Inference Using Phase
# Splitting" (ISCA 2024) has a median prompt of 1,020 tokens and a median answer of 129, both with a long tail that the
# context window cuts; log-normal curves (median, spread, longest) come close.
_INPUT: Final = (1_020, 0.7, 14_000)
_OUTPUT: Final = (129, 0.95, 1_500)

# Arrivals: Y. Wang et al., "BurstGPT: A Real-World Workload Dataset to Optimize LLM Serving Systems" (2024) finds gaps
# between calls that are Gamma distributed with a shape below 1 (bursts), on top of a rate that moves with the hours.
_GAP_SHAPE: Final = 0.5
_GAP_MEAN_S: Final = 0.18
_WAVE_S: Final = 1_200
_WAVE_HEIGHT: Final = 0.4


def write_synthetic_trace(path: Path, calls: int = CALLS, seed: int = SEED) -> None:
    """Write a trace of about an hour of conversations."""
    source = random.Random(seed)
    start, elapsed_s = datetime(2024, 5, 14, 9, tzinfo=UTC), 0.0
    with path.open("w", newline="") as file:
        file.write(",".join(COLUMNS) + "\n")
        for _ in range(calls):
            rate = 1 + _WAVE_HEIGHT * math.sin(2 * math.pi * elapsed_s / _WAVE_S)
            elapsed_s += source.gammavariate(_GAP_SHAPE, _GAP_MEAN_S / _GAP_SHAPE) / rate
            time = start + timedelta(seconds=elapsed_s)
            input_tokens = _length(source, *_INPUT)
            output_tokens = _length(source, *_OUTPUT)
            file.write(f"{time:%Y-%m-%d %H:%M:%S.%f}0,{input_tokens},{output_tokens}\n")


def _length(source: random.Random, median: int, spread: float, longest: int) -> int:
    return max(1, min(longest, round(source.lognormvariate(math.log(median), spread))))
