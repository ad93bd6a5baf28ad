"""The commands around a stage on AWS."""
