"""The cluster's lander: a Spark stream over the topic, committed to Iceberg tables. Start with `lander.py`."""
