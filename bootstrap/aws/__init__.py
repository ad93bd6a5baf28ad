"""A stage on AWS: templates, nodes, packages, deploy, destroy, cost."""
