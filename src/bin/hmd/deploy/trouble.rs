//! What a failed wrangler command means, and what a person can do about it. Pure.

use super::wrangler::Refusal;
use crate::failure::Failure;

/// What the command was about: it decides which permission was missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// Who we are.
    Account,
    /// The D1 database.
    Database,
    /// Queues and their consumers.
    Queues,
    /// The Worker itself.
    Worker,
}

impl Area {
    /// The permission that a token needs for it.
    fn permission(self) -> &'static str {
        match self {
            Self::Account => "Account Settings Read and User Memberships Read",
            Self::Database => "D1 Write",
            Self::Queues => "Queues Write",
            Self::Worker => "Workers Scripts Write",
        }
    }
}

/// All that wrangler's own token needs.
pub const WRANGLER_PERMISSIONS: &str = "Workers Scripts Write, D1 Write, Queues Write and, unless CLOUDFLARE_ACCOUNT_ID is set, Account Settings Read and User Memberships Read";

/// A failure that says what went wrong in `doing`, and what to do.
pub fn explain(doing: &str, area: Area, refusal: &Refusal) -> Failure {
    let text = refusal.text.to_lowercase();
    let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    // An upload sets the queues' consumers, too, and their permission is another.
    let area = if says(&["queue consumers", "/queues"]) {
        Area::Queues
    } else {
        area
    };
    let codes = |codes: &[i64]| refusal.code.is_some_and(|code| codes.contains(&code));
    let (why, hint) = if is_not_logged_in(refusal) {
        (
            "wrangler is not logged in to Cloudflare",
            format!(
                "run `npx wrangler login`, or set CLOUDFLARE_API_TOKEN to a token with {WRANGLER_PERMISSIONS} (wrangler's own: HMD's Worker gets another)"
            ),
        )
    } else if says(&["more than one account"]) {
        (
            "the login reaches several accounts",
            "set CLOUDFLARE_ACCOUNT_ID to the account that HMD shall live in".to_owned(),
        )
    } else if says(&["workers.dev subdomain", "workers/onboarding"]) || codes(&[10063]) {
        (
            "the account has no workers.dev subdomain yet",
            "open Workers & Pages in the Cloudflare dashboard once and choose one (wrangler's words above hold the link), or route a domain of your own to the Worker in wrangler.toml, with workers_dev = false, and give --url".to_owned(),
        )
    } else if says(&[
        "paid plan",
        "workers paid",
        "free plan",
        "free tier",
        "upgrade",
    ]) {
        (
            "the account's plan does not include it",
            "HMD needs the Workers Paid plan: switch it on under Workers & Pages, Plans, in the Cloudflare dashboard; the README says why".to_owned(),
        )
    } else if codes(&[429, 10429, 971]) || says(&["rate limit", "too many requests"]) {
        (
            "Cloudflare limits the rate of calls",
            "wait five minutes".to_owned(),
        )
    } else if codes(&[10000, 10001, 9109, 9103])
        || says(&[
            "authentication error",
            "not authorized",
            "unauthorized",
            "permission",
        ])
    {
        (
            "wrangler's token lacks a permission",
            format!(
                "give it {} on this account (all that it needs: {WRANGLER_PERMISSIONS}); a token is edited under My Profile, API Tokens",
                area.permission()
            ),
        )
    } else if says(&[
        "fetch failed",
        "enotfound",
        "econnrefused",
        "etimedout",
        "eai_again",
    ]) {
        (
            "Cloudflare can't be reached",
            "check the network (and a proxy, if there is one)".to_owned(),
        )
    } else {
        ("wrangler failed", "its own words are above".to_owned())
    };
    let hint = format!("{hint}. Then run the same command again: what is done stays done");
    Failure::new(format!("{doing} failed: {why}"), hint).with_output(refusal.last_lines())
}

/// Whether nobody is logged in, in the words of any command.
fn is_not_logged_in(refusal: &Refusal) -> bool {
    let said = &refusal.text;
    said.contains("\"loggedIn\":false")
        || said.contains("\"loggedIn\": false")
        || said.contains("necessary to set a CLOUDFLARE_API_TOKEN")
        || said.contains("not authenticated")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(area: Area, code: Option<i64>, text: &str) -> String {
        let refusal = Refusal {
            code,
            text: text.to_owned(),
        };
        let failure = explain("making the queue hmd-dead", area, &refusal);
        format!("{failure} / {}", failure.hint())
    }

    #[test]
    fn each_known_trouble_says_what_to_do() {
        let cases = [
            (
                Area::Account,
                None,
                "{\"loggedIn\":false}",
                "npx wrangler login",
            ),
            (
                Area::Queues,
                Some(10000),
                "Authentication error [code: 10000]",
                "give it Queues Write",
            ),
            (
                Area::Database,
                Some(10000),
                "Authentication error",
                "give it D1 Write",
            ),
            (
                Area::Worker,
                Some(9109),
                "Unauthorized to access requested resource",
                "give it Workers Scripts Write",
            ),
            (
                Area::Worker,
                None,
                "Queue consumers:\n - Authentication error",
                "give it Queues Write",
            ),
            (
                Area::Queues,
                Some(100_129),
                "Queues requires the Workers Paid plan",
                "needs the Workers Paid plan",
            ),
            (
                Area::Worker,
                Some(10063),
                "You need to register a workers.dev subdomain",
                "has no workers.dev subdomain",
            ),
            (
                Area::Account,
                None,
                "More than one account available",
                "CLOUDFLARE_ACCOUNT_ID",
            ),
            (Area::Queues, Some(971), "limits", "wait five minutes"),
            (
                Area::Worker,
                None,
                "TypeError: fetch failed",
                "can't be reached",
            ),
            (Area::Worker, None, "something new", "wrangler failed"),
        ];
        for (area, code, text, expected) in cases {
            let said = explained(area, code, text);
            assert!(said.contains(expected), "{text:?} is explained as {said:?}");
            assert!(said.contains("run the same command again"), "{said}");
        }
    }
}
