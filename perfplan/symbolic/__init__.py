"""Explain, LaTeX, sensitivity and break-even; the only room that imports SymPy."""
