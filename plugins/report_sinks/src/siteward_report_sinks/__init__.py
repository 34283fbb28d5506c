"""siteward plugins that take failure reports elsewhere."""
