"""siteward backend that runs jobs as local processes, kept by a small daemon that outlives its parents."""
