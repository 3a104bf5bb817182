"""Translation: a `Request` to an HTTP call, an HTTP answer to a `Response` or a typed error.

Pure: no clock, chance, disk, network or environment; what they would give comes in as an argument. A provider here
never decides what follows from an error; the rules do.
"""
