"""The work of one executor task: fetch, decode, featurize, write."""
