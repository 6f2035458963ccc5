"""Events about what nobody did: balances that became low, and credits that are about to expire."""
