"""Predictions against measurements: typed rows, jobs from rows, scores, published systems reproduced."""
