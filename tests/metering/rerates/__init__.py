"""Re-rating of usage."""
