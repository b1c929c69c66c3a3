"""From the records of runs to tables, figures, verdicts and the page.

Each room imports only what stands before it: words, results, protocol; paper; verdict; tables;
figures; page.
"""
