"""Measurements as ratios against raw pymongo doing the same work in the same run."""
