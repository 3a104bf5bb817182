"""The web server: the guide's `/generate`, an OpenAI-compatible gateway and durable batches, over one engine.

It translates between HTTP and the engine, and decides who may ask. It never tries anything again, never keeps time or limits:
that is the engine's.
"""
