"""Stands in for nnU-Net v2 in tests: the same calls, a known answer. See test_foreign.py."""
