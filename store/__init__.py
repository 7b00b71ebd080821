"""Responses, chains, jobs and event logs over Redis."""
