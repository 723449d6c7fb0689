"""Programs for `spark-submit`, in a folder of their own, because Spark adds it to Python's path."""
