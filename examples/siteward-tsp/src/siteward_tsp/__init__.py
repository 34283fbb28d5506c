"""A siteward backend over task-spooler."""
