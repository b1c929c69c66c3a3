"""From run folders to a verdict: results, statistics, claims, audit, tables, figures and page."""
