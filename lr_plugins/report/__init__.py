"""Looking at runs: pictures and summaries."""
