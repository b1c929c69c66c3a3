"""Every figure of the report, the paper's and those that explain and qualify its tables."""
