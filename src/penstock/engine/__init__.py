"""Flow: how one request moves and how many do. asyncio, and no I/O of its own."""
