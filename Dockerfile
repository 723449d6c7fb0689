# questlog with everything that the cluster profile needs, including Java for its Spark driver.
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends openjdk-17-jre-headless \
    && rm -rf /var/lib/apt/lists/*
COPY requirements/cluster.txt /build/requirements/cluster.txt
RUN pip install --no-cache-dir --require-hashes -r /build/requirements/cluster.txt
COPY pyproject.toml README.md LICENSE /build/
COPY examples/swords /build/examples/swords
COPY src /build/src
RUN pip install --no-cache-dir hatchling \
    && pip install --no-cache-dir --no-deps --no-build-isolation /build \
    && useradd --create-home questlog && install -d -o questlog /game
USER questlog
WORKDIR /game
ENTRYPOINT ["questlog"]
CMD ["--help"]
