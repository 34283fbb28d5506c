"""siteward plugins that decide what a site's failure reports tell."""
