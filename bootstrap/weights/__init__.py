"""The network and where its weights come from."""
