"""Statistics of usage: sums by window and dimension, and how they develop."""
