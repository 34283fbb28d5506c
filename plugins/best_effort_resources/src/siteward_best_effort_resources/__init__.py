"""siteward resource manager that says yes to every job, promises nothing, and says so."""
