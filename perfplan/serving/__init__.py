"""Serving: what one step of an engine costs, and what follows from it."""
