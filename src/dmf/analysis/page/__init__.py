"""The report: one page for people, and the same content as Markdown."""
