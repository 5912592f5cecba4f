"""What the rows of a FileSet look like, column by column: counts, extremes, moments, quantiles, histograms."""
