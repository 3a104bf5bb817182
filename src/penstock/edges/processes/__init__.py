"""Sending by several processes. This one alone holds input, limits, ledger and output; each call crosses to a sending process
once it was admitted, and its answer crosses back. A call goes through the files so:

    transport  ->  link (one sending process)  ->  frames  ->  sender (in the other process)  ->  a `Transport` of its own

Nothing is decided over there: no limit, no retry, no row is known to a sending process. It keeps nothing that a crash could lose.
"""

# Nothing is imported here: a sending process comes through, and needs the sender alone.
