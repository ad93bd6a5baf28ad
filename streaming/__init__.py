"""The long-running job: discovery, the Spark source, the executor task, the service."""
