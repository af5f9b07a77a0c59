//! Sign-in by Cloudflare Access: what its signed assertion says of a person, and which key of the team must have signed it.
//! Pure: reading keys and checking a signature are ports.

mod assertion;
mod keys;

pub use assertion::{Assertion, Person, Rejection};
pub use keys::{KnownKeys, RsaKey, Step};

/// What every team's address ends with.
const DOMAIN: &str = ".cloudflareaccess.com";
/// Characters of an application's audience tag.
const AUDIENCE_LENGTH: std::ops::RangeInclusive<usize> = 16..=128;

/// The Access application that stands before the dashboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Team {
    /// `https://<team>.cloudflareaccess.com`: the only issuer that is believed.
    pub issuer: String,
    /// The application's audience tag.
    pub audience: String,
    /// Where the team's keys are.
    pub certs_url: String,
}

impl Team {
    /// Reads `ACCESS_TEAM_DOMAIN`, `ACCESS_AUD` and `ACCESS_CERTS_URL`; `None` if none of them is set.
    ///
    /// # Errors
    /// A sentence for each that is missing or wrong.
    pub fn read(
        domain: Option<&str>,
        audience: Option<&str>,
        certs_url: Option<&str>,
    ) -> Result<Option<Self>, Vec<String>> {
        let given = |text: Option<&str>| {
            let text = text.map(|text| text.trim().trim_end_matches('/'));
            text.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let (domain, audience) = match (given(domain), given(audience)) {
            (None, None) => return Ok(None),
            (Some(domain), Some(audience)) => (domain, audience),
            (Some(_), None) => {
                let missing = "ACCESS_AUD is missing: set it to the Application Audience (AUD) tag of the Access application, or take ACCESS_TEAM_DOMAIN away";
                return Err(vec![missing.to_owned()]);
            }
            (None, Some(_)) => {
                let missing = "ACCESS_TEAM_DOMAIN is missing: set it to <team>.cloudflareaccess.com, or take ACCESS_AUD away";
                return Err(vec![missing.to_owned()]);
            }
        };
        let mut errors = Vec::new();
        let host = domain.strip_prefix("https://").unwrap_or(&domain);
        let name = host.strip_suffix(DOMAIN).unwrap_or_default();
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if name.is_empty() || !name.bytes().all(is_name) {
            errors.push("ACCESS_TEAM_DOMAIN must be like <team>.cloudflareaccess.com".to_owned());
        }
        let is_tag = AUDIENCE_LENGTH.contains(&audience.len())
            && audience.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_tag {
            errors.push("ACCESS_AUD must be the Application Audience (AUD) tag of the Access application: letters and digits".to_owned());
        }
        let issuer = format!("https://{}", host.to_ascii_lowercase());
        let certs_url = given(certs_url);
        let loopback = ["http://127.0.0.1:", "http://localhost:"];
        let is_local = |url: &String| loopback.iter().any(|start| url.starts_with(start));
        if !certs_url.as_ref().is_none_or(is_local) {
            errors.push("ACCESS_CERTS_URL is for trying things out on this machine only: it must begin with http://127.0.0.1:, or be empty".to_owned());
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Some(Self {
            certs_url: certs_url.unwrap_or_else(|| format!("{issuer}/cdn-cgi/access/certs")),
            issuer,
            audience,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUD: &str = "32eafc7626e737969ad374e3b123abc0";

    #[test]
    fn both_variables_or_neither() {
        assert_eq!(Team::read(None, Some(""), None), Ok(None));
        let team = Team::read(Some("https://Team.cloudflareaccess.com/"), Some(AUD), None);
        let team = team.unwrap().unwrap();
        assert_eq!(team.issuer, "https://team.cloudflareaccess.com");
        assert_eq!(
            team.certs_url,
            "https://team.cloudflareaccess.com/cdn-cgi/access/certs"
        );
        for (domain, audience, certs, named) in [
            (Some("team.cloudflareaccess.com"), None, None, "ACCESS_AUD"),
            (None, Some(AUD), None, "ACCESS_TEAM_DOMAIN"),
            (
                Some("team.example.com"),
                Some(AUD),
                None,
                "ACCESS_TEAM_DOMAIN",
            ),
            (
                Some(".cloudflareaccess.com"),
                Some(AUD),
                None,
                "ACCESS_TEAM_DOMAIN",
            ),
            (
                Some("evil.example/x.cloudflareaccess.com"),
                Some(AUD),
                None,
                "ACCESS_TEAM_DOMAIN",
            ),
            (
                Some("http://team.cloudflareaccess.com"),
                Some(AUD),
                None,
                "ACCESS_TEAM_DOMAIN",
            ),
            (
                Some("team.cloudflareaccess.com"),
                Some("two, tags"),
                None,
                "ACCESS_AUD",
            ),
            (
                Some("team.cloudflareaccess.com"),
                Some(AUD),
                Some("https://evil.example/certs"),
                "ACCESS_CERTS_URL",
            ),
        ] {
            let errors = Team::read(domain, audience, certs).unwrap_err();
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(errors[0].starts_with(named), "{errors:?}");
        }
    }
}
