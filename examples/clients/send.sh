#!/bin/sh
# Send one event to the collector at $QUESTLOG_URL with the write key $QUESTLOG_KEY, and retry until it responds.
# The id is generated once, before the first attempt, so an event that arrives twice counts once.
set -eu
id=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
event="{\"event_type\":\"level_failed\",\"event_id\":\"$id\",\"event_time\":\"$now\",\"player_id\":\"ann\",\"level\":3,\"client\":\"curl\"}"

# Retry without a response and after 408, 429 and 5xx, with growing delays, and at least as long as Retry-After.
exec curl --silent --show-error --fail-with-body --max-time 30 --retry 20 --retry-connrefused --retry-max-time 600 \
  -H "Authorization: Bearer $QUESTLOG_KEY" -H "Content-Type: application/json" \
  -d "$event" "$QUESTLOG_URL/v1/events"
