//! Messages for chats: what happened in a sentence, what it is about, and links that decide.

use crate::decimal::plain;
use serde_json::{Map, Value, json};

/// Longest sentence of a message: well under what the chats take.
const MAX_TEXT: usize = 1_500;
/// Longest header; Slack takes 150 characters.
const MAX_TITLE: usize = 140;

/// A message for people.
#[derive(Debug)]
pub(super) struct Told {
    title: String,
    text: String,
    facts: Vec<(&'static str, String)>,
    /// A link to what started it.
    url: Option<String>,
    decide: Option<(String, String, Option<String>)>,
    mood: Mood,
}

/// How good the news are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Good,
    Plain,
    Asking,
    Bad,
}

impl Mood {
    fn of(kind: &str) -> Self {
        match kind {
            "release.succeeded" | "stage.passed" | "approval.granted" => Self::Good,
            "approval.requested" | "slo.no_data" | "release.paused" => Self::Asking,
            "slo.violated" | "release.reverting" | "release.reverted" | "approval.denied"
            | "alert.raised" => Self::Bad,
            _ => Self::Plain,
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Good => "✅",
            Self::Plain => "ℹ️",
            Self::Asking => "✋",
            Self::Bad => "🚨",
        }
    }

    fn color(self) -> u32 {
        match self {
            Self::Good => 0x2e_a0_43,
            Self::Plain => 0x57_60_6a,
            Self::Asking => 0xbf_87_00,
            Self::Bad => 0xcf_22_2e,
        }
    }
}

impl Told {
    pub(super) fn of(kind: &str, data: &Map<String, Value>) -> Self {
        let none = Value::Null;
        let release = data.get("release").unwrap_or(&none);
        let text = |name: &str| data.get(name).and_then(Value::as_str).map(str::to_owned);
        let script = release["worker"]["script_name"].as_str();
        let stage = data.get("stage").and_then(Value::as_u64);
        let stages = release["stages"].as_array().map_or(0, Vec::len);
        let percent = stage
            .and_then(|stage| usize::try_from(stage).ok()?.checked_sub(1))
            .and_then(|i| release["stages"][i]["percent"].as_f64());
        let of_stage = match (stage, percent) {
            (Some(stage), Some(percent)) => {
                format!("stage {stage} of {stages} ({} %)", plain(percent))
            }
            (Some(stage), None) => format!("stage {stage}"),
            (None, _) => "a stage".to_owned(),
        };
        let reminder = data.get("reminder") == Some(&json!(true));
        let happened = match kind {
            "release.started" => "release started".to_owned(),
            "stage.started" => format!("{of_stage} is live"),
            "stage.passed" => format!("{of_stage} passed"),
            "approval.requested" if reminder => format!("still waiting: approve {of_stage}?"),
            "approval.requested" => format!("approve {of_stage}?"),
            "approval.granted" => format!("{of_stage} was approved"),
            "approval.denied" => format!("{of_stage} was denied"),
            "slo.violated" => "an SLO is violated".to_owned(),
            "slo.no_data" => "an SLO lacks data".to_owned(),
            "release.paused" => "release paused".to_owned(),
            "release.resumed" => "release resumed".to_owned(),
            "release.reverting" => "going back to the old version".to_owned(),
            "release.reverted" => "back on the old version".to_owned(),
            "release.succeeded" => "all traffic is on the new version".to_owned(),
            "release.superseded" => "HMD lets go: superseded".to_owned(),
            "release.cancelled" => "release cancelled".to_owned(),
            "alert.raised" => "a person is needed".to_owned(),
            "webhook.test" => "a test message: it works".to_owned(),
            other => other.to_owned(),
        };
        let mood = Mood::of(kind);
        let subject = script.unwrap_or("HMD");
        let title = cut(&format!("{} {subject}: {happened}", mood.sign()), MAX_TITLE);
        let mut facts = Vec::new();
        let mut fact = |name, value: Option<&str>| {
            facts.extend(value.map(|value| (name, cut(value, 200))));
        };
        fact("New version", release["new_version"].as_str());
        fact("Old version", release["old_version"].as_str());
        let actor = text("actor").filter(|actor| actor != "hmd");
        fact("By", actor.as_deref());
        fact("Note", release["note"].as_str());
        fact("Release", release["id"].as_str());
        let decide = text("approve_url")
            .zip(text("deny_url"))
            .map(|(approve, deny)| (approve, deny, text("links_expire_at")));
        let url = release["url"].as_str().map(str::to_owned);
        let is_web = |url: &String| url.starts_with("https://") || url.starts_with("http://");
        Self {
            title,
            text: cut(&text("detail").unwrap_or_default(), MAX_TEXT),
            facts,
            url: url.filter(is_web),
            decide,
            mood,
        }
    }
}

/// A Slack message in blocks. The text stands in notifications and for screen readers.
pub(super) fn slack(told: &Told) -> Value {
    let mut blocks = vec![
        json!({"type": "header", "text": {"type": "plain_text", "text": told.title, "emoji": true}}),
    ];
    if !told.text.is_empty() {
        blocks.push(
            json!({"type": "section", "text": {"type": "mrkdwn", "text": slack_text(&told.text)}}),
        );
    }
    let mut facts: Vec<String> = told
        .facts
        .iter()
        .map(|(name, value)| format!("*{name}:* {}", slack_text(value)))
        .collect();
    facts.extend(told.url.as_ref().map(|url| slack_link(url, "Started by")));
    if !facts.is_empty() {
        let text = facts.join("  ·  ");
        blocks.push(
            json!({"type": "context", "elements": [{"type": "mrkdwn", "text": cut(&text, 1_900)}]}),
        );
    }
    if let Some((approve, deny, until)) = &told.decide {
        let button = |text: &str, url: &str, style: &str| json!({"type": "button", "text": {"type": "plain_text", "text": text}, "url": url, "style": style});
        blocks.push(json!({"type": "actions", "elements": [
            button("Approve…", approve, "primary"), button("Deny…", deny, "danger")]}));
        if let Some(until) = until {
            let text = format!("The links show what would happen first, and work until {until}.");
            blocks.push(json!({"type": "context", "elements": [{"type": "mrkdwn", "text": text}]}));
        }
    }
    json!({"text": told.title, "blocks": blocks})
}

/// A Discord message with an embed. Nobody is pinged by what a note may say.
pub(super) fn discord(told: &Told, timestamp: &str) -> Value {
    let mut description = discord_text(&told.text);
    if let Some((approve, deny, until)) = &told.decide {
        let until = until
            .as_ref()
            .map(|until| {
                format!("\nThe links show what would happen first, and work until {until}.")
            })
            .unwrap_or_default();
        description.extend([
            "

**[Approve…](",
            approve.as_str(),
            ")** · **[Deny…](",
            deny.as_str(),
            ")**",
            until.as_str(),
        ]);
    }
    let fields: Vec<Value> = told
        .facts
        .iter()
        .map(|(name, value)| json!({"name": name, "value": discord_text(value), "inline": value.len() <= 40}))
        .collect();
    let mut embed = json!({"title": told.title, "description": description.trim(), "color": told.mood.color(),
        "fields": fields, "timestamp": timestamp});
    if let Some(url) = &told.url {
        embed["url"] = json!(url);
    }
    json!({"username": "HMD", "embeds": [embed], "allowed_mentions": {"parse": []}})
}

/// What Slack would take for markup.
fn slack_text(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn slack_link(url: &str, text: &str) -> String {
    format!("<{}|{text}>", slack_text(url).replace('|', "%7C"))
}

/// What Discord would take for markup.
fn discord_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if "\\*_~`|>[]()#".contains(character) {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

/// At most so many bytes of a text, whole characters, with an ellipsis if something was cut.
pub(super) fn cut(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let end = (0..=bytes.saturating_sub(3))
        .rev()
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Map<String, Value> {
        let data = json!({"release": {"id": "rel_1", "worker": {"script_name": "shop"}, "new_version": "v2", "old_version": "v1",
                "note": "fix <!channel> & @everyone", "url": "https://ci.example/1|2",
                "stages": [{"percent": 10}, {"percent": 50}]},
            "stage": 2, "actor": "api:ann", "detail": "p99 is 300 ms > 250 ms", "approve_url": "https://h/approvals/a",
            "deny_url": "https://h/approvals/d", "links_expire_at": "2026-10-01T09:00:00.000Z"});
        data.as_object().unwrap().clone()
    }

    #[test]
    fn slack_gets_a_sentence_facts_and_buttons() {
        let message = slack(&Told::of("approval.requested", &data()));
        assert_eq!(message["text"], "✋ shop: approve stage 2 of 2 (50 %)?");
        let text = message.to_string();
        assert!(text.contains("p99 is 300 ms &gt; 250 ms"), "{text}");
        assert!(
            text.contains("fix &lt;!channel&gt; &amp; @everyone") && !text.contains("<!channel>")
        );
        assert!(text.contains("<https://ci.example/1%7C2|Started by>"));
        let buttons = message["blocks"]
            .as_array()
            .unwrap()
            .iter()
            .find(|block| block["type"] == "actions")
            .unwrap();
        assert_eq!(buttons["elements"][0]["url"], "https://h/approvals/a");
        assert_eq!(buttons["elements"][1]["url"], "https://h/approvals/d");
        for block in message["blocks"].as_array().unwrap() {
            assert!(block["text"]["text"].as_str().unwrap_or("").chars().count() <= 3_000);
        }
    }

    #[test]
    fn discord_gets_an_embed_with_links_and_pings_nobody() {
        let message = discord(
            &Told::of("approval.requested", &data()),
            "2026-10-01T09:00:00.000Z",
        );
        let embed = &message["embeds"][0];
        assert_eq!(embed["title"], "✋ shop: approve stage 2 of 2 (50 %)?");
        let description = embed["description"].as_str().unwrap();
        assert!(
            description.contains("[Approve…](https://h/approvals/a)"),
            "{description}"
        );
        assert!(description.contains("300 ms \\> 250 ms"), "{description}");
        assert_eq!(message["allowed_mentions"], json!({"parse": []}));
        assert_eq!(embed["url"], "https://ci.example/1|2");
    }

    #[test]
    fn each_type_has_words_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for kind in super::super::EVENT_TYPES {
            let told = Told::of(kind, &data());
            assert!(!told.title.contains(kind), "{}", told.title);
            assert!(seen.insert(told.title.clone()), "{}", told.title);
        }
        // What a newer HMD may tell is told by its name.
        assert!(
            Told::of("release.dreamt", &Map::new())
                .title
                .contains("release.dreamt")
        );
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(cut("short", 10), "short");
        assert_eq!(cut("ééééééé", 10), "ééé…");
        assert!(cut(&"é".repeat(900), 1_000).len() <= 1_000);
    }
}
