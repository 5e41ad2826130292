"""Measurements of the service, as ratios against raw pymongo that does the same work in the same run."""
