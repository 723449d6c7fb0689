// Unity: add this to an object in the first scene, set Url and Key in the inspector, then call
//   Questlog.Instance.Track("level_failed", "\"level\": 3");
// Events wait in a file on the player's device until the collector has acknowledged them.
using System;
using System.Collections;
using System.Collections.Generic;
using System.IO;
using System.Text;
using UnityEngine;
using UnityEngine.Networking;

public sealed class Questlog : MonoBehaviour
{
    public static Questlog Instance { get; private set; }

    public string Url = "https://events.example.com";
    public string Key = "";
    public int MostAtOnce = 100;

    private readonly string session = Guid.NewGuid().ToString("N");
    private List<string> waiting = new List<string>();
    private string file;
    private int sequence;

    private void Awake()
    {
        if (Instance != null) { Destroy(gameObject); return; }
        Instance = this;
        DontDestroyOnLoad(gameObject);
        file = Path.Combine(Application.persistentDataPath, "questlog-events.jsonl");
        if (File.Exists(file))
            // A crash may have left a truncated line.
            waiting = new List<string>(File.ReadAllLines(file)).FindAll(line => line.EndsWith("}"));
        StartCoroutine(SendForever());
    }

    // `fields` is the inside of a JSON object, such as JsonUtility.ToJson(x) without its braces.
    public void Track(string eventType, string fields = "")
    {
        // The id is generated once, before the first attempt, so an event that arrives twice counts once.
        var line = "{\"event_type\":\"" + eventType + "\",\"event_id\":\"" + Guid.NewGuid().ToString("N")
            + "\",\"event_time\":\"" + DateTime.UtcNow.ToString("yyyy-MM-ddTHH:mm:ss.fffZ")
            + "\",\"player_id\":\"" + SystemInfo.deviceUniqueIdentifier + "\",\"session_id\":\"" + session
            + "\",\"sequence\":" + (++sequence) + (fields == "" ? "" : "," + fields.Replace("\n", " ")) + "}";
        waiting.Add(line);
        File.AppendAllText(file, line + "\n");
    }

    private IEnumerator SendForever()
    {
        float pause = 1;
        while (true)
        {
            while (waiting.Count == 0) yield return new WaitForSecondsRealtime(0.5f);
            int count = Math.Min(MostAtOnce, waiting.Count);
            var body = Encoding.UTF8.GetBytes("[" + string.Join(",", waiting.GetRange(0, count)) + "]");
            using (var request = new UnityWebRequest(Url.TrimEnd('/') + "/v1/events", "POST"))
            {
                request.uploadHandler = new UploadHandlerRaw(body);
                request.downloadHandler = new DownloadHandlerBuffer();
                request.SetRequestHeader("Content-Type", "application/json");
                request.SetRequestHeader("Authorization", "Bearer " + Key);
                request.timeout = 30;
                yield return request.SendWebRequest();
                if (request.responseCode == 200)
                {
                    waiting.RemoveRange(0, count);
                    var rest = waiting.Count == 0 ? "" : string.Join("\n", waiting) + "\n";
                    File.WriteAllText(file + ".new", rest);
                    File.Delete(file);
                    File.Move(file + ".new", file);
                    pause = 1;
                    continue;
                }
                if (request.responseCode == 413 && MostAtOnce > 1) { MostAtOnce = Math.Max(1, count / 2); continue; }
                // 401: the key is wrong. The events are kept in any case.
                Debug.LogWarning("questlog: " + request.responseCode + " " + request.error + " " + request.downloadHandler.text);
                float.TryParse(request.GetResponseHeader("Retry-After"), out float after);
                yield return new WaitForSecondsRealtime(Math.Max(after, pause * UnityEngine.Random.Range(0.5f, 1f)));
                pause = Math.Min(60, pause * 2);
            }
        }
    }
}
