"""siteward backend that runs jobs as Kubernetes pods."""
