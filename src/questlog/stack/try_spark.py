"""Run one task on a Spark master, in a separate process: the health check of Spark's workers."""

from __future__ import annotations

import sys


def main(master: str) -> None:
    """Run a task in Python on *master* and print its result."""
    from pyspark import SparkConf, SparkContext

    conf = SparkConf().setMaster(master).setAppName("questlog health").set("spark.ui.enabled", "false")
    conf.set("spark.cores.max", "1").set("spark.executor.memory", "512m").set("spark.log.level", "OFF")
    conf.set("spark.driver.memory", "512m").set("spark.driver.host", "127.0.0.1")
    for side in ("driver", "executor"):  # for one task, the second compiler would cost more than the task
        conf.set(f"spark.{side}.extraJavaOptions", "-XX:+UseSerialGC -XX:TieredStopAtLevel=1")
    context = SparkContext(conf=conf)
    try:
        print(context.parallelize([20, 22], 1).map(int).sum())
    finally:
        context.stop()


if __name__ == "__main__":
    main(sys.argv[1])
