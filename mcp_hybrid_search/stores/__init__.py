"""The backends behind the engine: the ledger and the Edge index."""
