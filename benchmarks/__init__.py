"""How fast and how exact the service is, beside others doing the same job."""
