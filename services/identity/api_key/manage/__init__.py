"""Creating, changing, rotating and revoking keys, and the limits of what a key may be allowed."""
