# Godot 4: make this an autoload named Questlog, set url and key, then call
#   Questlog.track("level_failed", {"level": 3})
# Events wait in a file on the player's device until the collector has acknowledged them.
extends Node

const FILE := "user://questlog_events.jsonl"

var url := "https://events.example.com"
var key := ""
var player := OS.get_unique_id()
var session := _new_id()
var sequence := 0
var waiting: PackedStringArray = []
var most_at_once := 100


func _ready() -> void:
	for line in FileAccess.get_file_as_string(FILE).split("\n", false):
		if line.ends_with("}"):  # a crash may have left a truncated line
			waiting.append(line)
	_send_forever()


func track(event_type: String, fields: Dictionary = {}) -> void:
	sequence += 1
	var event := fields.duplicate()
	# The id is generated once, before the first attempt, so an event that arrives twice counts once.
	event.merge({
		"event_type": event_type, "event_id": _new_id(), "player_id": player, "session_id": session,
		"event_time": int(Time.get_unix_time_from_system() * 1000), "sequence": sequence,
	}, true)
	waiting.append(JSON.stringify(event))
	_save()


func _send_forever() -> void:
	var http := HTTPRequest.new()
	http.timeout = 30
	add_child(http)
	var pause := 1.0
	while true:
		while waiting.is_empty():
			await get_tree().create_timer(0.5).timeout
		var count := mini(most_at_once, waiting.size())
		var body := "[" + ",".join(waiting.slice(0, count)) + "]"
		var headers := ["Content-Type: application/json", "Authorization: Bearer " + key]
		var status := 0
		var answer: Array = []
		if http.request(url + "/v1/events", headers, HTTPClient.METHOD_POST, body) == OK:
			answer = await http.request_completed  # result, status, headers, body
			status = answer[1]
		if status == 200:
			waiting = waiting.slice(count)
			_save()
			pause = 1.0
			continue
		if status == 413 and most_at_once > 1:
			most_at_once = maxi(1, count / 2)
			continue
		push_warning("questlog: status %d" % status)  # 401: the key is wrong. The events are kept in any case.
		var wait := pause * randf_range(0.5, 1.0)
		for header: String in (answer[2] if answer else []):
			if header.to_lower().begins_with("retry-after:"):
				wait = maxf(wait, header.get_slice(":", 1).strip_edges().to_float())
		await get_tree().create_timer(wait).timeout
		pause = minf(60.0, pause * 2)


func _save() -> void:
	var file := FileAccess.open(FILE + ".new", FileAccess.WRITE)
	if file == null:
		return  # such as on a full disk: the events are still sent while the game runs
	for line in waiting:
		file.store_line(line)
	file.close()
	DirAccess.rename_absolute(FILE + ".new", FILE)


func _new_id() -> String:
	return Crypto.new().generate_random_bytes(16).hex_encode()
