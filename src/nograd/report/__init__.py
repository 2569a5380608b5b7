"""Reports for people and programs: figures, markup, plots, pages, findings."""
