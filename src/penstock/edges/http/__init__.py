"""The pooled HTTP/1.1 client. `HttpTransport` is what the rest of Penstock sees. A request goes through the files so:

    transport  ->  wire (head bytes)  ->  pool (which connection)  ->  dial (turns, resolver, proxies, tunnel, tls)
                                              |
                                          connection  ->  exchange (parse, limits, time-outs)  ->  answer, or streaming

No redirects, no cookies, no compression: APIs need none of them, and what is absent cannot be attacked.
"""

from penstock.edges.http.pool import Statistics
from penstock.edges.http.resolver import forbid_network, network_is_forbidden
from penstock.edges.http.streaming import AnswerStream
from penstock.edges.http.transport import HttpTransport

__all__ = ["AnswerStream", "HttpTransport", "Statistics", "forbid_network", "network_is_forbidden"]
