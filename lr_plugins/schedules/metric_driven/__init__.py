"""Schedules that observe a metric."""
