"""Bounds, certificates and integer programmes."""
