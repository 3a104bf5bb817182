"""Penstock inside frameworks of others. Each integration has an extra of its own, and the core knows none of them."""
