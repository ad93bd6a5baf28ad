"""The domain, free of Spark: objects, images, the featurizer, PCA arithmetic, models, tables, settings, errors."""
