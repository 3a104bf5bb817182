"""A provider made of rules: limits, latency and faults, on loopback or in memory, so that no trial needs a key."""
