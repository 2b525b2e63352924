"""Comparing several runs: statistics, tables and pages."""
