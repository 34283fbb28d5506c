"""siteward resource managers: GPUs that no two jobs share, lists of named units, and counted CPUs and memory."""
