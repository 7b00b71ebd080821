"""Engines: one protocol, and one file for each that follows it."""
