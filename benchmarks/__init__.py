"""Speed, measured side by side: each figure is a ratio to a peer that ran in the same minutes on the same machine.

Absolute rates say more about a machine than about the code on it, so nothing here is judged by them.
"""
