import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.time.Instant;
import java.util.UUID;

/** Sends one event to the collector at QUESTLOG_URL with the write key QUESTLOG_KEY: java Questlog.java */
public final class Questlog {
    private final HttpClient http = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(10)).build();
    private final URI events;
    private final String key;

    public Questlog(String url, String key) {
        this.events = URI.create(url.replaceAll("/+$", "") + "/v1/events");
        this.key = key;
    }

    /** Returns the receipts of a JSON array of events; tries until the collector has answered for it. */
    public String send(String json) throws IOException, InterruptedException {
        HttpRequest request = HttpRequest.newBuilder(events)
            .timeout(Duration.ofSeconds(30))
            .header("Authorization", "Bearer " + key)
            .header("Content-Type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(json))
            .build();
        for (long pause = 1; ; pause = Math.min(2 * pause, 60)) {
            long wait = pause;
            try {
                HttpResponse<String> answer = http.send(request, HttpResponse.BodyHandlers.ofString());
                if (answer.statusCode() == 200) {
                    return answer.body();
                }
                if (answer.statusCode() < 500 && answer.statusCode() != 429) { // 401: wrong key; 413: send fewer events
                    throw new IllegalStateException(answer.statusCode() + ": " + answer.body());
                }
                System.err.println("retrying after status " + answer.statusCode());
                String after = answer.headers().firstValue("Retry-After").orElse("");
                if (after.matches("\\d{1,6}")) {
                    wait = Math.max(wait, Long.parseLong(after));
                }
            } catch (IOException error) {
                System.err.println("no response, retrying: " + error);
            }
            Thread.sleep(wait * 1000);
        }
    }

    public static void main(String[] arguments) throws Exception {
        // The id is generated once, before the first attempt, so an event that arrives twice counts once.
        // Use your JSON library for the fields.
        String event = String.format(
            "{\"event_type\": \"level_failed\", \"event_id\": \"%s\", \"event_time\": \"%s\","
                + " \"player_id\": \"ann\", \"level\": 3, \"client\": \"java\"}",
            UUID.randomUUID(), Instant.now());
        System.out.println(new Questlog(System.getenv("QUESTLOG_URL"), System.getenv("QUESTLOG_KEY")).send("[" + event + "]"));
    }
}
