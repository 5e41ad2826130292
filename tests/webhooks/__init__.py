"""Webhooks, against receivers that behave in every way."""
