// Sends a page's events to a questlog collector, each exactly once:
//   <script src="https://events.example.com/v1/questlog.js" data-key="qlk_..."></script>
//   <script>questlog.track("level_failed", { level: 3 })</script>
// An event stays in localStorage until its receipt has arrived. The collector recognizes a resent event by its id.
(function () {
  "use strict";
  var script = document.currentScript || { src: location.href, dataset: {} };
  var url = (script.dataset.url || script.src).replace(/(\/v1\/questlog\.js)?\/?([?#].*)?$/, "") + "/v1/events";
  var key = script.dataset.key;
  var PREFIX = "questlog.event.", MOST_WAITING = 2000, SESSION_MS = 30 * 60000, BATCH_CHARS = 200000;
  var BEACON_CHARS = 20000; // browsers accept 64 KiB of beacons at a time, and a character may take three bytes
  var LEFT_MS = 20 * 3600000; // within the 24 hours of a plan's dedup_hours
  var FIRST_WAIT = 1000, LONGEST_WAIT = 60000, GATHER = 300, TIMEOUT = 30000;
  var most = 100, failures = 0, waitUntil = 0, timer = 0, sending = null, warned = "", tracked = 0;

  // A page without storage keeps its events and its player in memory.
  function storage(name) {
    try {
      var area = window[name];
      area.setItem("questlog.try", "1");
      area.removeItem("questlog.try");
      return area;
    } catch (error) {
      return null;
    }
  }
  var disk = storage("localStorage"), tab = storage("sessionStorage"), memory = {};

  function get(where, name) {
    return name in memory ? memory[name] : where && where.getItem(name);
  }
  function set(where, name, value) {
    try {
      where.setItem(name, value);
      delete memory[name];
    } catch (error) {
      memory[name] = value;
    }
  }
  function remove(name) {
    delete memory[name];
    if (disk) disk.removeItem(name);
  }
  // Names start with the time, so that sorting them sorts the events.
  function waiting() {
    var names = Object.keys(memory).concat(disk ? Object.keys(disk) : []);
    return names.filter(function (name) { return name.indexOf(PREFIX) === 0; }).sort();
  }
  function random() {
    var parts = crypto.getRandomValues(new Uint8Array(16));
    return Array.prototype.map.call(parts, function (part) { return (part + 256).toString(16).slice(1); }).join("");
  }
  function player() {
    var id = get(disk, "questlog.player");
    if (!id) set(disk, "questlog.player", (id = random()));
    return id;
  }
  // Each tab is a session, until half an hour passes without an event; the sequence counts its events.
  function session(now) {
    var current = null;
    try {
      current = JSON.parse(get(tab, "questlog.session"));
    } catch (error) { /* not ours: start a new one */ }
    if (!current || !current.id || !(now - current.last < SESSION_MS)) current = { id: random(), sequence: 0 };
    current.last = now;
    return current;
  }
  // Warns once about each new problem; an empty text means that it is over.
  function warn(text, detail) {
    if (text === warned) return;
    warned = text;
    if (text) console.warn("questlog: " + text, detail || "");
  }

  function track(type, fields) {
    if (typeof type !== "string" || !type) throw new TypeError("questlog.track requires an event type");
    if (waiting().length >= MOST_WAITING) {
      warn(MOST_WAITING + " events are waiting; new ones are dropped until some have been sent");
      return "";
    }
    var now = Date.now(), current = session(now), id = (fields && fields.event_id) || random();
    current.sequence += 1;
    var body = JSON.stringify(Object.assign({}, fields, {
      event_type: type, event_id: String(id), event_time: new Date(now).toISOString(),
      player_id: player(), session_id: current.id, sequence: current.sequence,
    }));
    tracked += 1;
    set(tab, "questlog.session", JSON.stringify(current));
    set(disk, PREFIX + now + "." + (tracked + 1e6) + "." + random().slice(0, 8), body);
    schedule(GATHER);
    return String(id);
  }
  function identify(id, traits) {
    set(disk, "questlog.player", String(id));
    return track("identify", traits);
  }

  function schedule(ms) {
    if (timer || sending) return;
    timer = setTimeout(function () { timer = 0; flush(); }, Math.max(ms, waitUntil - Date.now()));
  }
  // Returns the oldest events: [names, bodies]. An event that was handed to a beacon is sent again while the collector
  // is sure to remember its id; later it would probably count twice.
  function take(names, events, chars) {
    var chosen = [], bodies = [], size = 0;
    for (var name of names.slice(0, events)) {
      var kept = get(disk, name);
      if (kept === null) continue; // another tab has sent it
      var parts = kept.split("\n"), body = parts[0];
      if (Date.now() - parts[1] > LEFT_MS) {
        remove(name);
        continue;
      }
      size += body.length + 1;
      if (chosen.length && size > chars) break;
      chosen.push(name);
      bodies.push(body);
    }
    return [chosen, bodies];
  }
  // Key and time are in the URL, because headers of our own would need a preflight request.
  function address() {
    return url + "?sent_time=" + Date.now() + (key ? "&key=" + encodeURIComponent(key) : "");
  }

  // Resolves to whether every event has been sent. Where there are Web Locks, one tab sends at a time.
  function flush() {
    if (sending) return sending;
    clearTimeout(timer);
    timer = 0;
    if (Date.now() < waitUntil) {
      schedule(0);
      return Promise.resolve(!waiting().length);
    }
    var work = navigator.locks
      ? navigator.locks.request("questlog", { ifAvailable: true }, function (lock) { return lock ? drain() : false; })
      : drain();
    sending = work.catch(function (error) { return fail("sending failed: " + error); }).then(function () {
      sending = null;
      var left = waiting().length;
      if (left) schedule(FIRST_WAIT);
      return !left;
    });
    return sending;
  }
  async function drain() {
    for (;;) {
      var batch = take(waiting(), most, BATCH_CHARS);
      if (!batch[0].length) return;
      if (!(await send(batch[0], batch[1]))) return;
    }
  }
  // Returns whether to continue at once.
  async function send(names, bodies) {
    var response, text, stop = new AbortController(), body = "[" + bodies.join(",") + "]";
    var late = setTimeout(function () { stop.abort(); }, TIMEOUT);
    try {
      response = await fetch(address(), {
        method: "POST", body: body, headers: { "Content-Type": "text/plain" }, credentials: "omit", mode: "cors",
        keepalive: body.length < BEACON_CHARS, signal: stop.signal, cache: "no-store",
      });
      text = await response.text();
    } catch (error) {
      return fail(navigator.onLine === false ? "" : "no response from the collector; events are waiting");
    } finally {
      clearTimeout(late);
    }
    if (response.status === 413 && names.length > 1) {
      most = Math.floor(names.length / 2);
      return true;
    }
    if (response.status === 413) return settle(names, bodies, [{ outcome: "rejected", reason: "too_large" }]);
    var receipts = response.status === 200 && parse(text).receipts;
    if (Array.isArray(receipts) && receipts.length === names.length) return settle(names, bodies, receipts);
    var after = Number(response.headers.get("Retry-After")) * 1000;
    if (response.status === 401 || response.status === 403) after = after || LONGEST_WAIT;
    return fail("the collector responded with " + response.status + "; events are waiting", text.slice(0, 300), after);
  }
  function parse(text) {
    try {
      return JSON.parse(text) || {};
    } catch (error) {
      return {};
    }
  }
  function settle(names, bodies, receipts) {
    names.forEach(function (name, index) {
      var outcome = receipts[index].outcome;
      if (outcome === "quarantined" || outcome === "rejected") {
        var problem = Object.assign({}, receipts[index], { event: parse(bodies[index]) });
        if (typeof api.onproblem === "function") {
          try { api.onproblem(problem); } catch (error) { console.error(error); }
        } else console.warn("questlog: " + outcome + " " + receipts[index].reason, problem);
      }
      remove(name);
    });
    most = Math.min(100, most * 2);
    failures = waitUntil = 0;
    warn("");
    return true;
  }
  // Backs off exponentially with jitter, so that a thousand pages do not retry at once.
  function fail(text, detail, after) {
    var wait = Math.min(LONGEST_WAIT, FIRST_WAIT * Math.pow(2, failures++)) * (0.5 + Math.random() / 2);
    waitUntil = Date.now() + Math.max(wait, Math.min(after || 0, 3600000));
    warn(text, detail);
    return false;
  }

  // The page ends and cannot read the response, so the events stay stored; the next page resends them as duplicates.
  function leave() {
    var names = waiting();
    while (names.length) {
      var batch = take(names, most, BEACON_CHARS);
      if (!batch[0].length) break;
      var text = new Blob(["[" + batch[1].join(",") + "]"], { type: "text/plain" });
      if (!navigator.sendBeacon || !navigator.sendBeacon(address(), text)) break;
      batch[0].forEach(function (name, index) {
        if (get(disk, name) === batch[1][index]) set(disk, name, batch[1][index] + "\n" + Date.now());
      });
      names = names.slice(names.indexOf(batch[0][batch[0].length - 1]) + 1);
    }
  }
  addEventListener("pagehide", leave);
  addEventListener("online", function () {
    failures = waitUntil = 0;
    flush();
  });
  document.addEventListener("visibilitychange", function () {
    if (document.visibilityState === "hidden") flush();
  });

  var api = {
    track: track, identify: identify, flush: flush, onproblem: null,
    waiting: function () { return waiting().length; },
    get player() { return player(); },
    get session() { return session(Date.now()).id; },
  };
  window.questlog = api;
  if (waiting().length) schedule(0);
})();
