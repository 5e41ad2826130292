"""Tests of webhooks, with receivers that behave well and badly."""
