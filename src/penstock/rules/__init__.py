"""Decisions. No event loop, no clock, no chance, no network, no disk: all of it comes in as an argument."""
