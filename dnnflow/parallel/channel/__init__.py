"""Carry vectors between replicas and servers: frames, connections, and the actor that opens them."""
