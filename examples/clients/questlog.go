// Sends one event to the collector at QUESTLOG_URL with the write key QUESTLOG_KEY: go run questlog.go
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

type Event map[string]any

// NewEvent gives the event its id once, before the first attempt, so an event that arrives twice counts once.
func NewEvent(kind, player string, fields Event) Event {
	id := make([]byte, 16)
	rand.Read(id)
	event := Event{"event_type": kind, "player_id": player, "event_id": hex.EncodeToString(id),
		"event_time": time.Now().UTC().Format(time.RFC3339Nano)}
	for name, value := range fields {
		event[name] = value
	}
	return event
}

// Send returns the receipts of a batch; it retries until the collector has acknowledged it.
func Send(url, key string, events []Event) (string, error) {
	body, err := json.Marshal(events)
	if err != nil {
		return "", err
	}
	client := &http.Client{Timeout: 30 * time.Second}
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		request, err := http.NewRequest("POST", strings.TrimRight(url, "/")+"/v1/events", bytes.NewReader(body))
		if err != nil {
			return "", err
		}
		request.Header.Set("Authorization", "Bearer "+key)
		request.Header.Set("Content-Type", "application/json")
		wait := pause
		answer, err := client.Do(request)
		if err != nil {
			fmt.Fprintln(os.Stderr, "no response, retrying:", err)
		} else {
			said, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			switch {
			case err == nil && answer.StatusCode == 200:
				return string(said), nil
			case err == nil && answer.StatusCode < 500 && answer.StatusCode != 429:
				return "", fmt.Errorf("%s: %s", answer.Status, said) // 401: wrong key; 413: send fewer events
			}
			fmt.Fprintln(os.Stderr, "retrying after status", answer.Status)
			if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil {
				wait = max(wait, time.Duration(seconds)*time.Second)
			}
		}
		time.Sleep(wait)
	}
}

func main() {
	event := NewEvent("level_failed", "ann", Event{"level": 3, "client": "go"})
	receipts, err := Send(os.Getenv("QUESTLOG_URL"), os.Getenv("QUESTLOG_KEY"), []Event{event})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(receipts)
}
