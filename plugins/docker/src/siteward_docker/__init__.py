"""siteward backend that runs jobs as Docker containers."""
