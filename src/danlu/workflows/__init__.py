"""Workflows that need both training and answers: demo, before/after report, scores."""
