"""The companion jobs over the tables: the PCA refit, and projections that follow it."""
