"""Schedules of time, one formula per file."""
