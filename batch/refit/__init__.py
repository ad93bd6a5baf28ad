"""Fit the PCA anew."""
