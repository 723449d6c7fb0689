"""Files for `spark-submit`, each a whole program; a folder of their own, since Spark puts it on Python's path."""
