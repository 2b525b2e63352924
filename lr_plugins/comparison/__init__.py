"""Several runs beside each other: statistics, tables and pages."""
