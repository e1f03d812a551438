"""Who asks, and how much they may: sign-in with a wallet, sessions, API keys, quotas. Optional; see ADR 0023."""
