"""Re-rating of recorded usage: what it would do, and the jobs that do it."""
