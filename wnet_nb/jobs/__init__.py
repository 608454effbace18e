"""Whole jobs on files: check, train, segment, evaluate, and the folders they write."""
