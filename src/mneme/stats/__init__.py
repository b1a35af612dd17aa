"""Intervals, tests, multiplicity, censored lags, and the one result row type."""
