"""What providers tell: the inbox of their webhooks, the worker that applies them, and asking for what was lost."""
