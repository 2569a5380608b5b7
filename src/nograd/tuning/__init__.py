"""Tuning: candidates built, proven, measured, and one chosen."""
