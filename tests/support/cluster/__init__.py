"""Servers and clients of the cluster that the tests start themselves."""
