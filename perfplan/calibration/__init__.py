"""Fit constants of kernels and links to measurements, and error bands to the residuals of predictions."""
