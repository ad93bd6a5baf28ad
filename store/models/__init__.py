"""The network and the PCA versions of a home."""
